"""A real Envoy as gateway: what it makes of paths, of headers that clients invent, and of
claims.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from policy_rig import Envoy, ask, gateway_on, gateway_parts, serve, service
from ports import free_ports
from tokens import Issuer, bearer

pytestmark = pytest.mark.binary
ISSUER = Issuer("me")
ROUTES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: front}}
spec:
  hosts: ["*"]
  gateways: [edge]
  http:
  - match: [{{headers: {{"@request.auth.claims.sub": {{exact: bob}}}}}}]
    route: [{{destination: {{host: app}}, headers: {{request: {{set: {{x-route: bob}}}}}}}}]
  - match: [{{headers: {{"@request.auth.claims[roles]": {{exact: admin}}}}}}]
    route: [{{destination: {{host: app}}, headers: {{request: {{set: {{x-route: admin}}}}}}}}]
  - route: [{{destination: {{host: app}}, headers: {{request: {{set: {{x-route: any}}}}}}}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens}}
spec: {{jwtRules: [{{issuer: me, jwks: '{jwks}', forwardOriginalToken: true}}]}}
---
kind: MeshConfig
spec: {mesh}
"""
MODES = ("NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES")
TRUSTING = (
    "{defaultConfig: {gatewayTopology: {numTrustedProxies: 2, forwardClientCertDetails:"
    " ALWAYS_FORWARD_ONLY}}}"
)


VIP_ONLY = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: vip}
spec:
  action: DENY
  rules:
  - from: [{source: {notRemoteIpBlocks: [9.9.9.9]}}]
    to: [{operation: {paths: [/vip]}}]
"""
BRIDGE = "127.0.0.9"
"""The host's own address on the network of a gateway."""
PATHS = ("x-original-host", "X-Original-URL", "x-rewrite-url")
"""What frameworks take for the path, or the host, itself."""
OF_PROXIES = (
    "forwarded",
    "front-end-https",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-forwarded-by",
    "X-Forwarded-Host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-forwarded-client-certs",
    "x-original-host",
    "X-Original-URL",
    "x-real-ip",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
)


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, int]]:
    """Gateways by the path normalisation of their mesh, one that has proxies before it, and all in
    one process.
    """
    app = service("app", serve())
    meshes = {
        mode: f"{{pathNormalization: {{normalization: {mode}}}}}" for mode in MODES
    } | {"behind": TRUSTING, "beside": "{}", "told": TRUSTING}
    found = dict(zip(meshes, free_ports(len(meshes)), strict=True))
    configs = [
        gateway_on(found[name]) + ROUTES.format(jwks=ISSUER.jwks, mesh=mesh)
        for name, mesh in meshes.items()
    ]
    folder: Path = tmp_path_factory.mktemp("edge")
    has_bridge = {"beside", "told"}
    parts = [
        gateway_parts(
            f"{config}{VIP_ONLY}",
            [app],
            bridges=(BRIDGE,) if name in has_bridge else (),
        )
        for name, config in zip(meshes, configs, strict=True)
    ]
    envoy = Envoy(folder, parts, found.values())
    yield found
    envoy.stop()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/../b", ("/a/../b", "/b", "/b", "/b")),
        ("/a//b", ("/a//b", "/a//b", "/a/b", "/a/b")),
        ("/a\\b", ("/a\\b", "/a/b", "/a/b", "/a/b")),
        ("/%61/%2E%2e/b", ("/%61/%2E%2e/b", "/b", "/b", "/b")),
        ("/a%2fb%5Cc", ("/a%2fb%5Cc", "/a%2fb%5Cc", "/a%2fb%5Cc", "/a/b/c")),
        ("/a%2f..%2f/b", ("/a%2f..%2f/b", "/a%2f..%2f/b", "/a%2f..%2f/b", "/b")),
        ("/a;b=c/%20?q=/../d", ("/a;b=c/%20?q=/../d",) * 4),
    ],
)
def test_paths_are_normalised_as_the_mesh_says(
    ports: Mapping[str, int], path: str, expected: tuple[str, ...]
) -> None:
    seen = tuple(ask(ports[mode], path).seen.get("path") for mode in MODES)
    assert seen == expected


def test_a_path_with_a_fragment_or_a_zero_byte_is_refused(
    ports: Mapping[str, int],
) -> None:
    assert ask(ports["BASE"], "/a#/../b").status == 400
    assert ask(ports["BASE"], "/a%00b").status == 400


def test_headers_that_proxies_believe_do_not_come_from_clients(
    ports: Mapping[str, int],
) -> None:
    invented = [
        ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/front"),
        ("x-forwarded-for", "6.6.6.6"),
        ("X-Real-IP", "6.6.6.6"),
        ("X-Envoy-Internal", "true"),
        ("x-envoy-original-path", "/admin"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-attempt-count", "7"),
        ("x-forwarded-proto", "https"),
        ("end_user", "ann"),
        *((name, "evil.example") for name in OF_PROXIES),
    ]
    seen = ask(ports["BASE"], "/", invented)
    assert seen.status == 200
    for name in (
        "x-forwarded-client-cert",
        "x-envoy-internal",
        "x-envoy-original-path",
        "end_user",
        *OF_PROXIES,
    ):
        assert seen.header(name) is None, name
    assert "6.6.6.6" not in str(seen.seen)
    assert "evil.example" not in str(seen.seen)
    assert (seen.header("x-forwarded-proto"), seen.header("x-envoy-attempt-count")) == (
        "http",
        "1",
    )


def test_a_gateway_behind_proxies_believes_as_many_as_it_is_told(
    ports: Mapping[str, int],
) -> None:
    certificate = ("x-forwarded-client-cert", "By=the-proxy")
    seen = ask(
        ports["behind"],
        "/",
        [
            ("x-forwarded-for", "9.9.9.9, 6.6.6.6, 7.7.7.7"),
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-proto", "https"),
            ("x-envoy-original-path", "/admin"),
            certificate,
        ],
    )
    assert [
        seen.header(f"x-forwarded-{what}") for what in ("host", "port", "proto")
    ] == ["shop.example", "443", "https"]
    assert seen.header("x-envoy-original-path") is None
    assert seen.header("x-envoy-external-address") == "6.6.6.6"
    assert seen.header("x-forwarded-client-cert") == "By=the-proxy"


def test_a_proxy_on_the_host_tells_apps_of_its_client(
    ports: Mapping[str, int],
) -> None:
    said = [
        ("x-forwarded-for", "9.9.9.9"),
        ("x-forwarded-proto", "https"),
        ("x-envoy-original-path", "/admin"),
        *((name, "shop.example") for name in OF_PROXIES),
    ]
    seen = ask(ports["beside"], "/", said, source=BRIDGE)
    assert seen.header("x-forwarded-proto") == "https"
    assert seen.header("x-forwarded-for") == f"9.9.9.9,{BRIDGE}"
    for name in map(str.lower, OF_PROXIES):
        is_path = name in map(str.lower, PATHS)
        assert seen.header(name) == (None if is_path else "shop.example"), name
    assert seen.header("x-envoy-original-path") is None
    assert (
        ask(ports["beside"], "/", source=BRIDGE).header("x-forwarded-proto") == "http"
    )


def test_nobody_else_does(ports: Mapping[str, int]) -> None:
    said = [("x-forwarded-proto", "https"), ("x-real-ip", "9.9.9.9")]
    seen = ask(ports["beside"], "/", said)
    assert seen.header("x-forwarded-proto") == "http"
    assert seen.header("x-real-ip") is None


@pytest.mark.parametrize("forwarded", ["9.9.9.9", "9.9.9.9, 9.9.9.9", "9.9.9.9, x,"])
def test_policies_do_not_believe_what_a_proxy_on_the_host_says(
    ports: Mapping[str, int], forwarded: str
) -> None:
    said = [("x-forwarded-for", forwarded), ("x-real-ip", "9.9.9.9")]
    assert ask(ports["beside"], "/vip", said, source=BRIDGE).status == 403
    assert ask(ports["beside"], "/vip", [*said, *said], source=BRIDGE).status == 403
    assert ask(ports["beside"], "/vip", said).status == 403


def test_they_believe_as_many_proxies_as_the_mesh_names(
    ports: Mapping[str, int],
) -> None:
    said = [("x-forwarded-for", "6.6.6.6, 9.9.9.9, 7.7.7.7")]
    assert ask(ports["told"], "/vip", said, source=BRIDGE).status == 200
    said = [("x-forwarded-for", "9.9.9.9, 6.6.6.6, 7.7.7.7")]
    assert ask(ports["told"], "/vip", said, source=BRIDGE).status == 403


def test_routes_follow_the_claims_of_valid_tokens_alone(
    ports: Mapping[str, int],
) -> None:
    def route(*headers: tuple[str, str]) -> str | None:
        return ask(ports["BASE"], "/", headers).header("x-route")

    assert route(bearer(ISSUER.token(sub="bob"))) == "bob"
    assert route(bearer(ISSUER.token(roles=["user", "admin"]))) == "admin"
    assert route(bearer(ISSUER.token())) == "any"
    assert route() == "any"
    assert route(("@request.auth.claims.sub", "bob")) is None
    assert (
        ask(ports["BASE"], "/", [bearer(Issuer("me").token(sub="bob"))]).status == 401
    )
