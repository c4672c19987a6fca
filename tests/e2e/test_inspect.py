"""What a user sees of running proxies: their status, their configuration, and what would happen to
a request.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from mesh_rig import Mesh, docker, get, until
from patience import SLACK

from dockermesh.cli.main import root
from dockermesh.client.mesh.mesh_client import MeshClient
from dockermesh.docker.engine import LocalEngine

pytestmark = pytest.mark.docker

RULES = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v3, labels: {version: v3}}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v3}}]
  - timeout: 3s
    route: [{destination: {host: reviews, subset: v1}}]
"""


def shown(mesh: Mesh, *arguments: str) -> str:
    """What the command line prints; in this process, as starting many more would take most of the
    time.
    """
    done = CliRunner().invoke(
        root, arguments, env=mesh.environment(), catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def data(mesh: Mesh, *arguments: str) -> Any:
    return json.loads(shown(mesh, *arguments, "-o", "json"))


@pytest.fixture(scope="module")
def rules(bookinfo: Mesh) -> Iterator[Mesh]:
    """Rules for reviews; gone after the last test of this file."""
    done = bookinfo.command("apply", "-f", "-", input=RULES)
    assert done.returncode == 0, done.stderr
    bookinfo.until_synced()
    yield bookinfo
    assert bookinfo.command("delete", "-f", "-", input=RULES).returncode == 0
    bookinfo.until_synced()


def newest_trace() -> list[dict[str, Any]]:
    """The spans of the newest trace."""
    traces = MeshClient(LocalEngine()).traces({"last": "1"})["traces"]
    return traces[0] if traces else []


def is_complete(spans: list[dict[str, Any]], before: str) -> bool:
    """Whether it is another trace than the one before, and nobody's spans are still to come."""
    made = {span["tags"]["istio.canonical_service"]: span for span in spans}
    # All hand their spans in once a second. Reviews may ask nobody; if it asks, so says its span.
    asks = any(
        span.get("kind") == "CLIENT"
        and span["tags"]["istio.canonical_service"] == "reviews"
        for span in spans
    )
    wanted = {"istio-ingressgateway", "productpage", "details", "reviews"}
    wanted |= {"ratings"} if asks else set()
    return bool(spans) and spans[0]["traceId"] != before and wanted <= made.keys()


def test_one_request_is_a_tree_over_all_that_took_part(mesh: Mesh) -> None:
    def traced() -> bool:
        # Of the three reviews one asks nobody for ratings. Later in this file rules leave but that one.
        asked = {"x-b3-sampled": "1"}
        before = next((span["traceId"] for span in newest_trace()), "")
        assert get("http://127.0.0.1:30080/productpage", headers=asked)[0] == 200
        until(lambda: is_complete(newest_trace(), before), "all spans are there", 20)
        (spans,) = json.loads(shown(mesh, "trace", "-n", "1", "-o", "json"))
        services = {span["tags"]["istio.canonical_service"] for span in spans}
        return services == set(expected)

    expected = (
        "istio-ingressgateway",
        "productpage",
        "details",
        "reviews",
        "ratings",
    )
    until(traced, "a trace shows every hop", 30)
    drawn = shown(mesh, "trace", "--service", "ratings", "-n", "1")
    assert all(name in drawn for name in expected)
    assert "→ ratings GET /ratings/0" in drawn


def test_status_lists_every_proxy_and_a_proxy_has_what_it_should_have(
    mesh: Mesh, rules: Mesh
) -> None:
    head = shown(rules, "proxy-status").splitlines()[0]
    assert head.split() == [
        "NAME",
        "CLUSTER",
        "CDS",
        "LDS",
        "EDS",
        "RDS",
        "ECDS",
        "ISTIOD",
        "VERSION",
    ]

    def states() -> list[str]:
        rows = [row.split() for row in shown(rules, "proxy-status").splitlines()]
        return next(
            row[2:6] for row in rows if row[0] == "bookinfo/reviews-v1-1.default"
        )

    until(lambda: states() == ["SYNCED"] * 4, "the proxy of reviews-v1 is in sync")
    for workload in ("productpage-v1", "gateway"):
        until(
            lambda name=workload: is_equal(rules, name),
            f"the proxy of {workload} has it",
            20,
        )  # type: ignore[misc]


def is_equal(mesh: Mesh, workload: str) -> bool:
    lines = shown(mesh, "proxy-status", workload).splitlines()
    return lines[:2] == ["Clusters Match", "Listeners Match"] and lines[2].startswith(
        "Routes Match (RDS last loaded at "
    )


def test_configuration_is_shown_by_every_name_of_a_workload(
    mesh: Mesh, rules: Mesh
) -> None:
    clusters = data(
        rules,
        "proxy-config",
        "clusters",
        "productpage-v1",
        "--fqdn",
        "reviews.service.consul",
    )
    named = {cluster["name"]: cluster for cluster in clusters}
    assert {
        "outbound|9080|v1|reviews.service.consul",
        "outbound|9080|v3|reviews.service.consul",
    } <= named.keys()
    for name in (
        "bookinfo/productpage-v1-1",
        "productpage-v1-1.default",
        "bookinfo-productpage-v1-1-proxy-1",
    ):
        table = shown(rules, "pc", "c", name, "--subset", "v3")
        assert table.splitlines()[1].split() == [
            *(
                "reviews.service.consul",
                "9080",
                "v3",
                "outbound",
                "EDS",
                "reviews.default",
            )
        ]
    routes = shown(
        rules, "pc", "route", "productpage-v1", "--name", "9080"
    ).splitlines()
    assert routes[0].split("  ")[0] == "NAME"
    assert [
        line.split()[-1] for line in routes if "reviews.service.consul:9080" in line
    ] == ["reviews.default"] * 2
    listeners = shown(rules, "pc", "l", "productpage-v1", "--port", "9080").splitlines()
    assert listeners[0].split() == ["ADDRESSES", "PORT", "MATCH", "DESTINATION"]
    assert listeners[1].split() == [
        "0.0.0.0",
        "9080",
        "Trans:",
        "raw_buffer;",
        "App:",
        "HTTP",
        "Route:",
        "9080",
    ]
    cluster = "outbound|9080|v3|reviews.service.consul"
    endpoints = shown(
        rules, "pc", "ep", "productpage-v1", "--cluster", cluster, "--status", "healthy"
    ).splitlines()
    assert len(endpoints) == 2 and endpoints[1].endswith(cluster)


def test_no_page_shows_a_private_key_or_a_token(mesh: Mesh) -> None:
    own = docker(
        "exec", "bookinfo-details-v1-1-proxy-1", "cat", "/run/dockermesh/envoy.json"
    )
    token = own.partition("Bearer ")[2][:64]
    for page in ("bootstrap", "secret", "all"):
        told = shown(mesh, "proxy-config", page, "details-v1", "-o", "json")
        assert token not in told and "PRIVATE KEY" not in told
    assert shown(mesh, "pc", "s", "details-v1").splitlines()[0].split()[:3] == [
        "RESOURCE",
        "NAME",
        "TYPE",
    ]


def test_loggers_are_changed_and_put_back(mesh: Mesh) -> None:
    assert (
        "  http: debug"
        in shown(mesh, "pc", "log", "details-v1", "--level", "http:debug").splitlines()
    )
    assert (
        "  http: warning"
        in shown(mesh, "pc", "log", "details-v1", "--reset").splitlines()
    )


def test_a_workload_that_is_not_here_is_refused_with_a_hint(mesh: Mesh) -> None:
    done = mesh.command("proxy-config", "routes", "detail-v1-1")
    assert done.returncode == 1 and "did you mean details-v1-1?" in done.stderr
    stopped = mesh.command("proxy-config", "routes")
    assert stopped.returncode == 2 and "name a workload" in stopped.stderr


def test_a_proxy_that_does_not_run_is_told(mesh: Mesh) -> None:
    docker("stop", "-t", "1", "bookinfo-details-v1-1-proxy-1")
    try:
        done = mesh.command("proxy-config", "routes", "details-v1")
        assert done.returncode == 1 and "admin does not answer" in done.stderr
    finally:
        docker("start", "bookinfo-details-v1-1-proxy-1")


def test_what_is_explained_is_what_happens(mesh: Mesh, rules: Mesh) -> None:
    url = "http://reviews:9080/reviews/0"
    for header, subset, place in (
        ("end-user: jason", "v3", "spec.http[0].match[0]"),
        ("x: y", "v1", "spec.http[1]"),
    ):
        found = data(rules, "explain", "productpage-v1", url, "-H", header, "--live")
        assert (found["rule"]["resource"], found["rule"]["path"]) == (
            "VirtualService default/reviews",
            place,
        )
        (target,) = found["destinations"]
        assert (target["subset"], target["destination_rule"]) == (
            subset,
            "reviews.default",
        )
        assert [e["workload"] for e in target["endpoints"]] == [
            f"bookinfo/reviews-{subset}-1"
        ]
        assert all(e["accepts"] for e in target["endpoints"])
        assert found["live"]["status"] == 200 and found["live"]["as_explained"]
        assert [e["endpoint"] for e in found["live"]["endpoints"]] == [
            target["endpoints"][0]["address"]
        ]
    entering = data(
        rules, "explain", "gateway", "http://localhost:30080/productpage", "--live"
    )
    assert (
        entering["destinations"][0]["endpoints"][0]["workload"]
        == "bookinfo/productpage-v1-1"
    )
    assert entering["live"]["status"] == 200 and entering["live"]["as_explained"]


def test_a_name_that_nobody_knows_is_explained_as_passed_through(mesh: Mesh) -> None:
    text = shown(mesh, "explain", "productpage-v1", "http://nowhere.invalid/")
    assert (
        text.splitlines()[-1].split(None, 1)[1]
        == "passed through to where it was going"
    )


def test_what_a_pod_says_is_read_at_once_however_much_it_is(mesh: Mesh) -> None:
    """Dumps of large meshes have tens of megabytes; appending part to part took minutes for
    that.
    """
    began = time.monotonic()
    code, output, _ = LocalEngine().execute(
        "bookinfo-details-v1-1-pod-1", ["head", "-c", "20000000", "/dev/zero"]
    )
    assert (code, len(output)) == (0, 20_000_000)
    assert time.monotonic() - began < 20 * SLACK


def test_the_history_has_what_was_applied_and_knows_the_way_back(
    mesh: Mesh, rules: Mesh
) -> None:
    def entries_of_reviews() -> list[Any]:
        return [
            e
            for e in data(rules, "history")
            if "VirtualService default/reviews"
            in {r["resource"] for r in e["resources"]}
        ]

    # What was written is in the history as soon as it was read back.
    until(entries_of_reviews, "the history has what was applied", 10)
    entries = data(rules, "history")
    applied = entries_of_reviews()[0]
    assert (applied["who"], applied["command"]) == ("dockermesh", "dockermesh apply")
    before = json.loads(
        shown(rules, "rollback", str(applied["number"] - 1), "--dry-run", "-o", "json")
    )
    undone = {change["resource"]: change["action"] for change in before}
    assert (
        undone["VirtualService default/reviews"]
        == undone["DestinationRule default/reviews"]
        == "deleted"
    )
    assert data(rules, "history") == entries


def test_one_request_is_found_in_the_logs_of_every_hop(mesh: Mesh) -> None:
    telemetry = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: all, namespace: istio-system}
spec: {accessLogging: [{providers: [{name: envoy}]}]}
"""
    assert mesh.command("apply", "-f", "-", input=telemetry).returncode == 0
    try:

        def hops(*arguments: str) -> list[Any]:
            lines = shown(mesh, "logs", "-o", "json", *arguments).splitlines()
            return [json.loads(line) for line in lines]

        def parts_of(request: str) -> set[tuple[str, str]]:
            found = hops("--id", request)
            return {(e["workload"].split("/")[1], e["container"]) for e in found}

        def is_in_every_log() -> bool:
            # Anew each time: a proxy that was not told yet logs nothing of it later.
            own = f"/productpage?{time.time_ns()}"
            assert get(f"http://127.0.0.1:30080{own}")[0] == 200
            time.sleep(1)
            lines = hops("--path", own)
            if len(lines) != 2:
                return False
            edge, page = lines
            assert (edge["workload"], edge["container"]) == (
                "bookinfo/gateway-1",
                "proxy",
            )
            assert page["workload"] == "bookinfo/productpage-v1-1"
            return expected <= parts_of(edge["access"]["request_id"])

        expected = {
            (name, part)
            for name in ("productpage-v1-1", "details-v1-1")
            for part in ("app", "proxy")
        }
        until(is_in_every_log, "every hop has the request's id", 30)
    finally:
        assert mesh.command("delete", "-f", "-", input=telemetry).returncode == 0
        mesh.until_synced()


def test_a_policy_of_the_target_is_explained_and_enforced(mesh: Mesh) -> None:
    policy = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ratings-for-reviews}
spec:
  selector: {matchLabels: {app: ratings}}
  rules: [{from: [{source: {principals: ["cluster.local/ns/default/sa/bookinfo-reviews"]}}]}]
"""
    assert mesh.command("apply", "-f", "-", input=policy).returncode == 0
    try:
        mesh.until_synced()
        for source, accepts, status in (
            ("productpage-v1", False, 403),
            ("reviews-v2", True, 200),
        ):
            explained: list[Any] = []

            def is_enforced(
                source: str = source,
                status: int = status,
                explained: list[Any] = explained,
            ) -> bool:
                # Until proxies are done with their old connections, it may be answered otherwise
                # than explained.
                arguments = (
                    "explain",
                    source,
                    "http://ratings:9080/ratings/0",
                    "--live",
                    "-o",
                    "json",
                )
                done = CliRunner().invoke(
                    root, arguments, env=mesh.environment(), catch_exceptions=False
                )
                explained[:] = [json.loads(done.stdout)]
                return bool(explained[0]["live"]["status"] == status)

            until(is_enforced, f"{source} gets {status}")
            (found,) = explained
            (endpoint,) = found["destinations"][0]["endpoints"]
            assert (endpoint["tls"], endpoint["accepts"]) == (
                "ISTIO_MUTUAL",
                accepts,
            ), endpoint
            assert found["live"]["as_explained"]
    finally:
        assert mesh.command("delete", "-f", "-", input=policy).returncode == 0
        mesh.until_synced()
