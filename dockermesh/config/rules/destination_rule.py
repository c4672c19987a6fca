"""Rules of DestinationRule, and of the connection pool that Sidecar shares."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from dockermesh.config.api.destination_rule import (
    ClientTlsMode,
    ClientTlsSettings,
    ConnectionPoolSettings,
    ConsistentHashLB,
    DestinationRule,
    H2UpgradePolicy,
    HTTPCookie,
    HTTPSettings,
    LoadBalancerSettings,
    OutlierDetection,
    PortTrafficPolicy,
    Subset,
    TCPSettings,
    TrafficPolicy,
    TunnelSettings,
)
from dockermesh.config.api.health_check import ANNOTATION
from dockermesh.config.findings import Cursor
from dockermesh.config.health_check import read_health_check
from dockermesh.config.resource import Resource
from dockermesh.config.rules.locality import check_locality, check_zone_aware
from dockermesh.config.rules.names import (
    check_fqdn,
    check_host,
    check_label,
    check_port,
    is_ip_address,
)
from dockermesh.config.rules.scope import (
    check_export,
    check_label_selector,
    check_labels,
    report,
)

_MILLISECOND = timedelta(milliseconds=1)
_MAGLEV_LIMIT = 5_000_011
# CA certificates are no secret, so Istio takes them from a ConfigMap, too.
_CONFIG_MAP = "configmap://"


def check_destination_rule(resource: Resource[DestinationRule], at: Cursor) -> None:
    """All rules of a DestinationRule."""
    spec, namespace = resource.spec, resource.namespace
    report(at / "host", check_host(spec.host))
    if ANNOTATION in resource.annotations:
        at.findings.found.extend(read_health_check(resource.annotations[ANNOTATION])[1])
    _check_policy(spec.traffic_policy, namespace, at / "trafficPolicy")
    names: set[str] = set()
    for index, subset in enumerate(spec.subsets):
        if subset.name in names:
            (at / "subsets" / index / "name").error(
                f"duplicate subset name {subset.name!r}"
            )
        names.add(subset.name)
        _check_subset(subset, namespace, at / "subsets" / index)

    check_export(spec.export_to, namespace, at / "exportTo")
    if spec.workload_selector is not None and any(
        e not in (".", namespace) for e in spec.export_to
    ):
        (at / "exportTo").error(
            "with a workloadSelector it must be the rule's own namespace only"
        )

    check_label_selector(spec.workload_selector, at / "workloadSelector")


def _check_subset(subset: Subset, namespace: str, at: Cursor) -> None:
    report(at / "name", check_label(subset.name, "subset name"))
    check_labels(subset.labels, at / "labels")
    _check_policy(subset.traffic_policy, namespace, at / "trafficPolicy")


def _check_policy(policy: TrafficPolicy | None, namespace: str, at: Cursor) -> None:
    if policy is None:
        return
    if policy == TrafficPolicy():
        at.error("a traffic policy must have at least one field")
    if policy.tunnel is not None and policy.proxy_protocol is not None:
        (at / "proxyProtocol").error(
            "tunnel and proxyProtocol must not be set together"
        )

    _check_blocks(policy, namespace, at)
    for index, port in enumerate(policy.port_level_settings):
        _check_port_policy(port, namespace, at / "portLevelSettings" / index)
    if policy.tunnel is not None:
        _check_tunnel(policy.tunnel, at / "tunnel")


def _check_port_policy(policy: PortTrafficPolicy, namespace: str, at: Cursor) -> None:
    if policy.port is None:
        (at / "port").missing()
    else:
        report(at / "port" / "number", check_port(policy.port.number))
    if replace(policy, port=None) == PortTrafficPolicy():
        at.error("a port's traffic policy must have at least one field")
    _check_blocks(policy, namespace, at)


def _check_blocks(
    policy: TrafficPolicy | PortTrafficPolicy, namespace: str, at: Cursor
) -> None:
    if policy.outlier_detection is not None:
        _check_outlier(policy.outlier_detection, at / "outlierDetection")
    check_connection_pool(policy.connection_pool, at / "connectionPool")
    if policy.load_balancer is not None:
        _check_load_balancer(
            policy.load_balancer, policy.outlier_detection, at / "loadBalancer"
        )
    if policy.tls is not None:
        check_client_tls(policy.tls, namespace, at / "tls")


def _check_outlier(outlier: OutlierDetection, at: Cursor) -> None:
    if (
        outlier.consecutive_local_origin_failures
        and not outlier.split_external_local_origin_errors
    ):
        (at / "consecutiveLocalOriginFailures").error(
            "needs splitExternalLocalOriginErrors: true"
        )
    percentages = {
        "maxEjectionPercent": outlier.max_ejection_percent,
        "minHealthPercent": outlier.min_health_percent,
    }
    for name, value in percentages.items():
        if not 0 <= value <= 100:
            (at / name).error(f"percentage {value} is not in the range 0..100")


def check_connection_pool(pool: ConnectionPoolSettings | None, at: Cursor) -> None:
    """Limits of connections and requests."""
    if pool is None:
        return
    if pool.http is None and pool.tcp is None:
        at.error("a connection pool must have at least one of tcp and http")
    if pool.http is not None:
        _check_http_pool(pool.http, at / "http")
    if pool.tcp is not None:
        _check_tcp_pool(pool.tcp, at / "tcp")


def _check_http_pool(http: HTTPSettings, at: Cursor) -> None:
    limits = {
        "http1MaxPendingRequests": http.http1_max_pending_requests,
        "http2MaxRequests": http.http2_max_requests,
        "maxRequestsPerConnection": http.max_requests_per_connection,
        "maxRetries": http.max_retries,
        "maxConcurrentStreams": http.max_concurrent_streams,
    }
    for name, value in limits.items():
        if value < 0:
            (at / name).error(f"must not be negative: {value}")
    # Istio's limit.
    if http.max_requests_per_connection > 2**29:
        (at / "maxRequestsPerConnection").error("must be at most 2^29")
    # One makes everything HTTP/2, the other leaves that to the client.
    if http.h2_upgrade_policy is H2UpgradePolicy.UPGRADE and http.use_client_protocol:
        (at / "useClientProtocol").error(
            "must not be true when h2UpgradePolicy is UPGRADE"
        )


def _check_tcp_pool(tcp: TCPSettings, at: Cursor) -> None:
    if tcp.max_connections < 0:
        (at / "maxConnections").error(f"must not be negative: {tcp.max_connections}")
    idle = tcp.idle_timeout
    if idle is not None and (idle < timedelta(0) or idle % _MILLISECOND):
        (at / "idleTimeout").error(
            "must be 0s, or at least 1ms and a whole number of milliseconds"
        )


def _check_load_balancer(
    balancer: LoadBalancerSettings, outlier: OutlierDetection | None, at: Cursor
) -> None:
    if balancer.consistent_hash is not None:
        _check_consistent_hash(balancer.consistent_hash, at / "consistentHash")
    check_locality(
        balancer.locality_lb_setting,
        at / "localityLbSetting",
        has_outlier=outlier is not None,
    )
    check_zone_aware(
        balancer.zone_aware_lb_setting,
        at / "zoneAwareLbSetting",
        has_outlier=outlier is not None,
    )

    if (
        balancer.locality_lb_setting is not None
        and balancer.zone_aware_lb_setting is not None
    ):
        (at / "zoneAwareLbSetting").error(
            "only one of localityLbSetting and zoneAwareLbSetting may be set"
        )


def _check_consistent_hash(balancer: ConsistentHashLB, at: Cursor) -> None:
    if balancer.http_cookie is not None:
        _check_cookie(balancer.http_cookie, at / "httpCookie")
    if balancer.http_header_name == "":
        (at / "httpHeaderName").error("must not be empty")
    if balancer.maglev is not None:
        _check_table_size(balancer.maglev.table_size, at / "maglev" / "tableSize")


def _check_cookie(cookie: HTTPCookie, at: Cursor) -> None:
    if not cookie.name:
        (at / "name").missing()
    if cookie.ttl is not None and cookie.ttl < timedelta(0):
        (at / "ttl").error("must not be negative")

    names: set[str] = set()
    for index, attribute in enumerate(cookie.attributes):
        place = at / "attributes" / index / "name"
        if not attribute.name:
            place.missing()
        elif attribute.name in names:
            place.error(f"duplicate cookie attribute {attribute.name!r}")
        names.add(attribute.name)


def _check_table_size(size: int | None, at: Cursor) -> None:
    # Envoy fills the table by steps that must be coprime to its size.
    if not size:
        at.error("must be set for maglev")
    elif size >= _MAGLEV_LIMIT or not _is_prime(size):
        at.error(f"must be a prime number less than {_MAGLEV_LIMIT}")


def _is_prime(number: int) -> bool:
    if number < 2 or (number > 2 and number % 2 == 0):
        return False
    return all(number % factor for factor in range(3, int(number**0.5) + 1, 2))


def check_client_tls(tls: ClientTlsSettings, namespace: str, at: Cursor) -> None:
    """TLS of the connection to a service."""
    _check_config_map(tls.credential_name, namespace, at / "credentialName")
    if tls.insecure_skip_verify:
        _check_unverified(tls, at / "insecureSkipVerify")
    # Over SDS come either files or a credential, never a part of each.
    if tls.mode in (ClientTlsMode.SIMPLE, ClientTlsMode.MUTUAL) and tls.credential_name:
        files = (
            tls.client_certificate,
            tls.private_key,
            tls.ca_certificates,
            tls.ca_crl,
        )
        if any(files):
            (at / "credentialName").error(
                "cannot be set together with files of certificates"
            )
    elif tls.mode is ClientTlsMode.MUTUAL:
        if not tls.client_certificate:
            (at / "clientCertificate").missing("is required for mutual TLS")
        if not tls.private_key:
            (at / "privateKey").missing("is required for mutual TLS")


def _check_config_map(credential: str, namespace: str, at: Cursor) -> None:
    if not credential.startswith(_CONFIG_MAP):
        return
    parts = credential.removeprefix(_CONFIG_MAP).split("/")
    if len(parts) > 2 or not all(parts):
        at.error("must be of the form configmap://name or configmap://namespace/name")
    elif len(parts) == 2 and parts[0] != namespace:
        at.error(
            f"the namespace of a configmap:// credential must be the rule's own, {namespace}"
        )


def _check_unverified(tls: ClientTlsSettings, at: Cursor) -> None:
    named = tls.credential_name if tls.mode is ClientTlsMode.SIMPLE else ""
    if tls.mode in (ClientTlsMode.SIMPLE, ClientTlsMode.MUTUAL) and (
        tls.ca_certificates or named or tls.subject_alt_names
    ):
        at.error(
            "caCertificates, credentialName and subjectAltNames have no meaning when nothing is"
            " verified"
        )


def _check_tunnel(tunnel: TunnelSettings, at: Cursor) -> None:
    if tunnel.protocol not in ("", "CONNECT", "POST"):
        (at / "protocol").error("must be CONNECT or POST")
    if check_fqdn(tunnel.target_host) and not is_ip_address(tunnel.target_host):
        (at / "targetHost").error("must be a domain name or an IP address")
    report(at / "targetPort", check_port(tunnel.target_port))
