"""Rules of MeshConfig."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import timedelta

from dockermesh.config.api.mesh_config import (
    ExternalAuthorizationProvider,
    MeshConfig,
    Provider,
)
from dockermesh.config.fields import camel_case, json_name
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.names import check_host, check_label, check_port
from dockermesh.config.rules.scope import check_export, report

_LONGEST_CONNECT = timedelta(hours=1)
_STATUS = re.compile(r"[1-5][0-9][0-9]")


def check_mesh_config(resource: Resource[MeshConfig], at: Cursor) -> None:
    """All rules of a MeshConfig."""
    # Both modules are large, and most files have no MeshConfig.
    from dockermesh.config.rules.http_route import check_retries
    from dockermesh.config.rules.locality import check_locality

    spec = resource.spec
    _check_names(spec, at)
    if spec.connect_timeout is not None and spec.connect_timeout > _LONGEST_CONNECT:
        (at / "connectTimeout").error("must be at most 1h")
    if spec.mesh_mtls is not None and spec.mesh_mtls.ecdh_curves:
        (at / "meshMTLS" / "ecdhCurves").error("is not supported, use tlsDefaults")

    # What outlier detection there is, services say for themselves.
    check_locality(spec.locality_lb_setting, at / "localityLbSetting", has_outlier=True)
    if spec.default_http_retry_policy is not None:
        check_retries(spec.default_http_retry_policy, at / "defaultHttpRetryPolicy")
    for field in _EXPORTS:
        place = at / camel_case(field)
        check_export(getattr(spec, field), resource.namespace, place, service=True)
    _check_providers(spec, at / "extensionProviders")


_EXPORTS = (
    "default_service_export_to",
    "default_virtual_service_export_to",
    "default_destination_rule_export_to",
)


def _check_names(spec: MeshConfig, at: Cursor) -> None:
    if spec.trust_domain:
        report(at / "trustDomain", _check_trust_domain(spec.trust_domain))
    for index, alias in enumerate(spec.trust_domain_aliases):
        report(at / "trustDomainAliases" / index, _check_trust_domain(alias))
    if spec.root_namespace:
        report(at / "rootNamespace", check_label(spec.root_namespace, "namespace"))


def _check_providers(spec: MeshConfig, at: Cursor) -> None:
    names: set[str] = set()
    for index, provider in enumerate(spec.extension_providers):
        _check_provider(provider, at / index)
        if provider.name in names:
            (at / index / "name").error(f"duplicate provider {provider.name!r}")
        names.add(provider.name)


def _check_trust_domain(domain: str) -> str:
    labels = domain.removesuffix(".").split(".")
    return next(
        (
            wrong
            for wrong in (check_label(label, "trust domain") for label in labels)
            if wrong
        ),
        "",
    )


def _check_provider(provider: Provider, at: Cursor) -> None:
    if not provider.name:
        (at / "name").error("must not be empty")
    if not any(getattr(provider, name) is not None for name in Provider.ONEOFS[0]):
        at.error("must have a provider, for example envoyFileAccessLog or zipkin")

    for field in fields(provider):
        entry, place = getattr(provider, field.name), at / json_name(field)
        if hasattr(entry, "service"):
            _check_service(entry.service, place / "service")
            report(place / "port", check_port(entry.port))
        if isinstance(entry, ExternalAuthorizationProvider):
            _check_authorizer(entry, place)


def _check_service(service: str, at: Cursor) -> None:
    # `host` or `namespace/host`; the namespace only tells several services of one host apart.
    host = service.rpartition("/")[2]
    report(at, check_host(host) if host != "*" else "must be one service")


def _check_authorizer(authorizer: ExternalAuthorizationProvider, at: Cursor) -> None:
    status = authorizer.status_on_error
    if status and not _STATUS.fullmatch(status):
        (at / "statusOnError").error(f"{status[:20]!r} is not an HTTP status")
    if authorizer.path_prefix and not authorizer.path_prefix.startswith("/"):
        (at / "pathPrefix").error("must start with '/'")
