"""From which resource a route or a cluster comes, noted where Istio's tools look for it.

Source: Istio's `pilot/pkg/networking/util`: `metadata.filter_metadata.istio.config` is the
resource's path in the API,
`/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews`, whatever version it was
written in.
"""

from __future__ import annotations

import re
from typing import Any

from dockermesh.config.resource import Resource

_API = "/apis/networking.istio.io/v1"
_INNER_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


def origin(resource: Resource[Any]) -> str:
    """The path by which Istio refers to a resource in metadata."""
    kind = _INNER_CAPITAL.sub("-", resource.kind).lower()
    return f"{_API}/namespaces/{resource.namespace}/{kind}/{resource.name}"


def note_origin(message: Any, resource: Resource[Any]) -> None:
    """Note in a route's or a cluster's metadata where it comes from."""
    message.metadata.filter_metadata["istio"].fields["config"].string_value = origin(
        resource
    )
