"""Rules of MeshConfig."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import timedelta

from dockermesh.config.api.mesh_config import (
    AccessLogEncoding,
    EnvoyFileAccessLogProvider,
    ExternalAuthorizationProvider,
    GrpcLogProvider,
    LogFormat,
    MeshConfig,
    OtlpLogProvider,
    Provider,
    TracingProvider,
)
from dockermesh.config.fields import camel_case, json_name
from dockermesh.config.findings import Cursor, render_path
from dockermesh.config.resource import Resource
from dockermesh.config.rules.headers import check_name
from dockermesh.config.rules.log_format import check_labels, check_text
from dockermesh.config.rules.names import check_host, check_label, check_port
from dockermesh.config.rules.scope import check_export, report
from dockermesh.config.rules.telemetry import check_custom_tags

_LONGEST_CONNECT = timedelta(hours=1)
_LOG_FILES = frozenset({"/dev/stdout", "/dev/stderr", "/dev/null"})
"""A proxy's root is read-only, and Envoy refuses a listener whose log it cannot open."""
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
    _check_access_log(spec, at)
    _check_providers(spec, at / "extensionProviders")
    if spec.default_config is not None and spec.default_config.tracing is not None:
        tags = at / "defaultConfig" / "tracing" / "customTags"
        check_custom_tags(spec.default_config.tracing.custom_tags, tags)


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


def _check_access_log(spec: MeshConfig, at: Cursor) -> None:
    _check_log_file(spec.access_log_file, at / "accessLogFile")
    place = at / "accessLogFormat"
    if spec.access_log_encoding is not AccessLogEncoding.JSON:
        report(place, check_text(spec.access_log_format))
    elif spec.access_log_format:
        _check_json_format(spec.access_log_format, place)


def _check_json_format(text: str, at: Cursor) -> None:
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError) as error:
        at.error(f"must be JSON, as accessLogEncoding says: {error}")
        return
    if not isinstance(labels, dict):
        at.error("must be an object of JSON, as accessLogEncoding says")
        return
    for path, wrong in check_labels(labels):
        at.error(f"{render_path(path)}: {wrong}")


def _check_log_file(path: str, at: Cursor) -> None:
    if path and path not in _LOG_FILES:
        at.error(
            f"must be one of {', '.join(sorted(_LOG_FILES))}: a proxy has no other"
        )


def _check_file_provider(file: EnvoyFileAccessLogProvider, at: Cursor) -> None:
    _check_log_file(file.path, at / "path")
    _check_format(file.log_format, at / "logFormat")


def _check_format(form: LogFormat | None, at: Cursor) -> None:
    if form is None:
        return
    report(at / "text", check_text(form.text or ""))
    for path, wrong in check_labels(form.labels or {}):
        place = at / "labels"
        for part in path:
            place = place / part
        place.error(wrong)


def _check_logged_headers(provider: GrpcLogProvider, at: Cursor) -> None:
    for field in (
        "additional_request_headers_to_log",
        "additional_response_headers_to_log",
        "additional_response_trailers_to_log",
    ):
        for index, name in enumerate(getattr(provider, field)):
            report(at / camel_case(field) / index, check_name(name))


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
        if isinstance(entry, EnvoyFileAccessLogProvider):
            _check_file_provider(entry, place)
        if isinstance(entry, OtlpLogProvider):
            _check_format(entry.log_format, place / "logFormat")
        if isinstance(entry, GrpcLogProvider):
            _check_logged_headers(entry, place)
        if isinstance(entry, ExternalAuthorizationProvider):
            _check_authorizer(entry, place)
        if isinstance(entry, TracingProvider):
            _check_export(entry, place)


def _check_export(provider: TracingProvider, at: Cursor) -> None:
    """What Envoy would refuse of what is sent along with spans."""
    sent = [(at / "headers", provider.headers)]
    if provider.http is not None:
        sent.append((at / "http" / "headers", provider.http.headers))
    if provider.grpc is not None:
        place = at / "grpc" / "initialMetadata"
        sent.append((place, provider.grpc.initial_metadata))
    for place, headers in sent:
        for index, header in enumerate(headers):
            report(place / index / "name", check_name(header.name))
            if header.value is not None and not header.value.isprintable():
                (place / index / "value").error("must be printable")
            if header.env_name is not None:
                (place / index / "envName").warn(
                    "has no effect, as there is no istiod: give its value"
                )
    paths = (provider.path, provider.http.path if provider.http else "")
    for path in paths:
        if path and not (path.isascii() and path.isprintable() and " " not in path):
            (at / "path").error("is not the path of a URL")


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
