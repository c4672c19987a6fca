"""What the filter that checks tokens is called, and where it leaves the payload of a valid one."""

from __future__ import annotations

JWT_FILTER = "envoy.filters.http.jwt_authn"
JWT_PAYLOAD = "payload"
