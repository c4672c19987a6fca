"""A real Envoy keeps RateLimits: rate and burst, each value for itself, in shadow, at both kinds of
proxies, and for connections.

Rates are judged by what the proxy itself measured between the first and the last request, so a slow
machine changes what is expected, not whether it holds.
"""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from limiter_rig import Quick, taken
from patience import until
from policy_rig import (
    Certificates,
    Envoy,
    ask,
    gateway_on,
    gateway_parts,
    serve,
    service,
    sidecar_parts,
)
from ports import free_ports
from tokens import Issuer, bearer

pytestmark = pytest.mark.binary
ISSUER = Issuer("me")

SIDECAR = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: shop}}
spec: {{jwtRules: [{{issuer: me, jwks: '{jwks}'}}]}}
---
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {{name: shop, namespace: shop}}
spec:
  limits:
  - {{name: rate, requests: 100, burst: 10, match: {{paths: [/rate]}}}}
  - name: per-user
    requests: 3
    unit: HOUR
    match: {{paths: ["/user/{{id}}"]}}
    by: [{{header: x-user}}]
    named: [{{values: [gold], requests: 7, unit: HOUR}}]
    response: {{status: 503, body: slow down}}
  - name: pairs
    requests: 2
    unit: HOUR
    match: {{paths: [/pair]}}
    by: [{{header: x-user}}, {{attribute: CLIENT_ADDRESS}}]
  - name: callers
    requests: 2
    unit: HOUR
    match: {{paths: [/who]}}
    by: [{{attribute: IDENTITY}}]
    named: [{{values: ["spiffe://cluster.local/ns/shop/sa/gold"], requests: 4, unit: HOUR}}]
  - name: paths
    requests: 2
    unit: HOUR
    match: {{paths: ["/each/**"]}}
    by: [{{attribute: PATH}}]
  - name: subjects
    requests: 2
    unit: HOUR
    match: {{paths: [/token]}}
    by: [{{claim: sub}}]
  - name: posts
    requests: 1
    unit: HOUR
    match: {{methods: [POST], hosts: ["*.example"], paths: [/post]}}
  - name: anonymous
    requests: 1
    unit: HOUR
    match: {{paths: [/plan], headers: {{x-plan: {{}}}}, withoutHeaders: {{cookie: {{prefix: user=}}, x-paid: {{regex: "*"}}}}}}
---
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {{name: trial, namespace: shop}}
spec:
  shadow: true
  limits: [{{name: trial, requests: 2, unit: HOUR, match: {{paths: [/shadow]}}}}]
---
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {{name: others, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: other}}}}
  limits: [{{name: none, requests: 1, unit: DAY}}]
"""
EDGE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: ["*"]
  gateways: [edge]
  http:
  - name: cheap
    match: [{uri: {prefix: /cheap}}]
    route: [{destination: {host: app.service.consul}}]
  - match: [{uri: {prefix: /user/}}]
    retries: {attempts: 3, retryOn: 5xx}
    route: [{destination: {host: limited.service.consul}}]
  - name: dear
    route: [{destination: {host: app.service.consul}}]
---
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {name: edge}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  limits: [{name: dear, requests: 2, unit: HOUR, match: {routes: [dear]}}]
"""
CONNECTIONS = """
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {name: connections, namespace: shop}
spec: {connections: {max: 2}}
"""
CONNECTION_RATE = """
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {name: connections, namespace: shop}
spec: {connections: {perSecond: 1, burst: 5}}
"""


@dataclass(frozen=True)
class Rig:
    """A sidecar, a gateway, and a sidecar that takes two connections."""

    sidecar: int
    gateway: int
    narrow: int
    slow: int
    admin: Path
    certificates: Certificates

    def counted(self, limit: str) -> dict[str, int]:
        """What the proxy says that a limit did."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.admin))
            connection.sendall(
                b"GET /stats?filter=rate_limit HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            text = connection.makefile().read()
        found = re.findall(
            rf"rate_limit\.{limit}\.http_local_rate_limit\.(\w+): (\d+)", text
        )
        return {name: int(value) for name, value in found}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("limits")
    certificates = Certificates(folder)
    app = serve(Quick)
    sidecar, gateway, narrow, slow = free_ports(4)
    wide = sidecar_parts(
        SIDECAR.format(jwks=ISSUER.jwks),
        {sidecar: ("HTTP", app)},
        [],
        certificates,
    )
    behind = [service("app", app), service("limited", sidecar)]
    edge = gateway_parts(gateway_on(gateway) + EDGE, behind)
    envoys = [Envoy(folder, [wide, edge], [sidecar, gateway])]
    try:
        for port, config in ((narrow, CONNECTIONS), (slow, CONNECTION_RATE)):
            parts = sidecar_parts(config, {port: ("TCP", app)}, [], certificates)
            own = folder / str(port)
            own.mkdir()
            envoys.append(Envoy(own, [parts], [port]))
        admin = folder / "admin.sock"
        yield Rig(sidecar, gateway, narrow, slow, admin, certificates)
    finally:
        for envoy in envoys:
            envoy.stop()


def test_of_1000_requests_at_twice_the_limit_rate_and_burst_pass(rig: Rig) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", rig.sidecar, timeout=60)
    sent: list[float] = []
    passed = 0
    began = time.monotonic()
    for number in range(1000):
        time.sleep(max(0, began + number / 200 - time.monotonic()))
        sent.append(time.monotonic())
        connection.request("GET", "/rate")
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 429)
        passed += answer.status == 200

    assert passed == pytest.approx(taken(sent, rate=100, burst=10), rel=0.02)


def test_each_value_of_a_header_has_a_bucket_and_named_ones_their_own(rig: Rig) -> None:
    def passed(user: str) -> int:
        answers = [
            ask(rig.sidecar, "/user/7?x=1", [("x-user", user)]) for _ in range(9)
        ]
        assert {a.status for a in answers} == {200, 503}
        return sum(a.status == 200 for a in answers)

    assert [passed(user) for user in ("ann", "bob", "gold")] == [3, 3, 7]
    # Who is not told apart is in no bucket, and another path is another matter.
    assert all(ask(rig.sidecar, "/user/7").status == 200 for _ in range(9))
    path = "/user/7/more"
    assert all(
        ask(rig.sidecar, path, [("x-user", "ann")]).status == 200 for _ in range(9)
    )


def test_an_answer_says_what_is_left_and_when_to_come_again(rig: Rig) -> None:
    def answer() -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", rig.sidecar, timeout=60)
        connection.request("GET", "/user/1", headers={"x-user": "carl"})
        response = connection.getresponse()
        headers = {k.lower(): v for k, v in response.getheaders()}
        return response.status, headers, response.read().decode()

    first, *_, refused = [answer() for _ in range(4)]
    assert first[0] == 200
    assert first[1]["x-ratelimit-limit"].startswith("3")
    assert first[1]["x-ratelimit-remaining"] == "2"
    assert refused[0] == 503
    assert refused[2] == "slow down"
    # An hour for 3 requests.
    assert refused[1]["retry-after"] == "1200"
    assert refused[1]["x-envoy-ratelimited"] == "true"
    assert refused[1]["x-ratelimit-remaining"] == "0"
    # What no limit is for is told nothing.
    plain = http.client.HTTPConnection("127.0.0.1", rig.sidecar, timeout=60)
    plain.request("GET", "/free")
    told = plain.getresponse().getheaders()
    assert not [name for name, _ in told if name.lower().startswith("x-ratelimit")]


def test_no_proxy_on_the_way_repeats_what_was_refused(rig: Rig) -> None:
    def ask_the_gateway() -> int:
        return ask(rig.gateway, "/user/1", [("x-user", "dora")]).status

    assert [ask_the_gateway() for _ in range(3)] == [200] * 3
    before = rig.counted("shop.shop.per-user")["enforced"]
    assert ask_the_gateway() == 503
    assert rig.counted("shop.shop.per-user")["enforced"] == before + 1


def test_two_descriptors_are_one_key(rig: Rig) -> None:
    def passed(user: str, source: str) -> int:
        answers = [
            ask(rig.sidecar, "/pair", [("x-user", user)], source=source)
            for _ in range(5)
        ]
        return sum(a.status == 200 for a in answers)

    assert passed("ann", "127.0.0.1") == 2
    assert passed("bob", "127.0.0.1") == 2
    assert passed("ann", "127.0.0.9") == 2
    assert passed("ann", "127.0.0.1") == 0


def test_workloads_are_told_apart_by_their_identity(rig: Rig) -> None:
    def passed(account: str) -> int:
        tls = rig.certificates.peer("shop", account)
        return sum(ask(rig.sidecar, "/who", tls=tls).status == 200 for _ in range(6))

    assert [passed(account) for account in ("web", "cart", "gold")] == [2, 2, 4]


def test_paths_are_told_apart_without_their_query(rig: Rig) -> None:
    def passed(path: str) -> int:
        return sum(ask(rig.sidecar, f"{path}?{n}").status == 200 for n in range(5))

    assert [passed("/each/a"), passed("/each/b"), passed("/each/x/../a")] == [2, 2, 0]


def test_claims_of_valid_tokens_tell_apart(rig: Rig) -> None:
    def passed(subject: str) -> int:
        token = bearer(ISSUER.token(sub=subject))
        return sum(ask(rig.sidecar, "/token", [token]).status == 200 for _ in range(5))

    assert [passed("ann"), passed("bob"), passed("ann")] == [2, 2, 0]


def test_only_what_matches_host_method_and_path_counts(rig: Rig) -> None:
    def status(host: str, method: str) -> int:
        return ask(rig.sidecar, "/post", host=host, method=method).status

    assert [status("a.example:80", "POST") for _ in range(3)] == [200, 429, 429]
    assert status("A.Example", "POST") == 429
    for host in ("a.example.", "a.example.:80", "a.example:"):
        assert status(host, "POST") == 429
    assert status("a.example", "GET") == 200
    assert status("example", "POST") == 200


def test_only_what_has_a_header_and_has_not_another_counts(rig: Rig) -> None:
    def status(*headers: tuple[str, str]) -> int:
        return ask(rig.sidecar, "/plan", headers=headers).status

    free = ("x-plan", "free")
    assert [status(free) for _ in range(2)] == [200, 429]
    assert status(free, ("cookie", "theme=dark")) == 429
    assert status(free, ("cookie", "user=jason")) == 200
    assert status(free, ("x-paid", "")) == 200
    assert status(free, ("x-paid", "much")) == 200
    assert status() == 200


def test_in_shadow_all_pass_and_what_would_not_is_counted(rig: Rig) -> None:
    assert [ask(rig.sidecar, "/shadow").status for _ in range(5)] == [200] * 5

    counted = rig.counted("shop.trial.trial")
    assert counted["rate_limited"] == 3
    assert counted["enforced"] == 0


def test_a_gateway_limits_a_route_of_a_virtual_service(rig: Rig) -> None:
    assert [ask(rig.gateway, "/dear").status for _ in range(4)] == [200, 200, 429, 429]
    assert [ask(rig.gateway, "/cheap").status for _ in range(4)] == [200] * 4


def test_so_many_connections_are_open_and_no_more(rig: Rig) -> None:
    held = [connect(rig.narrow) for _ in range(2)]
    assert [is_served(c) for c in held] == [True, True]
    assert not is_served(connect(rig.narrow))
    held[0].close()
    until(lambda: is_served(connect(rig.narrow)), "a place is free again", 10)


def test_so_many_connections_are_opened_in_a_second(rig: Rig) -> None:
    began = time.monotonic()
    served = sum(is_served(connect(rig.slow)) for _ in range(40))

    # The bucket had 5, less what the wait for Envoy took, and one for each second since.
    assert 1 <= served <= 5 + time.monotonic() - began


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def is_served(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection.recv(4).startswith(b"HTTP")
    except OSError:
        return False
