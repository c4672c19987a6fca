"""A real Envoy enforces policies on a sidecar's inbound side: who, what, which token, and what
others say.
"""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from envoy.service.auth.v3 import external_auth_pb2
from policy_rig import (
    Answer,
    App,
    Certificates,
    Envoy,
    ask,
    exchange,
    serve,
    service,
    sidecar_parts,
)
from ports import free_ports
from tokens import Issuer, bearer

from dockermesh.model import Protocol

pytestmark = pytest.mark.binary
ISSUER, STRANGER, PARTNER = Issuer("me"), Issuer("me"), Issuer("partner")

CONFIG = """
kind: MeshConfig
extensionProviders:
- {{name: by-grpc, envoyExtAuthzGrpc: {{service: by-grpc.service.consul, port: 80, timeout: 20s}}}}
- name: by-http
  envoyExtAuthzHttp:
    service: by-http.service.consul
    port: 80
    timeout: 20s
    pathPrefix: /check
    includeRequestHeadersInCheck: [x-user]
    headersToUpstreamOnAllow: [x-checked]
    headersToDownstreamOnDeny: [x-why]
- {{name: away, envoyExtAuthzHttp: {{service: away.service.consul, port: 80, timeout: 20s, statusOnError: "503"}}}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: shop}}
spec:
  jwtRules:
  - issuer: me
    audiences: [shop]
    jwks: '{jwks}'
    outputClaimToHeaders: [{{header: x-subject, claim: sub}}]
  - {{issuer: partner, fromHeaders: [{{name: x-partner}}], jwks: '{partner}'}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: deny, namespace: shop}}
spec:
  action: DENY
  rules:
  - to:
    - operation: {{paths: ["/admin*"], ports: ["{http}"]}}
    - operation: {{hosts: [admin.example], ports: ["{http}"]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: would-deny, namespace: shop, annotations: {{istio.io/dry-run: "true"}}}}
spec: {{action: DENY, rules: [{{}}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: allow, namespace: shop}}
spec:
  rules:
  - to: [{{operation: {{paths: ["/open*", "/grpc*", "/http*", "/away*", "/unknown*"]}}}}]
  - from: [{{source: {{namespaces: [shop]}}}}]
    to: [{{operation: {{methods: [GET], paths: [/members]}}}}]
  - from: [{{source: {{principals: [cluster.local/ns/shop/sa/front]}}}}]
    to: [{{operation: {{paths: [/front]}}}}]
  - from: [{{source: {{requestPrincipals: ["me/*"]}}}}]
    to: [{{operation: {{paths: [/users]}}}}]
  - to: [{{operation: {{paths: [/chiefs]}}}}]
    when: [{{key: "request.auth.claims[roles]", values: [admin]}}]
  - from: [{{source: {{namespaces: [shop]}}}}]
    to: [{{operation: {{ports: ["{tcp}"]}}}}]
"""
ASKING = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: ask-{authorizer}, namespace: shop}}
spec:
  action: CUSTOM
  provider: {{name: {authorizer}}}
  rules: [{{to: [{{operation: {{paths: ["{path}*"], ports: ["{http}"]}}}}]}}]
"""
PATHS = {"by-grpc": "/grpc", "by-http": "/http", "away": "/away", "unknown": "/unknown"}


class Judge(App):
    """Lets ann through, and says why it lets nobody else."""

    def do_GET(self) -> None:
        is_ann = self.headers.get("x-user") == "ann" and self.path.startswith(
            "/check/http"
        )
        self.send_response(200 if is_ann else 418)
        self.send_header(
            "x-checked" if is_ann else "x-why",
            f"{self.path} by {self.headers.get('x-user')}",
        )
        self.send_header("content-length", "0")
        self.end_headers()


def judge_by_grpc() -> tuple[grpc.Server, int]:
    """An authorizer that lets requests through whose header says so."""

    def check(request: Any, _context: Any) -> Any:
        headers = request.attributes.request.http.headers
        answer = external_auth_pb2.CheckResponse()
        if headers.get("x-user") == "ann":
            answer.ok_response.headers.add().header.key = "x-checked"
            answer.ok_response.headers[0].header.value = "by grpc"
        else:
            answer.status.code = grpc.StatusCode.PERMISSION_DENIED.value[0]
            answer.denied_response.status.code = 401
            answer.denied_response.body = "not ann"
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        check,
        request_deserializer=external_auth_pb2.CheckRequest.FromString,
        response_serializer=external_auth_pb2.CheckResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    handlers = grpc.method_handlers_generic_handler(
        "envoy.service.auth.v3.Authorization", {"Check": handler}
    )
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


class Repeater(socketserver.BaseRequestHandler):
    """Sends back what it gets, once."""

    def handle(self) -> None:
        self.request.sendall(self.request.recv(1024))


@dataclass(frozen=True)
class Rig:
    """Where the sidecar listens, and who may connect to it."""

    http: int
    tcp: int
    others: dict[str, int]
    certificates: Certificates

    def ask(
        self,
        path: str,
        *headers: tuple[str, str],
        peer: str = "",
        workload: str = "",
        **more: Any,
    ) -> Answer:
        """A request, in the name of `namespace/account` if that is given. `workload` is one of the
        others.
        """
        tls = self.certificates.peer(*peer.split("/")) if peer else None
        port = self.others[workload] if workload else self.http
        return ask(port, path, headers, tls=tls, **more)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("policies")
    http, tcp, away, *free = free_ports(7)
    repeater = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Repeater)
    repeater.daemon_threads = True
    threading.Thread(target=repeater.serve_forever, daemon=True).start()
    judge, by_grpc = judge_by_grpc()
    services = [
        service("by-grpc", by_grpc, protocol=Protocol.GRPC),
        service("by-http", serve(Judge)),
        service("away", away),
    ]
    certificates = Certificates(folder)
    app = ("http", serve())

    def told(ports: dict[int, tuple[str, int]], *authorizers: str) -> dict[str, Any]:
        names = {"http": min(ports), "tcp": max(ports)}
        config = CONFIG.format(jwks=ISSUER.jwks, partner=PARTNER.jwks, **names)
        for name in authorizers:
            config += ASKING.format(authorizer=name, path=PATHS[name], **names)
        return sidecar_parts(config, ports, services, certificates)

    # Authorizers of one workload that differ deny for each other.
    others = dict(zip(("by-http", "away", "unknown", "both"), free, strict=True))
    tcp_app = ("tcp", int(repeater.server_address[1]))
    first, second = sorted((http, tcp))
    envoy = Envoy(
        folder,
        [
            told({first: app, second: tcp_app}, "by-grpc"),
            *(told({others[name]: app}, name) for name in PATHS if name in others),
            told({others["both"]: app}, "by-grpc", "by-http"),
        ],
        [http, tcp, *free],
    )
    yield Rig(first, second, others, certificates)
    envoy.stop()
    judge.stop(None)
    repeater.shutdown()


def test_what_no_policy_allows_is_denied_in_istio_s_words(rig: Rig) -> None:
    denied = rig.ask("/elsewhere")
    assert (denied.status, denied.text) == (403, "RBAC: access denied")
    assert rig.ask("/open").status == 200


def test_a_deny_holds_whatever_spelling_a_path_has(rig: Rig) -> None:
    for path in (
        "/admin",
        "/open/../admin",
        "/open/%2e%2e/admin",
        "/%61dmin",
        "/open\\..\\admin",
        "/admin?a=/open",
    ):
        assert rig.ask(path).status == 403, path
    assert rig.ask("/open#/../admin").status == 400


def test_a_deny_for_a_host_holds_in_any_case_and_with_any_port(rig: Rig) -> None:
    for host in (
        "admin.example",
        "ADMIN.example",
        "admin.example:80",
        "Admin.Example.:8080",
    ):
        assert rig.ask("/open", host=host).status == 403, host
    assert rig.ask("/open", host="Shop:80").header("host") == "Shop:80"


def test_identities_are_those_of_certificates(rig: Rig) -> None:
    assert rig.ask("/members").status == 403
    assert rig.ask("/members", peer="shop/front").status == 200
    assert rig.ask("/members", peer="shop/front", method="POST").status == 403
    assert rig.ask("/members", peer="elsewhere/front").status == 403
    assert rig.ask("/front", peer="shop/front").status == 200
    assert rig.ask("/front", peer="shop/back").status == 403


def test_nobody_believes_what_a_peer_says_it_is(rig: Rig) -> None:
    spoofed = ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/front")
    assert rig.ask("/front", spoofed).status == 403
    assert rig.ask("/open", spoofed).header("x-forwarded-client-cert") is None
    seen = rig.ask("/open", peer="elsewhere/back").header("x-forwarded-client-cert")
    assert seen is not None
    assert "URI=spiffe://cluster.local/ns/elsewhere/sa/back" in seen
    assert rig.ask("/open", ("x-subject", "admin")).header("x-subject") is None


def test_a_tcp_port_takes_connections_of_those_it_may(rig: Rig) -> None:
    def said(tls: Any) -> bytes:
        return exchange(rig.tcp, b"hello", tls=tls)

    assert said(rig.certificates.peer("shop", "back")) == b"hello"
    assert said(rig.certificates.peer("elsewhere", "back")) == b""
    assert said(None) == b""


def test_a_valid_token_is_somebody_and_its_claims_count(rig: Rig) -> None:
    assert rig.ask("/users").status == 403
    user = rig.ask("/users", bearer(ISSUER.token(aud="shop")))
    assert (user.status, user.header("x-subject"), user.header("authorization")) == (
        200,
        "ann",
        None,
    )
    assert rig.ask(f"/users?access_token={ISSUER.token(aud='shop')}").status == 200
    assert rig.ask("/chiefs", bearer(ISSUER.token(aud="shop"))).status == 403
    assert (
        rig.ask(
            "/chiefs", bearer(ISSUER.token(aud="shop", roles=["user", "admin"]))
        ).status
        == 200
    )


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("no signature", {"alg": "none"}),
        ("the public key as secret", {"alg": "HS256"}),
        ("an unknown key", {"kid": "other"}),
        ("another issuer", {"iss": "you"}),
        ("another audience", {"aud": "else"}),
        ("no audience", {"aud": None}),
        ("expired", {"exp": int(time.time()) - 3600}),
        ("expired in 1970", {"exp": 0}),
        ("expired within the first second of 1970", {"exp": 0.5}),
        ("never valid", {"exp": -1}),
        ("critical header", {"header": {"crit": ["x"], "x": 1}}),
        ("empty critical header", {"header": {"crit": []}}),
        ("critical header that is no list", {"header": {"crit": "b64", "b64": False}}),
        ("not valid yet", {"nbf": int(time.time()) + 3600}),
    ],
)
def test_a_bad_token_is_refused_even_where_none_is_needed(
    rig: Rig, what: str, options: dict[str, Any]
) -> None:
    # An audience that does not fit is Envoy's only 403; RBAC has no part in it.
    expected = 403 if "audience" in what else 401
    answer = rig.ask("/open", bearer(ISSUER.token(**{"aud": "shop"} | options)))
    assert answer.status == expected, what
    assert "RBAC" not in answer.text


def test_a_token_signed_by_somebody_else_or_given_twice_is_refused(rig: Rig) -> None:
    good, forged = ISSUER.token(aud="shop"), STRANGER.token(aud="shop")
    assert rig.ask("/open", bearer(forged)).status == 401
    assert rig.ask("/open", bearer("garbage")).status == 401
    assert rig.ask("/open", bearer(good), bearer(good)).status == 401
    assert rig.ask("/open", bearer(good), bearer(forged)).status == 401
    assert rig.ask(f"/open?access_token={good}", bearer(good)).status == 401
    assert rig.ask(f"/open?%61ccess_token={good}", bearer(good)).status == 401
    assert rig.ask(f"/open?access_token={good}&access_token={forged}").status == 401


def test_each_of_several_tokens_is_read_to_its_end(rig: Rig) -> None:
    good = bearer(ISSUER.token(aud="shop"))
    critical = ("x-partner", PARTNER.token(header={"crit": ["x"]}))
    assert rig.ask("/open", ("x-partner", PARTNER.token())).status == 200
    assert rig.ask("/open", ("x-partner", PARTNER.token(exp=None))).status == 200
    assert rig.ask("/open", ("x-partner", PARTNER.token(exp=0))).status == 401
    assert rig.ask("/open", critical).status == 401
    assert rig.ask("/open", good, ("x-partner", PARTNER.token())).status == 200


def test_an_authorizer_is_asked_by_grpc(rig: Rig) -> None:
    allowed = rig.ask("/grpc", ("x-user", "ann"))
    assert (allowed.status, allowed.header("x-checked")) == (200, "by grpc")
    denied = rig.ask("/grpc", ("x-user", "bob"))
    assert (denied.status, denied.text) == (401, "not ann")
    assert rig.ask("/open", ("x-user", "bob")).status == 200


def test_an_authorizer_is_asked_by_http(rig: Rig) -> None:
    allowed = rig.ask("/http", ("x-user", "ann"), workload="by-http")
    assert (allowed.status, allowed.header("x-checked")) == (200, "/check/http by ann")
    assert rig.ask("/http", ("x-user", "bob"), workload="by-http").status == 418


def test_an_authorizer_that_cannot_be_asked_lets_nobody_through(rig: Rig) -> None:
    assert rig.ask("/away", workload="away").status == 503
    assert rig.ask("/unknown", workload="unknown").status == 403
    assert rig.ask("/open", workload="unknown").status == 200


def test_two_authorizers_of_one_workload_deny_what_either_would_judge(rig: Rig) -> None:
    ann = ("x-user", "ann")
    assert rig.ask("/grpc", ann, workload="both").status == 403
    assert rig.ask("/http", ann, workload="both").status == 403
    assert rig.ask("/open", ann, workload="both").status == 200
