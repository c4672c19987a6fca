"""Rules of RequestAuthentication."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

from dockermesh.config.api.request_authentication import JWTRule, RequestAuthentication
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.headers import check_strict_name
from dockermesh.config.rules.scope import check_label_selector, check_targets, report

_KEY_FIELDS = {
    "RSA": ("n", "e"),
    "EC": ("crv", "x", "y"),
    "OKP": ("crv", "x"),
    "oct": ("k",),
}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+=*")


def check_request_authentication(
    resource: Resource[RequestAuthentication], at: Cursor
) -> None:
    """All rules of a RequestAuthentication."""
    spec = resource.spec
    check_label_selector(spec.selector, at / "selector")
    check_targets(spec.target_ref, spec.target_refs, at)
    for index, rule in enumerate(spec.jwt_rules):
        _check_rule(rule, at / "jwtRules" / index)


def _check_rule(rule: JWTRule, at: Cursor) -> None:
    if not rule.issuer and not rule.jwks_uri:
        (at / "issuer").error("issuer or jwksUri must be set")
    if rule.jwks_uri and rule.jwks:
        (at / "jwks").error("only one of jwks and jwksUri may be set")
    if rule.jwks_uri:
        report(at / "jwksUri", check_http_url(rule.jwks_uri))
    if rule.jwks:
        _check_keys(rule.jwks, at / "jwks")
    if rule.output_payload_to_header:
        report(
            at / "outputPayloadToHeader",
            # Unlike other headers, it may have underscores.
            check_strict_name(rule.output_payload_to_header.replace("_", "-")),
        )

    for index, claim in enumerate(rule.output_claim_to_headers):
        place = at / "outputClaimToHeaders" / index
        if not claim.claim:
            (place / "claim").error("must not be empty")
        report(place / "header", check_strict_name(claim.header))


def check_http_url(url: str) -> str:
    """An absolute URL of HTTP or HTTPS."""
    try:
        parts = urlsplit(url)
        # Only asking for it finds out that it is no number.
        port_is_valid = parts.port is None or parts.port >= 0
    except ValueError as error:
        return f"{url[:80]!r} is not a URL: {error}"
    if parts.scheme not in ("http", "https"):
        return f"URI scheme {parts.scheme!r} is not supported, use http or https"
    return (
        ""
        if parts.hostname and port_is_valid and not re.search(r"[\s\x00-\x1f]", url)
        else f"{url[:80]!r} has no host"
    )


def _check_keys(text: str, at: Cursor) -> None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        at.error("is not a JSON Web Key Set: no valid JSON")
        return

    keys = (
        document.get("keys")
        if isinstance(document, dict) and "keys" in document
        else [document]
    )
    if not isinstance(keys, list):
        at.error("is not a JSON Web Key Set: keys must be a list")
        return

    for index, key in enumerate(keys):
        wrong = _check_key(key)
        if wrong:
            at.error(f"key {index} {wrong}")
        # `d` is the private exponent; symmetric keys have one part only.
        elif key["kty"] != "oct" and "d" in key:
            at.warn(
                f"key {index} is a private key; only public keys are needed, and everybody can read"
                " this one"
            )


def _check_key(key: Any) -> str:
    if not isinstance(key, dict) or not isinstance(key.get("kty"), str):
        return "has no key type (kty)"
    needed = _KEY_FIELDS.get(key["kty"])
    if needed is None:
        return f"has the unknown key type {key['kty'][:20]!r}"
    for name in needed:
        value = key.get(name)
        if not isinstance(value, str) or not _BASE64URL.fullmatch(value):
            return f"of type {key['kty']} has no valid {name!r}"
    return ""
