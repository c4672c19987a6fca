"""Real Envoys ask the limiter: rate and burst of all replicas together, each value for itself, and
what follows when the limiter is away.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pytest
from limiter_rig import Quick, RunningLimiter, taken
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

pytestmark = pytest.mark.binary

LIMITS = """
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {{name: shop, namespace: shop}}
spec:
  mode: GLOBAL
  limits:
  - {{name: rate, requests: {rate}, burst: 10, match: {{paths: [/rate]}}}}
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
    named: [{{values: [gold, 127.0.0.1], requests: 4, unit: HOUR}}]
  - name: callers
    requests: 2
    unit: HOUR
    match: {{paths: [/who]}}
    by: [{{attribute: IDENTITY}}]
  - name: paths
    requests: 2
    unit: HOUR
    match: {{paths: ["/each/**"]}}
    by: [{{attribute: PATH}}]
  - {{name: wide, requests: 100, unit: HOUR, match: {{paths: [/both]}}}}
  - {{name: narrow, requests: 2, unit: HOUR, match: {{paths: [/both]}}}}
---
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {{name: trial, namespace: shop}}
spec:
  mode: GLOBAL
  shadow: true
  limits: [{{name: trial, requests: 2, unit: HOUR, match: {{paths: [/shadow]}}}}]
---
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {{name: strict, namespace: shop}}
spec:
  mode: GLOBAL
  failureMode: CLOSED
  limits: [{{name: strict, requests: 1000, match: {{paths: [/strict]}}}}]
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
  - name: dear
    route: [{destination: {host: app.service.consul}}]
---
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {name: edge}
spec:
  mode: GLOBAL
  selector: {matchLabels: {istio: ingressgateway}}
  limits: [{name: dear, requests: 2, unit: HOUR, match: {routes: [dear]}}]
"""
CONNECTIONS = """
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {name: connections, namespace: shop}
spec: {mode: GLOBAL, connections: {perSecond: 1, burst: 5}}
"""


@dataclass
class Rig:
    """Three replicas of one service, a gateway, and the limiter that they ask."""

    replicas: list[int]
    gateway: int
    narrow: list[int]
    limiter: RunningLimiter
    certificates: Certificates
    config: str
    envoys: list[Envoy] = field(default_factory=list)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("limits")
    certificates = Certificates(folder)
    limiter = RunningLimiter(certificates)
    app = serve(Quick)
    *replicas, gateway, one, two = free_ports(6)
    config = LIMITS.format(rate=100)
    limiter.start("\n---\n".join([config, EDGE, CONNECTIONS]))
    made = Rig(replicas, gateway, [one, two], limiter, certificates, config)
    settings = limiter.settings
    try:
        for number, port in enumerate(replicas):
            own = folder / f"replica-{number}"
            own.mkdir()
            ports = {port: ("HTTP", app)}
            parts = [sidecar_parts(config, ports, [], certificates, settings)]
            if not number:
                edge, behind = gateway_on(gateway) + EDGE, [service("app", app)]
                parts.append(gateway_parts(edge, behind, settings=settings))
            made.envoys.append(Envoy(own, parts, [port]))
        for port in made.narrow:
            own = folder / str(port)
            own.mkdir()
            ports = {port: ("TCP", app)}
            part = sidecar_parts(CONNECTIONS, ports, [], certificates, settings)
            made.envoys.append(Envoy(own, [part], [port]))
        yield made
    finally:
        for envoy in made.envoys:
            envoy.stop()
        limiter.kill()


def paced(port: int, count: int, rate: float, began: float) -> list[tuple[float, int]]:
    """Requests at a rate: when each was sent, and the status of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    found = []
    for number in range(count):
        time.sleep(max(0, began + number / rate - time.monotonic()))
        sent = time.monotonic()
        connection.request("GET", "/rate")
        answer = connection.getresponse()
        answer.read()
        found.append((sent, answer.status))
    return found


def test_of_1000_requests_at_twice_the_limit_over_three_replicas_rate_and_burst_pass(
    rig: Rig,
) -> None:
    found: list[tuple[float, int]] = []
    began = time.monotonic() + 0.1
    counts = (334, 333, 333)
    threads = [
        threading.Thread(
            target=lambda p=port, c=count: found.extend(paced(p, c, 200 / 3, began))
        )
        for port, count in zip(rig.replicas, counts, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 1000
    assert {status for _, status in found} == {200, 429}
    passed = sum(status == 200 for _, status in found)
    times = sorted(sent for sent, _ in found)
    assert passed == pytest.approx(taken(times, rate=100, burst=10), rel=0.02)


def statuses(
    rig: Rig, path: str, count: int, headers: Iterable[tuple[str, str]] = ()
) -> list[int]:
    """Of requests to one replica after the other."""
    return [
        ask(rig.replicas[number % 3], path, headers).status for number in range(count)
    ]


def test_each_value_of_a_header_has_a_bucket_for_all_replicas(rig: Rig) -> None:
    def passed(user: str) -> int:
        found = statuses(rig, "/user/7?x=1", 9, [("x-user", user)])
        assert set(found) == {200, 503}
        return found.count(200)

    assert [passed(user) for user in ("ann", "bob", "gold")] == [3, 3, 7]
    # Who is not told apart is in no bucket, and another path is another matter.
    assert set(statuses(rig, "/user/7", 9)) == {200}
    assert set(statuses(rig, "/user/7/more", 9, [("x-user", "ann")])) == {200}


def test_an_answer_says_what_is_left_and_when_to_come_again(rig: Rig) -> None:
    def answer(number: int) -> tuple[int, dict[str, str], str]:
        port = rig.replicas[number % 3]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/user/1", headers={"x-user": "carl"})
        response = connection.getresponse()
        headers = {k.lower(): v for k, v in response.getheaders()}
        return response.status, headers, response.read().decode()

    first, *_, refused = [answer(number) for number in range(4)]
    assert first[0] == 200
    assert first[1]["x-ratelimit-limit"].startswith("3")
    assert first[1]["x-ratelimit-remaining"] == "2"
    assert refused[0] == 503
    assert refused[2] == "slow down"
    # An hour for 3 requests, of which some seconds are over.
    assert 1000 < int(refused[1]["retry-after"]) <= 1200
    assert refused[1]["x-ratelimit-remaining"] == "0"
    assert refused[1]["x-envoy-ratelimited"] == "true"
    assert refused[1]["x-dockermesh-limit"] == "shop/shop/per-user"


def test_two_descriptors_are_one_key_and_a_pair_may_be_named(rig: Rig) -> None:
    def passed(user: str, source: str) -> int:
        ports = (rig.replicas[number % 3] for number in range(6))
        found = [ask(p, "/pair", [("x-user", user)], source=source) for p in ports]
        return sum(a.status == 200 for a in found)

    assert passed("ann", "127.0.0.1") == 2
    assert passed("ann", "127.0.0.9") == 2
    assert passed("gold", "127.0.0.1") == 4
    assert passed("gold", "127.0.0.9") == 2


def test_workloads_and_paths_are_told_apart(rig: Rig) -> None:
    def callers(account: str) -> int:
        tls = rig.certificates.peer("shop", account)
        ports = (rig.replicas[number % 3] for number in range(5))
        return sum(ask(port, "/who", tls=tls).status == 200 for port in ports)

    assert [callers(account) for account in ("web", "cart")] == [2, 2]
    assert statuses(rig, "/each/a", 4) == [200, 200, 429, 429]
    assert statuses(rig, "/each/b?1", 4) == [200, 200, 429, 429]


def test_what_one_limit_refuses_costs_no_other_anything(rig: Rig) -> None:
    assert statuses(rig, "/both", 60).count(200) == 2
    # 2 of the wide one's 100 are gone: 58 more would have left 40.
    connection = http.client.HTTPConnection("127.0.0.1", rig.replicas[0], timeout=60)
    connection.request("GET", "/both")
    assert connection.getresponse().status == 429
    report = rig.limiter.report(
        lambda r: ("shop/shop/narrow", "refused", 59) in r.decisions
    )
    assert ("shop/shop/wide", "passed", 2) in report.decisions
    assert ("shop/shop/wide", "spared", 59) in report.decisions


def test_in_shadow_all_pass(rig: Rig) -> None:
    assert set(statuses(rig, "/shadow", 6)) == {200}


def test_a_gateway_limits_a_route_of_a_virtual_service(rig: Rig) -> None:
    assert [ask(rig.gateway, "/dear").status for _ in range(4)] == [200, 200, 429, 429]
    assert [ask(rig.gateway, "/cheap").status for _ in range(4)] == [200] * 4


def test_limits_change_and_counts_stay(rig: Rig) -> None:
    user = [("x-user", "dora")]
    assert statuses(rig, "/user/1", 3, user) == [200] * 3
    rig.limiter.change("\n---\n".join([LIMITS.format(rate=50), EDGE]))
    assert statuses(rig, "/user/1", 3, user) == [503] * 3


def test_nobody_is_let_in_without_a_certificate_of_the_mesh(rig: Rig) -> None:
    def says(context: ssl.SSLContext | None) -> bytes:
        address = ("127.0.0.1", rig.limiter.port)
        try:
            with socket.create_connection(address, timeout=10) as plain:
                c = plain if context is None else context.wrap_socket(plain)
                c.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
                return c.recv(100)
        except OSError:
            return b""

    # In plaintext it says at most that it wants TLS: an alert.
    assert says(None)[:1] in (b"", b"\x15")
    stranger = ssl.create_default_context()
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    assert says(stranger) == b""
    member = rig.certificates.peer("shop", "web")
    member.set_alpn_protocols(["h2"])
    assert says(member)[3:4] == b"\4"


def test_a_limiter_that_hangs_costs_a_request_half_a_second(rig: Rig) -> None:
    os.kill(rig.limiter.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert ask(rig.replicas[0], "/rate").status == 200
        assert time.monotonic() - began >= 0.4
        assert ask(rig.replicas[0], "/strict").status == 503
        # Whom nothing limits does not wait.
        assert ask(rig.replicas[0], "/free").status == 200
    finally:
        os.kill(rig.limiter.pid, signal.SIGCONT)
    until(lambda: ask(rig.replicas[0], "/strict").status == 200, "it answers", 10)


def test_without_limiter_requests_pass_or_do_not_as_said(rig: Rig) -> None:
    rig.limiter.kill()

    assert set(statuses(rig, "/each/a", 9)) == {200}
    assert set(statuses(rig, "/strict", 9)) == {503}
    assert set(statuses(rig, "/free", 9)) == {200}

    rig.limiter.start("\n---\n".join([rig.config, EDGE]))
    until(lambda: set(statuses(rig, "/strict", 3)) == {200}, "it is asked again", 10)
    # It counted in memory, and begins anew.
    assert statuses(rig, "/each/a", 4) == [200, 200, 429, 429]


def test_connections_are_counted_for_all_proxies(rig: Rig) -> None:
    # Those that waited for Envoy to listen were counted, too.
    rig.limiter.kill()
    rig.limiter.start(CONNECTIONS)
    until(lambda: is_served(rig.narrow[0]), "it is asked again", 10)
    began = time.monotonic()
    served = sum(is_served(rig.narrow[number % 2]) for number in range(40))

    assert 1 <= served <= 5 + time.monotonic() - began
    counted = rig.limiter.report(lambda r: sum(c for *_, c in r.decisions) > 40)
    assert {name for name, *_ in counted.decisions} == {"shop/connections/connections"}


def is_served(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return connection.recv(4).startswith(b"HTTP")
    except OSError:
        return False
