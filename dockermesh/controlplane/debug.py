"""The control plane's health, metrics and debug pages on 15014, with Istio's paths.

`/healthz`, `/readyz` are open; all others want the API token, but for what Prometheus reads, which
takes its own, too.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from aiohttp import web

from dockermesh.ca import Leaf
from dockermesh.controlplane.spans.collector import SpanCollector
from dockermesh.controlplane.telemetry.scraper import scraper_token
from dockermesh.controlplane.telemetry.targets import targets
from dockermesh.controlplane.trust.ca_report import is_late, utc_text
from dockermesh.http.auth import TokenGate, require_token
from dockermesh.model import (
    Catalog,
    Endpoint,
    ProxyMode,
    Refusal,
    Workload,
    WorkloadKind,
)
from dockermesh.model.contract import TARGETS_PATH
from dockermesh.translate.mtls_report import MtlsReport
from dockermesh.xds import ProxyStatus, Sync
from dockermesh.xds.config_dump import config_dump
from dockermesh.xds.snapshot import FIELDS, Snapshot

_NO_LEAVES: Mapping[str, Leaf] = MappingProxyType({})
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
READER_PATHS = frozenset({"/metrics", TARGETS_PATH})
"""For Prometheus' own token, too."""


class View(Protocol):
    """What the pages show, read from the running control plane."""

    def readiness(self) -> list[str]:
        """What is still missing; empty when ready."""

    def catalog(self) -> Catalog:
        """The latest catalog."""

    def proxies(self) -> list[ProxyStatus]:
        """The connected proxies."""

    def sync(self) -> Sync:
        """How far they are."""

    async def settled(self) -> None:
        """Wait until proxies are told of all that is known; who has just changed something asks
        about that.
        """

    def trust_domain(self) -> str:
        """The mesh's trust domain."""

    def snapshot_of(self, workload: str) -> Snapshot | None:
        """What a workload's proxy is to have, without its certificate."""

    def mtls(self) -> MtlsReport:
        """What is encrypted, and what STRICT would break."""

    def certificates(self) -> Mapping[str, Leaf]:
        """The certificates last given to proxies, by workload."""

    def config_problems(self) -> list[str]:
        """Why config or tokens are not what their store says, or may be out of date."""

    def warnings(self) -> list[str]:
        """What is to be said about the CA and the renewal of certificates."""

    def host_problems(self) -> list[str]:
        """What is wrong with the control plane's disk or engine."""

    def metrics_dropped(self) -> list[str]:
        """Which proxies have no room for more metrics."""

    def refused(self) -> list[Refusal]:
        """Registrations that ask for what is another's."""

    def metrics_text(self) -> str:
        """All metrics in Prometheus' text format."""

    @property
    def spans(self) -> SpanCollector:
        """What takes proxies' spans."""


def make_debug_app(view: View, token: str) -> web.Application:
    """The HTTP application of port 15014."""
    gate = TokenGate(token, reader=scraper_token(token))
    check = require_token(gate, open_paths=OPEN_PATHS, reader_paths=READER_PATHS)
    app = web.Application(middlewares=[check])

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        missing = view.readiness()
        return web.Response(
            text="\n".join(missing or ["ok"]) + "\n", status=503 if missing else 200
        )

    async def workloads(_: web.Request) -> web.Response:
        await view.settled()
        report = workload_report(
            view.catalog(), view.proxies(), view.sync(), view.certificates()
        )
        return web.json_response(
            report
            | {
                "trust_domain": view.trust_domain(),
                "config": view.config_problems(),
                "warnings": view.warnings(),
                "host": view.host_problems(),
                "metrics": view.metrics_dropped(),
                "refused": [refusal.to_dict() for refusal in view.refused()],
            }
        )

    async def syncz(_: web.Request) -> web.Response:
        await view.settled()
        return web.json_response([proxy_report(p) for p in view.proxies()])

    async def dump(request: web.Request) -> web.Response:
        # istioctl's parameter.
        wanted = request.query.get("proxyID", "")
        await view.settled()
        # Istio's ids end with the namespace.
        listed = view.catalog().workloads.values()
        names = (
            w.name for w in listed if wanted in {w.name, f"{w.name}.{w.namespace}"}
        )
        snapshot = view.snapshot_of(next(names, ""))
        if snapshot is None:
            return web.json_response(
                {"message": f"there is no workload {wanted!r}; give ?proxyID=WORKLOAD"},
                status=404,
            )

        # A large mesh takes seconds, in which streams must go on; a snapshot never changes, so a
        # thread may read it.
        text = await asyncio.to_thread(lambda: json.dumps(config_dump(snapshot)))
        return web.Response(text=text, content_type="application/json")

    async def registryz(_: web.Request) -> web.Response:
        return web.json_response(catalog_report(view.catalog()))

    async def mtls(_: web.Request) -> web.Response:
        return web.json_response(view.mtls().to_dict())

    async def scraped(_: web.Request) -> web.Response:
        return web.json_response(targets(view.catalog().workloads.values()))

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            text=view.metrics_text(), content_type="text/plain", charset="utf-8"
        )

    routes: dict[str, Callable[[web.Request], Any]] = {
        "/healthz": healthz,
        "/readyz": readyz,
        "/metrics": metrics,
        TARGETS_PATH: scraped,
        "/debug/workloads": workloads,
        "/debug/syncz": syncz,
        "/debug/config_dump": dump,
        "/debug/registryz": registryz,
        "/debug/mtls": mtls,
        "/debug/traces": view.spans.page,
    }
    for path, handler in routes.items():
        app.router.add_get(path, handler)
    return app


def proxy_report(proxy: ProxyStatus) -> dict[str, Any]:
    """A proxy's state as JSON: the words are those of `istioctl proxy-status`."""
    return {
        "proxy": proxy.proxy.key,
        "node": proxy.proxy.node.id,
        "envoy": proxy.proxy.node.user_agent_version,
        "connected_at": proxy.proxy.connected_at,
        "state": proxy.state.value,
        "types": {
            FIELDS[t.type_url]: {
                "state": t.state.value,
                "sent": t.sent_version,
                "acked": t.acked_version,
                **({"error": t.error} if t.error else {}),
            }
            for t in proxy.types
        },
    }


def workload_report(
    catalog: Catalog,
    proxies: list[ProxyStatus],
    sync: Sync,
    leaves: Mapping[str, Leaf] = _NO_LEAVES,
) -> dict[str, Any]:
    """Every workload with its endpoints' health, its proxy's state and the end of its
    certificate.
    """
    now = datetime.datetime.now(datetime.UTC)
    # A workload without a proxy is listed, too: that is what one looks for here.
    by_key = {p.proxy.key: p for p in proxies}
    at_nodes = {
        w.host: by_key.get(w.name)
        for w in catalog.workloads.values()
        if w.kind is WorkloadKind.NODE
    }
    endpoints: dict[str, list[Endpoint]] = defaultdict(list)

    for service in catalog.services.values():
        for endpoint in service.endpoints:
            if endpoint.workload:
                endpoints[endpoint.workload].append(endpoint)

    return {
        "control_plane": socket.gethostname(),
        "degraded": catalog.degraded,
        "sync": {
            "connected": sync.connected,
            "pending": sync.pending,
            "nacked": sync.nacked,
        },
        "workloads": [
            _workload(
                catalog.workloads[name],
                endpoints.get(name, []),
                at_nodes.get(catalog.workloads[name].host)
                if catalog.workloads[name].mode is ProxyMode.NODE
                else by_key.get(name),
            )
            | {"certificate": certificate_report(leaves.get(name), now)}
            for name in sorted(catalog.workloads)
        ],
    }


def certificate_report(
    leaf: Leaf | None, now: datetime.datetime
) -> dict[str, Any] | None:
    """Until when a certificate is good, when it is to be replaced, and whether that is overdue."""
    if leaf is None:
        return None
    return {
        "expires": utc_text(leaf.not_after),
        "renewal": utc_text(leaf.renew_at),
        "overdue": is_late(leaf, now),
    }


def _workload(
    workload: Workload, endpoints: list[Endpoint], proxy: ProxyStatus | None
) -> dict[str, Any]:
    report = proxy_report(proxy) if proxy is not None else None

    return {
        "name": workload.name,
        "kind": workload.kind.value,
        "mode": workload.mode.value,
        "project": workload.project,
        "service": workload.service,
        "namespace": workload.namespace,
        "service_account": workload.service_account,
        "address": workload.address,
        "host": workload.host,
        "labels": dict(workload.labels),
        "pod": workload.id,
        "app_container": workload.app_container,
        "proxy_container": workload.proxy_container,
        "ports": [
            {
                "service": p.service,
                "port": p.port,
                "protocol": p.protocol,
                "protocol_rule": workload.protocol_rules.get(str(p.port), ""),
            }
            for p in workload.ports
        ],
        "published": list(workload.published),
        "health": _health(workload, endpoints),
        "xds": report["state"] if report else "NOT CONNECTED",
        "proxy": report,
    }


def _health(workload: Workload, endpoints: list[Endpoint]) -> str:
    """The worst of the workload's endpoints; `none` if it serves but is not registered, `-` if it
    serves nothing.
    """
    if not workload.ports:
        return "-"
    # One bad port makes a workload bad: an average would hide it.
    states = {e.health.value for e in endpoints}
    return next(
        (s for s in ("unhealthy", "draining", "healthy") if s in states), "none"
    )


def catalog_report(catalog: Catalog) -> list[dict[str, Any]]:
    """Services and endpoints as the mesh sees them."""
    return [
        {
            "hostname": service.hostname,
            "name": service.name,
            "namespace": service.namespace,
            "aliases": list(service.aliases),
            "ports": [
                {"number": p.number, "protocol": p.protocol.value}
                for p in service.ports
            ],
            "endpoints": [
                {
                    "address": e.address,
                    "port": e.port,
                    "health": e.health.value,
                    "labels": dict(e.labels),
                    "workload": e.workload,
                    "locality": e.locality,
                }
                for e in service.endpoints
            ],
        }
        for service in catalog.services.values()
    ]
