"""All analyzers, and how they are run.

An analyzer that fails is a fault of ours: it is reported as one finding, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dockermesh.analysis.checks import (
    annotations as annotation_checks,
)
from dockermesh.analysis.checks import (
    destination_rules,
    envoy_filters,
    gateways,
    injection,
    kubernetes,
    policies,
    rate_limits,
    registrations,
    rules,
    schema,
    selectors,
    service_entries,
    telemetry,
    virtual_services,
)
from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import namespace_of
from dockermesh.analysis.messages import INTERNAL_ERROR
from dockermesh.config.findings import Finding

_SUPPRESS = "galley.istio.io/analyze-suppress"


@dataclass(frozen=True, slots=True)
class Analyzer:
    """One analyzer: its name in Istio's style, what it is for, and the codes it may report."""

    name: str
    run: Callable[[Context], Iterator[Finding]]
    codes: tuple[str, ...]

    @property
    def description(self) -> str:
        """What it is for, in a sentence."""
        return " ".join((self.run.__doc__ or "").split("\n\n")[0].split())


def _analyzer(
    name: str, run: Callable[[Context], Iterator[Finding]], *codes: str
) -> Analyzer:
    return Analyzer(name, run, codes)


ANALYZERS: tuple[Analyzer, ...] = (
    _analyzer(
        "schema.Validation",
        schema.validation,
        "IST0002",
        "IST0106",
        "IST0133",
        "DM0003",
        "DM0008",
    ),
    _analyzer("schema.GivenTwice", schema.given_twice, "DM0007"),
    _analyzer(
        "virtualservice.Destinations",
        virtual_services.destinations,
        "IST0101",
        "IST0112",
        "DM0001",
    ),
    _analyzer("virtualservice.Subsets", virtual_services.subsets, "IST0101"),
    _analyzer("virtualservice.MeshHosts", virtual_services.mesh_hosts, "IST0109"),
    _analyzer(
        "virtualservice.Gateways",
        virtual_services.gateways,
        "IST0101",
        "IST0132",
        "IST0165",
        "DM0004",
    ),
    _analyzer("virtualservice.Rules", rules.unreachable_rules, "IST0130", "IST0131"),
    _analyzer(
        "virtualservice.IgnoredSubsets", virtual_services.ignored_subsets, "IST0140"
    ),
    _analyzer("virtualservice.JWTClaims", virtual_services.claim_routing, "IST0149"),
    _analyzer("virtualservice.Delegates", virtual_services.delegates, "DM0006"),
    _analyzer("virtualservice.Regexes", schema.regular_expressions, "IST0122"),
    _analyzer(
        "destinationrule.CaCertificates",
        destination_rules.unverified_servers,
        "IST0128",
        "IST0129",
    ),
    _analyzer(
        "destinationrule.HostsAndSubsets",
        destination_rules.hosts_and_subsets,
        "IST0173",
        "IST0174",
    ),
    _analyzer(
        "destinationrule.DuplicateSubsets",
        destination_rules.duplicate_subsets,
        "DM0005",
    ),
    _analyzer(
        "gateway.WorkloadsAndPorts", gateways.workloads_and_ports, "IST0101", "IST0162"
    ),
    _analyzer("gateway.Conflicts", gateways.conflicts, "IST0145"),
    _analyzer("gateway.Certificates", gateways.duplicate_certificates, "IST0138"),
    _analyzer("gateway.Credentials", gateways.credentials, "IST0101", "IST0161"),
    _analyzer("serviceentry.Addresses", service_entries.addresses, "IST0134"),
    _analyzer("service.PortNames", service_entries.port_names, "IST0118", "IST0150"),
    _analyzer("service.LyingPortNames", service_entries.lying_port_names, "DM0002"),
    _analyzer("service.Registrations", registrations.refused, "DM0009"),
    _analyzer(
        "sidecar.Selectors",
        selectors.sidecars,
        "IST0101",
        "IST0110",
        "IST0111",
        "IST0167",
    ),
    _analyzer(
        "telemetry.Selectors", selectors.telemetries, "IST0101", "IST0159", "IST0160"
    ),
    _analyzer("telemetry.Providers", telemetry.providers, "IST0157"),
    _analyzer("telemetry.UnknownProviders", telemetry.unknown_providers, "DM0011"),
    _analyzer("telemetry.Lightstep", telemetry.lightstep, "IST0002"),
    _analyzer("authorization.Workloads", policies.authorization_workloads, "IST0127"),
    _analyzer("authorization.Namespaces", policies.authorization_namespaces, "IST0101"),
    _analyzer("ratelimit.Workloads", rate_limits.limits_of_nobody, "DM0010"),
    _analyzer("ratelimit.Requests", rate_limits.limits_of_nothing, "DM0012"),
    _analyzer("k8sgateway.Selectors", policies.gateway_selectors, "IST0166"),
    _analyzer(
        "envoyfilter.Operations",
        envoy_filters.operations,
        "IST0151",
        "IST0152",
        "IST0153",
        "IST0154",
        "IST0155",
    ),
    _analyzer("deprecation.Fields", telemetry.deprecations, "IST0002"),
    _analyzer("conditions.Negative", telemetry.conditions, "IST0171"),
    _analyzer("meshnetworks.Registries", telemetry.networks, "IST0126"),
    _analyzer(
        "annotations.Placement",
        annotation_checks.placement,
        "IST0107",
        "IST0108",
        "IST0125",
        "IST0135",
    ),
    _analyzer("annotations.Alpha", annotation_checks.alpha, "IST0136"),
    _analyzer(
        "deployment.Services", kubernetes.deployment_services, "IST0116", "IST0137"
    ),
    _analyzer("deployment.UserIds", kubernetes.user_ids, "IST0144"),
    _analyzer(
        "injection.NamespacesAndPods",
        injection.namespaces_and_pods,
        "IST0102",
        "IST0103",
        "IST0123",
        "IST0148",
    ),
    _analyzer("injection.ProxyImages", injection.proxy_images, "IST0158"),
    _analyzer("injection.AutoImages", injection.auto_images, "IST0146", "IST0147"),
    _analyzer("webhook.Webhooks", kubernetes.webhooks, "IST0139"),
    _analyzer(
        "webhook.ExternalControlPlane",
        kubernetes.external_control_plane,
        "IST0163",
        "IST0164",
    ),
)


@dataclass(frozen=True, slots=True)
class Suppression:
    """A code, and the resources about which it is not reported: `Kind name.namespace`, with `*` for
    any text.
    """

    code: str
    resource: str

    def covers(self, finding: Finding) -> bool:
        """Whether a finding is suppressed. `Kind namespace/name` is taken, too."""
        if self.code != finding.code:
            return False
        kind, _, name = finding.resource.partition(" ")
        space, slash, bare = name.rpartition("/")
        forms = (
            finding.resource,
            f"{kind} {bare}.{space}" if slash else finding.resource,
        )
        # `fnmatch` would fold case where the file system does; names of resources have case.
        return any(fnmatchcase(form, self.resource) for form in forms)


def analyze(
    context: Context,
    *,
    namespaces: Iterable[str] = (),
    suppressions: Iterable[Suppression] = (),
) -> tuple[Finding, ...]:
    """Every finding once, the worst first.

    `namespaces` are those that findings may be about (none: all); resources may suppress codes by
    annotation, too.
    """
    wanted, hidden = frozenset(namespaces), tuple(suppressions)
    silenced = {
        item.title: item.annotations[_SUPPRESS]
        for item in context.given
        if _SUPPRESS in item.annotations
    }

    def is_reported(finding: Finding) -> bool:
        namespace = namespace_of(finding)
        return not (
            (wanted and namespace and namespace not in wanted)
            or any(suppression.covers(finding) for suppression in hidden)
            or _is_silenced(silenced.get(finding.resource, ""), finding.code)
        )

    kept: dict[tuple[int, str, str, str, int, str], Finding] = {}
    for analyzer in ANALYZERS:
        for finding in filter(is_reported, _run(analyzer, context)):
            kept.setdefault(_order(finding), finding)
    return tuple(kept[key] for key in sorted(kept))


def _order(finding: Finding) -> tuple[int, str, str, str, int, str]:
    """What is shown of a finding, the worst first: two that look the same are one."""
    return (
        finding.level.rank,
        finding.code,
        finding.resource,
        finding.file,
        finding.line,
        finding.message,
    )


def _run(analyzer: Analyzer, context: Context) -> Iterator[Finding]:
    try:
        yield from analyzer.run(context)
    # One analyzer that stumbles must not hide what the others find.
    except Exception as error:
        text = INTERNAL_ERROR.text.format(
            analyzer.name, f"{type(error).__name__}: {error}"
        )
        yield Finding(INTERNAL_ERROR.level, text, code=INTERNAL_ERROR.code)


def _is_silenced(value: str, code: str) -> bool:
    # The annotation of Istio takes a list of codes, or all.
    return value.strip() == "*" or code in (part.strip() for part in value.split(","))
