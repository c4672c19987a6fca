"""Key sets: what Envoy would refuse is left out, and the one that accepts nothing belongs to
nobody.
"""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from meshes import edge

from dockermesh.translate.security.jwt import jwt_authentication, wanted_keys
from dockermesh.translate.security.key_sets import REJECTING_KEYS, usable_keys

RSA = {
    "kty": "RSA",
    "kid": "a",
    "n": base64.urlsafe_b64encode(b"\xff" * 256).decode(),
    "e": "AQAB",
}
EC = json.loads(REJECTING_KEYS)["keys"][0]


def test_the_rejecting_key_is_a_point_that_nobody_chose() -> None:
    digest = hashlib.sha256(b"dockermesh: the key that nobody has 0").digest()
    assert base64.urlsafe_b64decode(EC["x"] + "=") == digest
    assert usable_keys(REJECTING_KEYS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        '{"keys": {}}',
        '{"keys": []}',
        '{"keys": [1, null, {}]}',
        json.dumps(RSA | {"n": "AQAB"}),
        json.dumps(RSA | {"e": "!"}),
        json.dumps(RSA | {"kid": 1}),
        json.dumps(EC | {"y": EC["x"]}),
        json.dumps(EC | {"crv": "P-0"}),
        '{"kty": "oct", "k": ""}',
        '{"kty": "OKP", "crv": "Ed25519", "x": "AQAB"}',
    ],
)
def test_a_set_without_a_usable_key_is_none(text: str) -> None:
    assert usable_keys(text) == ""


def test_usable_keys_are_kept_without_what_is_private() -> None:
    kept = json.loads(
        usable_keys(
            json.dumps({"keys": [RSA | {"d": "AQAB", "p": "AQAB"}, {"kty": "x"}]})
        )
    )
    assert kept == {"keys": [RSA]}
    assert json.loads(usable_keys(json.dumps(RSA))) == {"keys": [RSA]}


def test_keys_are_wanted_from_their_url_or_from_their_issuer_and_nothing_is_valid_before() -> (
    None
):
    policies = edge("""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens}
spec:
  jwtRules:
  - {issuer: a, jwksUri: "https://a.example/keys", timeout: 2s}
  - {issuer: "https://b.example/"}
  - {issuer: "b@example.com"}
""").request_authentications
    assert wanted_keys(policies) == {
        "https://a.example/keys": 2.0,
        "https://b.example/.well-known/openid-configuration": 5.0,
    }
    made = jwt_authentication(
        policies[0].spec.jwt_rules,
        {"https://a.example/keys": json.dumps(RSA)},
        is_gateway=False,
    )
    keys = {
        provider.issuer: provider.local_jwks.inline_string
        for provider in made.providers.values()
    }
    assert json.loads(keys["a"]) == {"keys": [RSA]}
    assert keys["https://b.example/"] == keys["b@example.com"] == REJECTING_KEYS
