"""Access logs in the listeners of proxies: where, for whom, and at no cost where there are none."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.access_loggers.open_telemetry.v3 import logs_service_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from meshes import (
    GATEWAY_AT_80,
    ONE_OF_EACH,
    catalog,
    edge,
    gateway,
    messages,
    service,
    sidecar,
    versions,
)

from dockermesh.translate.envoy.constraints import violation
from dockermesh.translate.mesh.findings import Reason
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.state import Proxy, build_mesh
from dockermesh.translate.translator import Translator

MESH = "{kind: MeshConfig, spec: {accessLogFile: /dev/stdout%s}}"
OUR_OWN = {"dns", "endpoints"}


def telemetry(spec: str, name: str = "t", namespace: str = "istio-system") -> str:
    meta = f"{{name: {name}, namespace: {namespace}}}"
    head = f"apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {meta}"
    return f"{{{head}, spec: {spec}}}"


ALL = telemetry("{accessLogging: [{providers: [{name: envoy}]}]}")


def translator(*documents: str) -> Translator:
    made = Translator()
    config = edge("\n---\n".join((GATEWAY_AT_80, *documents)))
    settings = MeshSettings(metric_providers=())
    made.update(build_mesh(catalog(ONE_OF_EACH), config=config, settings=settings))
    return made


def loggers(made: Translator, proxy: Proxy) -> dict[str, list[list[Any]]]:
    """The access logs of every filter of every listener that can have some."""
    found: dict[str, list[list[Any]]] = {}
    for name, listener in messages(made.snapshot(proxy), "listeners").items():
        assert not violation(listener), name
        chains = [*listener.filter_chains, listener.default_filter_chain]
        for part in (part for chain in chains for part in chain.filters):
            for message in (hcm_pb2.HttpConnectionManager(), tcp_proxy_pb2.TcpProxy()):
                if part.typed_config.Unpack(message):
                    found.setdefault(name, []).append([*message.access_log])
    return found


def logging(made: Translator, proxy: Proxy) -> set[str]:
    """The listeners all of whose filters log; none logs in part."""
    found = loggers(made, proxy)
    for name, filters in found.items():
        assert len({len(logs) for logs in filters}) == 1, name
    return {name for name, filters in found.items() if filters[0]}


PROXIES = {
    "sidecar": sidecar("reviews-1", 9080),
    "gateway": gateway({"istio": "ingressgateway"}),
}


@pytest.mark.parametrize("kind", PROXIES)
@pytest.mark.parametrize("said", [ALL, MESH % "", MESH % ", accessLogEncoding: JSON"])
def test_every_filter_that_carries_traffic_logs(kind: str, said: str) -> None:
    made = translator(said)
    assert logging(made, PROXIES[kind]) == (
        loggers(made, PROXIES[kind]).keys() - OUR_OWN
    )
    for name, listener in messages(made.snapshot(PROXIES[kind]), "listeners").items():
        (flag,) = [log.filter for log in listener.access_log] or [None]
        assert (flag is None) == (name in OUR_OWN)
        assert flag is None or flag.response_flag_filter.flags == ["NR"]


def test_where_nothing_is_logged_snapshots_are_the_same_objects() -> None:
    off = telemetry("{accessLogging: [{disabled: true}]}")
    made, plain = translator(off), translator()
    for proxy in PROXIES.values():
        assert versions(made.snapshot(proxy)) == versions(plain.snapshot(proxy))
        assert made.snapshot(proxy) is made._plain_snapshot(proxy)
        assert not logging(made, proxy)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("CLIENT", {"0.0.0.0_9080", "virtualOutbound"}),
        ("SERVER", {"virtualInbound"}),
    ],
)
def test_a_mode_is_for_one_side(mode: str, expected: set[str]) -> None:
    said = f"{{match: {{mode: {mode}}}, providers: [{{name: envoy}}]}}"
    made = translator(telemetry(f"{{accessLogging: [{said}]}}"))
    found = logging(made, PROXIES["sidecar"])
    assert expected <= found
    assert ("virtualInbound" in found) == (mode == "SERVER")


def test_who_selects_one_workload_changes_no_other_and_translates_nothing_anew() -> (
    None
):
    one = Proxy("x", labels={"app": "x"}, workload=sidecar("x-1", 9080).workload)
    selecting = telemetry(
        "{selector: {matchLabels: {app: x}}, accessLogging: [{providers: [{name: envoy}]}]}",
        namespace="default",
    )
    made = translator(selecting)
    assert not logging(made, sidecar("y-1", 9080))
    services = made.counters.services
    assert "virtualInbound" in logging(made, one)
    assert made.counters.services == services


def test_replicas_and_later_states_share_what_did_not_change() -> None:
    made = translator(ALL)
    first = made.snapshot(sidecar("reviews-1", 9080)).listeners
    assert made.snapshot(sidecar("reviews-2", 9080)).listeners is first
    moved = [service("reviews", "10.0.0.9"), ONE_OF_EACH[1]]
    made.update(build_mesh(catalog(moved), config=made.mesh.config, previous=made.mesh))
    again = made.snapshot(sidecar("reviews-1", 9080)).listeners
    assert (again.base, again.version) == (first.base, first.version)


def file_of(made: Translator) -> Any:
    (log,) = loggers(made, PROXIES["sidecar"])["virtualInbound"][0]
    file = file_pb2.FileAccessLog()
    assert log.typed_config.Unpack(file)
    return file


def test_the_line_of_text_is_istios() -> None:
    line = file_of(translator(ALL)).log_format.text_format_source.inline_string
    assert line.startswith('[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?')
    assert '"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" ' in line
    assert line.endswith("%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n")


def test_a_provider_has_its_own_format_and_the_built_in_one_that_of_the_mesh() -> None:
    own = (
        ", accessLogFormat: mesh, extensionProviders: [{name: Mine, envoyFileAccessLog: "
        "{path: /dev/stderr, logFormat: {text: '%REQ_WITHOUT_QUERY(:PATH)%'}}}]"
    )
    by_mesh = file_of(translator(ALL, MESH % own))
    assert by_mesh.log_format.text_format_source.inline_string == "mesh\n"
    mine = file_of(translator(ALL.replace("name: envoy", "name: mine"), MESH % own))
    assert mine.path == "/dev/stderr"
    assert [f.name for f in mine.log_format.formatters] == [
        "envoy.formatter.req_without_query"
    ]


def test_an_expression_is_envoys_filter() -> None:
    said = "{filter: {expression: response.code >= 400}, providers: [{name: envoy}]}"
    made = translator(telemetry(f"{{accessLogging: [{said}]}}"))
    (log,) = loggers(made, PROXIES["gateway"])["0.0.0.0_80"][0]
    assert b"response.code >= 400" in log.filter.extension_filter.typed_config.value


REMOTE = {
    "envoyHttpAls": (
        "envoy.access_loggers.http_grpc",
        als_pb2.HttpGrpcAccessLogConfig,
        ", additionalRequestHeadersToLog: [x-user]",
    ),
    "envoyTcpAls": (
        "envoy.access_loggers.tcp_grpc",
        als_pb2.TcpGrpcAccessLogConfig,
        ", logName: own",
    ),
    "envoyOtelAls": (
        "envoy.access_loggers.open_telemetry",
        logs_service_pb2.OpenTelemetryAccessLogConfig,
        ", logFormat: {labels: {a: '%PROTOCOL%', b: '%REQ_WITHOUT_QUERY(:PATH)%'}}",
    ),
}


@pytest.mark.parametrize("kind", REMOTE)
def test_a_collector_is_called_through_its_cluster(kind: str) -> None:
    name, message, more = REMOTE[kind]
    provider = f"{{name: far, {kind}: {{service: reviews, port: 9080{more}}}}}"
    said = ALL.replace("name: envoy", "name: far")
    made = translator(said, MESH % f", extensionProviders: [{provider}]")
    assert made.findings("Telemetry istio-system/t") == ()

    (log,) = loggers(made, PROXIES["gateway"])["0.0.0.0_80"][0]
    config = message()
    assert (log.name, log.typed_config.Unpack(config)) == (name, True)
    assert violation(config) == ""
    service = config.common_config.grpc_service.envoy_grpc
    assert service.cluster_name in made.snapshot(PROXIES["gateway"]).clusters
    assert service.authority == "reviews.service.consul"


@pytest.mark.parametrize(
    ("spec", "reason", "text"),
    [
        (
            "{metrics: [{providers: [{name: als}]}]}",
            Reason.REFERENCE_NOT_FOUND,
            "spec.metrics[0].providers[0].name",
        ),
        (
            "{metrics: [{reportingInterval: 5s}]}",
            Reason.NOT_TRANSLATED,
            "spec.metrics[0].reportingInterval",
        ),
        (
            "{metrics: [{overrides: [{match: {metric: GRPC_REQUEST_MESSAGES}}]}]}",
            Reason.NOT_TRANSLATED,
            "spec.metrics[0].overrides[0].match",
        ),
        (
            "{accessLogging: [{providers: [{name: nope}]}]}",
            Reason.REFERENCE_NOT_FOUND,
            "spec.accessLogging[0].providers[0].name",
        ),
        (
            "{accessLogging: [{providers: [{name: als}]}]}",
            Reason.REFERENCE_NOT_FOUND,
            "spec.accessLogging[0].providers[0].name",
        ),
    ],
)
def test_what_has_no_effect_is_told(spec: str, reason: Reason, text: str) -> None:
    als = ", extensionProviders: [{name: als, envoyHttpAls: {service: a.b, port: 1}}]"
    made = translator(telemetry(spec), MESH % als)
    (finding,) = made.findings("Telemetry istio-system/t")
    assert (finding.reason, text in finding.message) == (reason, True)


def test_the_older_of_two_for_a_namespace_counts() -> None:
    made = translator(ALL, telemetry("{}", "u"))
    (finding,) = made.findings("Telemetry istio-system/u")
    assert finding.reason is Reason.CONFLICTED
    assert made.findings("Telemetry istio-system/t") == ()
