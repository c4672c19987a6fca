"""Writes the boards of Grafana, compose/telemetry/grafana/boards/*.json, from what each of their
panels shows.

Run `python scripts/boards.py`; a unit test fails while the two differ, and another asks a real
Prometheus every query.
"""

from __future__ import annotations

from pathlib import Path

from grafana import Board, Panel, Variable, text
from panels import (
    DURATION,
    FAILED,
    REQUESTS,
    SERVER_SIDE,
    SOURCE_SIDE,
    connections,
    number,
    or_none,
    quantile,
    quantiles,
    rate,
    requests,
    row,
    shares,
    success,
)

FOLDER = Path(__file__).parents[1] / "compose/telemetry/grafana/boards"
MESH = Board(
    "mesh",
    "Mesh",
    "The whole mesh at a glance: who is called how often, what fails, what is encrypted.",
    [
        number(
            "Requests",
            rate(REQUESTS, SOURCE_SIDE),
            "reqps",
            "As the callers' proxies report them, which know what never arrived.",
        ),
        number("Success", success(SOURCE_SIDE), "percentunit"),
        number(
            "Failed",
            or_none(rate(REQUESTS, f"{SOURCE_SIDE},{FAILED}")),
            "reqps",
            "5xx, and requests that got no answer.",
        ),
        number(
            "Without mutual TLS",
            or_none(
                rate(
                    REQUESTS,
                    f'{SERVER_SIDE},connection_security_policy!="mutual_tls"',
                )
            ),
            "reqps",
            "As the servers' proxies see it: their callers are no members of the mesh.",
        ),
        number("Proxies that answer", 'count(up{job="proxies"} == 1)'),
        number(
            "Not counted",
            f"clamp_min({rate('dockermesh_requests_total')} - {or_none(rate(REQUESTS))}, 0)",
            "reqps",
            "Requests for whose labels a proxy had no room; its bounds are in docs/telemetry.md.",
        ),
        Panel(
            "Services by HTTP and gRPC",
            shares("destination_service"),
            kind="table",
            width=24,
        ),
        Panel(
            "Services by TCP",
            {
                "sent/s": rate(
                    "istio_tcp_sent_bytes_total", SOURCE_SIDE, "destination_service"
                ),
                "received/s": rate(
                    "istio_tcp_received_bytes_total", SOURCE_SIDE, "destination_service"
                ),
                "opened/s": rate(
                    "istio_tcp_connections_opened_total",
                    SOURCE_SIDE,
                    "destination_service",
                ),
            },
            kind="table",
            width=24,
        ),
        Panel(
            "Requests by service",
            {
                "{{destination_service}}": rate(
                    REQUESTS, SOURCE_SIDE, "destination_service"
                )
            },
            "reqps",
        ),
        Panel(
            "Requests by code",
            {"{{response_code}}": rate(REQUESTS, SOURCE_SIDE, "response_code")},
            "reqps",
        ),
        Panel(
            "Who calls whom",
            {
                "{{source_workload}} to {{destination_workload}}": rate(
                    REQUESTS, SOURCE_SIDE, "source_workload, destination_workload"
                ),
            },
            "reqps",
        ),
        Panel("Duration of all requests", quantiles(DURATION, SOURCE_SIDE), "ms"),
    ],
)
_OF_SERVICE = 'destination_service=~"$service"'
SERVICE = Board(
    "service",
    "Service",
    "One service, as its callers see it and as its workloads do.",
    [
        number("Requests", rate(REQUESTS, f"{SOURCE_SIDE},{_OF_SERVICE}"), "reqps"),
        number("Success", success(f"{SOURCE_SIDE},{_OF_SERVICE}"), "percentunit"),
        number("p99", quantile("0.99", DURATION, f"{SOURCE_SIDE},{_OF_SERVICE}"), "ms"),
        number(
            "Requests that arrive",
            rate(REQUESTS, f"{SERVER_SIDE},{_OF_SERVICE}"),
            "reqps",
        ),
        number(
            "Workloads that serve",
            f"count({rate(REQUESTS, f'{SERVER_SIDE},{_OF_SERVICE}', 'destination_workload')} > 0)",
        ),
        number(
            "TCP",
            rate("istio_tcp_sent_bytes_total", f"{SERVER_SIDE},{_OF_SERVICE}"),
            "Bps",
        ),
        row("As its callers see it"),
        *requests(
            f"{SOURCE_SIDE},{_OF_SERVICE}", "source_workload", "{{source_workload}}"
        ),
        row("As its workloads see it"),
        *requests(
            f"{SERVER_SIDE},{_OF_SERVICE}",
            "destination_workload",
            "{{destination_workload}}",
        ),
        row("TCP, as its workloads see it"),
        *connections(
            f"{SERVER_SIDE},{_OF_SERVICE}",
            "destination_workload",
            "{{destination_workload}}",
        ),
    ],
    [
        Variable(
            "service",
            "destination_service",
            '{__name__=~"istio_requests_total|istio_tcp_connections_opened_total"}',
        )
    ],
)
_AS_SERVER = (
    f'{SERVER_SIDE},destination_workload_namespace=~"$namespace",'
    'destination_workload=~"$workload"'
)
_AS_CLIENT = (
    f'{SOURCE_SIDE},source_workload_namespace=~"$namespace",'
    'source_workload=~"$workload"'
)
WORKLOAD = Board(
    "workload",
    "Workload",
    "One workload: what it is asked, and what it asks others.",
    [
        number("Asked", rate(REQUESTS, _AS_SERVER), "reqps"),
        number("Success", success(_AS_SERVER), "percentunit"),
        number("p99", quantile("0.99", DURATION, _AS_SERVER), "ms"),
        number("Asks", or_none(rate(REQUESTS, _AS_CLIENT)), "reqps"),
        number(
            "By mutual TLS",
            rate(REQUESTS, f'{_AS_SERVER},connection_security_policy="mutual_tls"'),
            "reqps",
        ),
        number(
            "TCP",
            or_none(rate("istio_tcp_sent_bytes_total", _AS_SERVER)),
            "Bps",
        ),
        row("What it is asked"),
        *requests(_AS_SERVER, "source_workload", "{{source_workload}}"),
        *connections(_AS_SERVER, "source_workload", "{{source_workload}}"),
        row("What it asks"),
        *requests(_AS_CLIENT, "destination_service", "{{destination_service}}"),
        *connections(_AS_CLIENT, "destination_service", "{{destination_service}}"),
    ],
    [
        # By the targets of Prometheus: workloads that only ask others are among them.
        Variable("namespace", "namespace", 'up{job="proxies"}'),
        Variable("workload", "workload", 'up{job="proxies",namespace=~"$namespace"}'),
    ],
)
CONTROL_PLANE = Board(
    "control-plane",
    "Control plane",
    "How soon changes are with all proxies, and how it stands with what makes them.",
    [
        number("Proxies connected", "sum(pilot_xds)"),
        number("Proxies missing", "min(dockermesh_proxies_missing)"),
        number("Behind", "sum(dockermesh_proxies_pending)"),
        number("Refusing", "sum(dockermesh_proxies_nacked)"),
        number("Oldest change under way", "max(dockermesh_unconverged_seconds)", "s"),
        number(
            "Registry not followed for", "max(dockermesh_registry_lag_seconds)", "s"
        ),
        row("From a change to the proxies"),
        Panel(
            "Until the last proxy took it",
            {
                "{{of}} p50": quantile(
                    "0.5", "dockermesh_convergence_seconds", by="of"
                ),
                "{{of}} p99": quantile(
                    "0.99", "dockermesh_convergence_seconds", by="of"
                ),
            },
            "s",
        ),
        Panel("Until a proxy took it", quantiles("pilot_proxy_convergence_time"), "s"),
        Panel("Reasons", {"{{type}}": rate("pilot_push_triggers", by="type")}, "ops"),
        Panel(
            "What came in",
            {"{{type}}": rate("pilot_inbound_updates", by="type")},
            "ops",
        ),
        Panel(
            "Where the time goes, p99",
            {
                "gathering": quantile("0.99", "pilot_debounce_time"),
                "translating": quantile("0.99", "pilot_pushcontext_init_seconds"),
                "in the queue": quantile("0.99", "pilot_proxy_queue_time"),
                "sending": quantile("0.99", "pilot_xds_send_time"),
            },
            "s",
        ),
        Panel(
            "Making and sending of a response, p99",
            {"{{type}}": quantile("0.99", "pilot_xds_push_time", by="type")},
            "s",
        ),
        row("xDS"),
        Panel("Pushes", {"{{type}}": rate("pilot_xds_pushes", by="type")}, "ops"),
        Panel(
            "Size of a response, p90",
            {"{{type}}": quantile("0.9", "pilot_xds_config_size_bytes", by="type")},
            "bytes",
        ),
        Panel(
            "Refused by proxies",
            {"{{type}}": rate("pilot_total_xds_rejects", by="type")},
            "ops",
        ),
        Panel(
            "Failures of ours",
            {
                "a proxy's part": rate("pilot_total_xds_internal_errors"),
                "streams refused": rate("dockermesh_xds_streams_refused_total"),
            },
            "ops",
        ),
        row("Registry and config"),
        Panel(
            "What there is",
            {
                "services": "max(pilot_services)",
                "workloads": "max(dockermesh_workloads)",
                "VirtualServices": "max(pilot_virt_services)",
            },
        ),
        Panel(
            "Writes to the config API",
            {
                "valid": or_none(rate("galley_validation_passed")),
                "not valid": or_none(rate("galley_validation_failed")),
            },
            "ops",
        ),
        Panel(
            "Degraded",
            {
                "registry": "max(dockermesh_registry_degraded)",
                "config": "max(dockermesh_config_degraded)",
                "CA": "max(dockermesh_ca_degraded)",
                "state": "max(dockermesh_state_degraded)",
                "engine": "max(dockermesh_engine_degraded)",
                "limiter": "max(dockermesh_limiter_degraded)",
            },
            about="1 while it is; `dockermesh ps` says why.",
        ),
        Panel(
            "Not in force",
            {
                "refused, {{instead}} instead": "max by (instead) (dockermesh_config_refused)",
                "damaged, {{used}} used": "max by (used) (dockermesh_config_damaged)",
            },
            about="Stored resources.",
        ),
        row("Certificates"),
        Panel(
            "Issued",
            {
                "issued": rate("citadel_server_success_cert_issuance_count"),
                "failed": rate("citadel_server_csr_sign_err_count"),
            },
            "ops",
        ),
        Panel(
            "Held by proxies",
            {
                "all": "sum(dockermesh_certificates)",
                "overdue": "sum(dockermesh_certificates_overdue)",
            },
        ),
        Panel(
            "Time left",
            {
                "root": "min(citadel_server_root_cert_expiry_seconds)",
                "signing": "min(citadel_server_cert_chain_expiry_seconds)",
                "first of the proxies'": "min(dockermesh_certificates_expiry_seconds) - time()",
            },
            "s",
        ),
        Panel(
            "Age of the oldest certificate",
            {"": "max(dockermesh_certificates_oldest_seconds)"},
            "s",
        ),
        row("The process, and what it does beside"),
        Panel(
            "CPU",
            {
                "{{instance}}": rate(
                    "process_cpu_seconds_total", 'job="control-plane"', "instance"
                )
            },
            "percentunit",
        ),
        Panel(
            "Memory",
            {"{{instance}}": 'process_resident_memory_bytes{job="control-plane"}'},
            "bytes",
        ),
        Panel("Open files", {"{{instance}}": 'process_open_fds{job="control-plane"}'}),
        Panel(
            "Healed",
            {"{{role}}: {{by}}": rate("dockermesh_healed_total", by="role, by")},
            "ops",
            about="By the registrar in the control plane; others have no metrics.",
        ),
        Panel(
            "Spans",
            {"{{outcome}}": rate("dockermesh_spans_total", by="outcome")},
            "ops",
        ),
        Panel(
            "The limiter's decisions",
            {
                "{{outcome}}": or_none(
                    rate("dockermesh_limiter_decisions_total", by="outcome")
                )
            },
            "ops",
        ),
        number("Version", 'count by (tag) (istio_build{component="pilot"})'),
        number("Up since", "min(istiod_uptime_seconds)", "s"),
    ],
)
BOARDS = (MESH, SERVICE, WORKLOAD, CONTROL_PLANE)


if __name__ == "__main__":
    for made in BOARDS:
        (FOLDER / f"{made.name}.json").write_text(text(made))
