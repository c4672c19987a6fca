"""JSON Web Key Sets in the form that Envoy takes, and the one that accepts no token.

Invariant: Envoy refuses a whole listener for a key set without a usable key, so it is never given
one.

Source: RFC 7517 and 7518; Envoy's jwt_verify_lib for what it can use (RSA, EC, oct, OKP).
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

_X = "9cyb5-l6R_26moVemtGQOQy98Xz40ikgGz1QMm_oCX8"
_Y = "OH85VRS0Z5Wc3UuykhwNlBuc89teuRMAGertQkPSrS0"
REJECTING_KEYS = json.dumps(
    {
        "keys": [
            {
                "kty": "EC",
                "crv": "P-256",
                "alg": "ES256",
                "kid": "dockermesh-rejects",
                "x": _X,
                "y": _Y,
            }
        ]
    },
    separators=(",", ":"),
)
"""No token is valid: nobody has the private key, for x is SHA-256 of "dockermesh: the key that
nobody has 0".
"""

_CURVES = {
    "P-256": (
        2**256 - 2**224 + 2**192 + 2**96 - 1,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    ),
    "P-384": (
        2**384 - 2**128 - 2**96 + 2**32 - 1,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    ),
    "P-521": (
        2**521 - 1,
        0x051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
    ),
}
"""Prime and b of the curves y² = x³ - 3x + b. Source: FIPS 186-4, appendix D."""


def usable_keys(text: str) -> str:
    """The keys that Envoy can use, as a key set; empty if there are none.

    A single key stands for a set of one. Private and secret parts of public-key pairs are left out.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return ""

    is_set = isinstance(document, dict) and "keys" in document
    keys = document.get("keys") if is_set else [document]
    if not isinstance(keys, list):
        return ""

    found = [_public(key) for key in keys if isinstance(key, dict) and _is_usable(key)]
    if not found:
        return ""
    # In one form: an issuer that writes the same keys in another order of fields changes nothing.
    return json.dumps({"keys": found}, separators=(",", ":"), sort_keys=True)


def _public(key: dict[str, Any]) -> dict[str, Any]:
    # The set stands in the listener of every proxy that the policy selects, for all to read.
    private = {"d", "p", "q", "dp", "dq", "qi", "oth"}
    return {name: value for name, value in key.items() if name not in private}


def _is_usable(key: dict[str, Any]) -> bool:
    if any(not isinstance(key.get(name, ""), str) for name in ("kid", "alg")):
        return False
    kind, curve = key.get("kty"), key.get("crv")
    if kind == "RSA":
        return _number(key.get("n")).bit_length() >= 1024 and _number(key.get("e")) > 1

    if kind == "EC" and curve in _CURVES:
        return _is_on_curve(key, *_CURVES[curve])
    if kind == "OKP":
        return curve == "Ed25519" and len(_octets(key.get("x"))) == 32
    return kind == "oct" and bool(_octets(key.get("k")))


def _is_on_curve(key: dict[str, Any], prime: int, b: int) -> bool:
    x, y = _number(key.get("x")), _number(key.get("y"))
    is_in_field = 0 < x < prime and 0 < y < prime
    return is_in_field and (y * y - (x * x * x - 3 * x + b)) % prime == 0


def _number(value: Any) -> int:
    return int.from_bytes(_octets(value), "big")


def _octets(value: Any) -> bytes:
    if not isinstance(value, str):
        return b""
    # RFC 7515 has base64url without padding; with padding it is taken, too.
    try:
        return base64.b64decode(
            value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4),
            altchars=b"-_",
            validate=True,
        )
    except (ValueError, binascii.Error):
        return b""
