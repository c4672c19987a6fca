"""`dockermesh mtls status`: what is encrypted, by what, and whom STRICT would refuse."""

from __future__ import annotations

from dataclasses import replace

from meshes import catalog, edge, service, workload

from dockermesh.model import Endpoint, Workload
from dockermesh.translate.mesh.state import build_mesh
from dockermesh.translate.mtls_report import Encrypted, MtlsReport, mtls_report

FRONT, ONE = (
    workload("front-1", 80, address="10.0.0.9"),
    workload("reviews-1", 9080, address="10.0.0.1"),
)
ONE = replace(ONE, labels={"app": "reviews"})
REVIEWS = service("reviews", "10.0.0.1")


def of(
    *workloads: Workload, config: str = "", services: tuple[object, ...] = (REVIEWS,)
) -> MtlsReport:
    return mtls_report(
        build_mesh(
            catalog(services, workloads), config=edge(config) if config else None
        )
    )  # type: ignore[arg-type]


def rule(
    spec: str, kind: str = "DestinationRule", group: str = "networking.istio.io/v1"
) -> str:
    return f"apiVersion: {group}\nkind: {kind}\nmetadata: {{name: own}}\nspec: {spec}\n---\n"


def told(report: MtlsReport, subset: str = "") -> tuple[Encrypted, str]:
    (found,) = [
        e
        for e in report.edges
        if e.service.startswith("reviews") and e.subset == subset
    ]
    return found.encrypted, found.by


def test_between_proxies_all_is_encrypted_by_itself() -> None:
    report = of(FRONT, ONE)
    assert told(report) == (Encrypted.YES, "auto")
    (edge_,) = [e for e in report.edges if e.service.startswith("reviews")]
    assert (edge_.clients, edge_.modes) == (
        ("shop/front-1", "shop/reviews-1"),
        ("PERMISSIVE",),
    )
    assert not report.breaks


def test_a_service_with_and_without_proxies_is_encrypted_in_part_and_its_bare_replica_is_named() -> (
    None
):
    mixed = replace(REVIEWS, endpoints=(*REVIEWS.endpoints, Endpoint("10.0.0.5", 9080)))
    wanted = "{name: bare, labels: {bare: is}, trafficPolicy: {tls: {mode: DISABLE}}}"
    beside = rule(f"{{host: reviews, subsets: [{wanted}]}}")
    report = of(FRONT, ONE, services=(mixed,), config=beside)
    assert told(report) == (Encrypted.PARTLY, "auto; 1 of 2 endpoints: it has no proxy")
    assert [(b.client, b.why) for b in report.breaks] == [
        ("reviews (10.0.0.5)", "it has no proxy")
    ]


def test_what_decides_against_encryption_is_named() -> None:
    off = rule(
        "{selector: {matchLabels: {app: reviews}}, mtls: {mode: DISABLE}}",
        "PeerAuthentication",
    )
    assert told(of(FRONT, ONE, config=off.replace("networking", "security"))) == (
        Encrypted.NO,
        "PeerAuthentication: DISABLE",
    )
    by_rule = rule("{host: reviews, trafficPolicy: {tls: {mode: DISABLE}}}")
    assert told(of(FRONT, ONE, config=by_rule)) == (
        Encrypted.NO,
        "DestinationRule default/own: DISABLE",
    )
    mesh = rule("{enableAutoMtls: false}", "MeshConfig", "mesh.istio.io/v1alpha1")
    assert told(of(FRONT, ONE, config=mesh)) == (
        Encrypted.NO,
        "MeshConfig: enableAutoMtls is false",
    )


def test_a_rule_that_sends_plaintext_breaks_under_strict_and_is_said_to_be_broken_where_it_is() -> (
    None
):
    by_rule = rule("{host: reviews, trafficPolicy: {tls: {mode: DISABLE}}}")
    (broken,) = of(FRONT, ONE, config=by_rule).breaks
    assert (broken.server, broken.port, broken.refused) == (
        "reviews.service.consul",
        9080,
        False,
    )
    strict = rule(
        "{mtls: {mode: STRICT}}", "PeerAuthentication", "security.istio.io/v1"
    )
    (broken,) = of(FRONT, ONE, config=by_rule + strict).breaks
    assert broken.refused


def test_a_rule_for_some_clients_parts_them_from_the_others() -> None:
    ours = rule("{host: reviews, exportTo: [.], trafficPolicy: {tls: {mode: DISABLE}}}")
    elsewhere = replace(FRONT, name="shop/back-1", namespace="back")
    report = of(FRONT, ONE, elsewhere, config=ours)
    found = {
        e.clients: e.encrypted for e in report.edges if e.service.startswith("reviews")
    }
    assert found[("shop/back-1",)] is Encrypted.YES
    assert found[("shop/front-1", "shop/reviews-1")] is Encrypted.NO


def test_ports_that_the_host_publishes_and_that_consul_probes_break_under_strict() -> (
    None
):
    report = of(FRONT, replace(ONE, published=(9080,), probed=(9080,)))
    assert [(b.client, b.server, b.port) for b in report.breaks] == [
        ("everybody who reaches the host", "shop/reviews-1", 9080),
        ("Consul's health check", "shop/reviews-1", 9080),
    ]


def test_a_service_whose_apps_are_all_down_is_not_called_unencrypted() -> None:
    assert told(of(FRONT, ONE, services=())) == (
        Encrypted.YES,
        "auto; no endpoint at the moment",
    )
