"""The control plane's metrics that are the same thing as in Istio, under Istio's names, with its
types, labels and buckets, for its boards.

Sources: istio/istio's pilot/pkg/xds/monitoring.go, pkg/xds/monitoring.go,
security/pkg/server/ca/monitoring.go, pkg/webhooks/validation/server/monitoring.go.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import (
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)

from dockermesh import __version__
from dockermesh.controlplane.trust.trust import Trust
from dockermesh.controlplane.updates import Updates
from dockermesh.kubeapi.verdicts import Verdicts
from dockermesh.runtime.histogram import Histogram
from dockermesh.xds import Metrics, Sync
from dockermesh.xds.server import Refusal
from dockermesh.xds.snapshot import FIELDS

_STARTED = time.monotonic()
_TYPES = {
    "clusters": "cds",
    "endpoints": "eds",
    "listeners": "lds",
    "routes": "rds",
    "secrets": "sds",
    "extensions": "ecds",
}
"""What Istio calls the types."""
_ENVOYS_CODE = "Internal"
"""Of gRPC, in every refusal that Envoy sends."""
_TRIGGERS = ("config", "endpoint", "global", "proxy", "service")
_INBOUND = ("config", "eds", "svc", "svcdelete")
_COUNTERS = (
    *("pilot_xds_pushes", "pilot_total_xds_rejects", "pilot_xds_expired_nonce"),
    *(
        "pilot_push_triggers",
        "pilot_inbound_updates",
        "pilot_total_xds_internal_errors",
    ),
    *("galley_validation_passed", "galley_validation_failed"),
    *("citadel_server_csr_count", "citadel_server_success_cert_issuance_count"),
    "citadel_server_csr_sign_err_count",
)
"""Counters that Istio calls so; the library would call them `_total`."""
_UNTYPED = re.compile(rf"(?m)^(# TYPE (?:{'|'.join(_COUNTERS)})) untyped$")


def with_istios_types(text: str) -> str:
    """The text with the type of Istio's counters, which are made as untyped ones for their
    names.
    """
    return _UNTYPED.sub(r"\1 counter", text)


def istio_metrics(metrics: Metrics, sync: Sync) -> Iterator[Metric]:
    """Of connections and pushes."""
    connected = GaugeMetricFamily("pilot_xds", "Proxies connected.", labels=["version"])
    connected.add_metric([__version__], sync.connected)
    yield connected

    per_type = (
        ("pilot_xds_pushes", "Responses sent to proxies.", metrics.pushes),
        ("pilot_total_xds_rejects", "Responses that proxies refused.", metrics.nacks),
        (
            "pilot_xds_expired_nonce",
            "Requests that answer a response of before.",
            metrics.stale_nonces,
        ),
    )
    for name, text, counts in per_type:
        named = {_TYPES[field]: counts.get(url, 0) for url, field in FIELDS.items()}
        yield _counter(name, text, "type", named)
    yield UnknownMetricFamily(
        "pilot_total_xds_internal_errors",
        "Proxies whose part could not be made.",
        value=metrics.internal_errors,
    )

    timings = metrics.timings
    yield _by_type(
        "pilot_xds_push_time",
        "Seconds from the making of a response until it is written.",
        timings.push,
    )
    yield _by_type("pilot_xds_config_size_bytes", "Sizes of responses.", timings.size)
    whole = (
        ("pilot_xds_send_time", "Seconds that a response is written.", timings.send),
        (
            "pilot_proxy_queue_time",
            "Seconds from a push until its first response to a proxy is made.",
            timings.queue,
        ),
        (
            "pilot_proxy_convergence_time",
            "Seconds from a change until a proxy was sent all that follows, and took it.",
            timings.proxy,
        ),
    )
    for name, text, histogram in whole:
        yield _histogram(name, text, histogram)


def istio_updates(updates: Updates, services: int, routes: int) -> Iterator[Metric]:
    """Of what comes in: `services` of the catalog, `routes` are VirtualServices."""
    yield _counter(
        "pilot_push_triggers",
        "Reasons of pushes.",
        "type",
        {name: updates.triggers[name] for name in _TRIGGERS},
    )
    yield _counter(
        "pilot_inbound_updates",
        "Changes of the registry, by service, and of the config.",
        "type",
        {name: updates.inbound[name] for name in _INBOUND},
    )
    yield _histogram(
        "pilot_debounce_time",
        "Seconds from a change until proxies are told.",
        updates.gathered,
    )
    yield _histogram(
        "pilot_pushcontext_init_seconds",
        "Seconds that a translation takes.",
        updates.translated,
    )
    for name, text, value in (
        ("pilot_services", "Services known.", services),
        ("pilot_virt_services", "VirtualServices known.", routes),
        (
            "istiod_uptime_seconds",
            "Since the start of the control plane.",
            time.monotonic() - _STARTED,
        ),
    ):
        yield GaugeMetricFamily(name, text, value=value)

    info = GaugeMetricFamily("pilot_info", "Version.", labels=["version"])
    info.add_metric([__version__], 1)
    yield info
    build = GaugeMetricFamily("istio_build", "Version.", labels=["component", "tag"])
    build.add_metric(["pilot", __version__], 1)
    yield build


def istio_rejects(refusals: Iterable[Refusal]) -> Iterator[Metric]:
    """Of what proxies refuse at the moment."""
    families = {
        field: GaugeMetricFamily(
            f"pilot_xds_{_TYPES[field]}_reject",
            f"Proxies that refuse {field} at the moment.",
            labels=["node", "err"],
        )
        for field in ("clusters", "endpoints", "listeners", "routes")
    }
    for node, type_url, _ in refusals:
        if (field := FIELDS.get(type_url, "")) in families:
            families[field].add_metric([node, _ENVOYS_CODE], 1)
    yield from families.values()


def istio_validation(verdicts: Verdicts) -> Iterator[Metric]:
    """Of writes to the config API."""
    labels = ["group", "version", "resource"]
    passed = UnknownMetricFamily(
        "galley_validation_passed", "Writes that were valid.", labels=labels
    )
    for kind, count in verdicts.passed.items():
        passed.add_metric([*kind], count)
    yield passed
    failed = UnknownMetricFamily(
        "galley_validation_failed",
        "Writes that were not valid.",
        labels=[*labels, "reason"],
    )
    for (kind, reason), count in verdicts.failed.items():
        failed.add_metric([*kind, reason], count)
    yield failed


def istio_ca(trust: Trust) -> Iterator[Metric]:
    """Of the CA. It makes keys itself: what it is asked for is a certificate, without a CSR."""
    secrets = trust.secrets
    if secrets is None:
        return
    yield UnknownMetricFamily(
        "citadel_server_csr_count",
        "Certificates that were to be issued.",
        value=secrets.issued + secrets.failures,
    )
    yield UnknownMetricFamily(
        "citadel_server_success_cert_issuance_count",
        "Certificates that were issued.",
        value=secrets.issued,
    )
    yield _counter(
        "citadel_server_csr_sign_err_count",
        "Certificates that could not be issued.",
        "error",
        {"CERT_GEN_ERROR": secrets.failures},
    )

    material = trust.authority.material
    ends = {
        "root_cert": min(root.not_valid_after_utc for root in material.roots),
        "cert_chain": material.signer.certificate.not_valid_after_utc,
    }
    for name, end in ends.items():
        what = "a root" if name == "root_cert" else "the signing certificate"
        yield GaugeMetricFamily(
            f"citadel_server_{name}_expiry_timestamp",
            f"Unix time when {what} expires.",
            value=end.timestamp(),
        )
        yield GaugeMetricFamily(
            f"citadel_server_{name}_expiry_seconds",
            f"Seconds until {what} expires.",
            value=end.timestamp() - time.time(),
        )


def histogram_of(
    name: str, text: str, label: str, found: Mapping[str, Histogram]
) -> Metric:
    """A family with one histogram for each value of a label."""
    family = HistogramMetricFamily(name, text, labels=[label])
    for value, histogram in found.items():
        family.add_metric([value], histogram.buckets(), histogram.total)
    return family


def _by_type(name: str, text: str, found: Mapping[str, Histogram]) -> Metric:
    named = {_TYPES[FIELDS[url]]: histogram for url, histogram in found.items()}
    return histogram_of(name, text, "type", named)


def _histogram(name: str, text: str, found: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text)
    family.add_metric([], found.buckets(), found.total)
    return family


def _counter(
    name: str, text: str, label: str, counts: Mapping[str, int] | Counter[str]
) -> Metric:
    family = UnknownMetricFamily(name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
