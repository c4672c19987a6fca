"""Rules of MeshConfig."""

from __future__ import annotations

import re
from datetime import timedelta

from dockermesh.config.api.mesh_config import MeshConfig, Provider
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.names import check_host, check_label, check_port
from dockermesh.config.rules.scope import check_export, report

_LONGEST_CONNECT = timedelta(hours=1)
_STATUS = re.compile(r"[1-5][0-9][0-9]")


def check_mesh_config(resource: Resource[MeshConfig], at: Cursor) -> None:
    """All rules of a MeshConfig."""
    from dockermesh.config.rules.http_route import check_retries
    from dockermesh.config.rules.locality import check_locality

    spec = resource.spec
    for field, domains in (
        ("trustDomain", (spec.trust_domain,)),
        ("trustDomainAliases", spec.trust_domain_aliases),
    ):
        for index, domain in enumerate(domains):
            place = at / field if field == "trustDomain" else at / field / index
            if domain or field != "trustDomain":
                report(place, _check_trust_domain(domain))
    if spec.root_namespace:
        report(at / "rootNamespace", check_label(spec.root_namespace, "namespace"))
    if spec.connect_timeout is not None and spec.connect_timeout > _LONGEST_CONNECT:
        (at / "connectTimeout").error("must be at most 1h")
    if spec.mesh_mtls is not None and spec.mesh_mtls.ecdh_curves:
        (at / "meshMTLS" / "ecdhCurves").error("is not supported, use tlsDefaults")
    check_locality(spec.locality_lb_setting, at / "localityLbSetting", has_outlier=True)
    if spec.default_http_retry_policy is not None:
        check_retries(spec.default_http_retry_policy, at / "defaultHttpRetryPolicy")
    for field, entries in (
        ("defaultServiceExportTo", spec.default_service_export_to),
        ("defaultVirtualServiceExportTo", spec.default_virtual_service_export_to),
        ("defaultDestinationRuleExportTo", spec.default_destination_rule_export_to),
    ):
        check_export(entries, resource.namespace, at / field, service=True)
    names: set[str] = set()
    for index, provider in enumerate(spec.extension_providers):
        _check_provider(provider, at / "extensionProviders" / index)
        if provider.name in names:
            (at / "extensionProviders" / index / "name").error(
                f"duplicate provider {provider.name!r}"
            )
        names.add(provider.name)


def _check_trust_domain(domain: str) -> str:
    labels = domain.removesuffix(".").split(".")
    return next(
        (wrong for wrong in (check_label(label, "trust domain") for label in labels) if wrong), ""
    )


def _check_provider(provider: Provider, at: Cursor) -> None:
    if not provider.name:
        (at / "name").error("must not be empty")
    if not any(getattr(provider, name) is not None for name in Provider.ONEOFS[0]):
        at.error("must have a provider, for example envoyFileAccessLog or zipkin")
    services = {
        "envoyHttpAls": provider.envoy_http_als,
        "envoyTcpAls": provider.envoy_tcp_als,
        "envoyOtelAls": provider.envoy_otel_als,
        "zipkin": provider.zipkin,
        "opentelemetry": provider.opentelemetry,
        "datadog": provider.datadog,
        "lightstep": provider.lightstep,
        "skywalking": provider.skywalking,
        "envoyExtAuthzHttp": provider.envoy_ext_authz_http,
        "envoyExtAuthzGrpc": provider.envoy_ext_authz_grpc,
    }
    for name, entry in services.items():
        if entry is not None:
            host = entry.service.rpartition("/")[2]
            report(
                at / name / "service", check_host(host) if host != "*" else "must be one service"
            )
            report(at / name / "port", check_port(entry.port))
    for name, authorizer in (
        ("envoyExtAuthzHttp", provider.envoy_ext_authz_http),
        ("envoyExtAuthzGrpc", provider.envoy_ext_authz_grpc),
    ):
        if authorizer is None:
            continue
        if authorizer.status_on_error and not _STATUS.fullmatch(authorizer.status_on_error):
            (at / name / "statusOnError").error(
                f"{authorizer.status_on_error[:20]!r} is not an HTTP status"
            )
        if authorizer.path_prefix and not authorizer.path_prefix.startswith("/"):
            (at / name / "pathPrefix").error("must start with '/'")
