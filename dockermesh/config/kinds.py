"""The kinds that dockermesh takes, by their Kubernetes names, and those it only recognises.

Classes are named, not imported: a run that meets one kind imports one module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dockermesh.config.findings import Cursor
    from dockermesh.config.resource import Resource

NETWORKING = "networking.istio.io"
SECURITY = "security.istio.io"
TELEMETRY = "telemetry.istio.io"
EXTENSIONS = "extensions.istio.io"
MESH = "mesh.istio.io"
OWN = "dockermesh.io"
"""Kinds that Istio does not have."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: its names, its versions (preferred first), and where its class and its rules are:
    `module` is a module of `api/` with the class, and one of `rules/` with the function `rules`.
    """

    name: str
    plural: str
    group: str
    versions: tuple[str, ...]
    module: str
    rules: str
    short_names: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """The group and the preferred version."""
        return f"{self.group}/{self.versions[0]}"

    @property
    def singular(self) -> str:
        """The name in lower case."""
        return self.name.lower()

    def accepts(self, api_version: str) -> bool:
        """Whether the kind exists in that group and version."""
        group, _, version = api_version.partition("/")
        return group == self.group and version in self.versions

    def spec_class(self) -> Any:
        """The dataclass of its spec."""
        return getattr(import_module(f"dockermesh.config.api.{self.module}"), self.name)

    def check(self) -> Callable[[Resource[Any], Cursor], None]:
        """The function that applies all of its rules. Raises AttributeError if there is none: no
        kind goes unchecked by mistake.
        """
        found: Callable[[Resource[Any], Cursor], None] = getattr(
            import_module(f"dockermesh.config.rules.{self.module}"), self.rules
        )
        return found


# One schema in three versions: what is stored in one can be read in another.
_ALL = ("v1", "v1beta1", "v1alpha3")
_STABLE = ("v1", "v1beta1")
KINDS: tuple[Kind, ...] = (
    Kind(
        "VirtualService",
        "virtualservices",
        NETWORKING,
        _ALL,
        "virtual_service",
        "check_virtual_service",
        ("vs",),
    ),
    Kind(
        "DestinationRule",
        "destinationrules",
        NETWORKING,
        _ALL,
        "destination_rule",
        "check_destination_rule",
        ("dr",),
    ),
    Kind("Gateway", "gateways", NETWORKING, _ALL, "gateway", "check_gateway", ("gw",)),
    Kind(
        "ServiceEntry",
        "serviceentries",
        NETWORKING,
        _ALL,
        "service_entry",
        "check_service_entry",
        ("se",),
    ),
    Kind(
        "WorkloadEntry",
        "workloadentries",
        NETWORKING,
        _ALL,
        "workload",
        "check_workload_entry",
        ("we",),
    ),
    Kind(
        "WorkloadGroup",
        "workloadgroups",
        NETWORKING,
        _ALL,
        "workload",
        "check_workload_group",
        ("wg",),
    ),
    Kind("Sidecar", "sidecars", NETWORKING, _ALL, "sidecar", "check_sidecar"),
    Kind(
        "EnvoyFilter",
        "envoyfilters",
        NETWORKING,
        ("v1alpha3",),
        "envoy_filter",
        "check_envoy_filter",
    ),
    Kind(
        "ProxyConfig",
        "proxyconfigs",
        NETWORKING,
        ("v1beta1", "v1"),
        "proxy_config",
        "check_proxy_config",
    ),
    Kind(
        "PeerAuthentication",
        "peerauthentications",
        SECURITY,
        _STABLE,
        "peer_authentication",
        "check_peer_authentication",
        ("pa",),
    ),
    Kind(
        "AuthorizationPolicy",
        "authorizationpolicies",
        SECURITY,
        _STABLE,
        "authorization_policy",
        "check_authorization_policy",
        ("ap",),
    ),
    Kind(
        "RequestAuthentication",
        "requestauthentications",
        SECURITY,
        _STABLE,
        "request_authentication",
        "check_request_authentication",
        ("ra",),
    ),
    Kind(
        "Telemetry",
        "telemetries",
        TELEMETRY,
        ("v1", "v1alpha1"),
        "telemetry",
        "check_telemetry",
        ("telemetry",),
    ),
    Kind(
        "WasmPlugin",
        "wasmplugins",
        EXTENSIONS,
        ("v1alpha1",),
        "extensions",
        "check_wasm_plugin",
    ),
    Kind(
        "TrafficExtension",
        "trafficextensions",
        EXTENSIONS,
        ("v1alpha1",),
        "extensions",
        "check_traffic_extension",
    ),
    Kind(
        "RateLimit",
        "ratelimits",
        OWN,
        ("v1alpha1",),
        "rate_limit",
        "check_rate_limit",
        ("rl",),
    ),
    Kind(
        "RateLimitConfig",
        "ratelimitconfigs",
        OWN,
        ("v1alpha1",),
        "rate_limit_config",
        "check_rate_limit_config",
        ("rlc",),
    ),
)
"""The kinds of resources; settings of the mesh are `MESH_CONFIG`."""

MESH_CONFIG = Kind(
    "MeshConfig", "meshconfigs", MESH, ("v1alpha1",), "mesh_config", "check_mesh_config"
)
"""Mesh-wide settings. Istio keeps them in a ConfigMap, so `apiVersion` may be absent and the fields
at the top.
"""


def is_mesh_group(group: str) -> bool:
    """Whether kinds of this group are the mesh's: Istio's, or ours."""
    return group == OWN or group.endswith("istio.io")


@cache
def kind_named(name: str) -> Kind | None:
    """The kind by its name in CamelCase."""
    return next((kind for kind in (*KINDS, MESH_CONFIG) if kind.name == name), None)


_ROUTING = "VirtualService and DestinationRule"
_TELEMETRY = "Telemetry (metrics, tracing, accessLogging)"
_QUOTA = "RateLimit of dockermesh.io"
_AUTHORIZATION = "AuthorizationPolicy"
_MIXER = {
    "rule": f"{_TELEMETRY}, AuthorizationPolicy or {_QUOTA}",
    "handler": f"an extension provider in MeshConfig, used by {_TELEMETRY} or AuthorizationPolicy",
    "instance": _TELEMETRY,
    "template": _TELEMETRY,
    "adapter": "an extension provider in MeshConfig",
    "attributemanifest": "nothing: attributes are built in",
    "quota": _QUOTA,
    "quotaspec": _QUOTA,
    "quotaspecbinding": _QUOTA,
    "memquota": _QUOTA,
    "redisquota": _QUOTA,
    "denier": "AuthorizationPolicy with action DENY",
    "checknothing": "AuthorizationPolicy with action DENY",
    "listchecker": "AuthorizationPolicy with ipBlocks, principals or when",
    "listentry": "AuthorizationPolicy with ipBlocks, principals or when",
    "rbac": _AUTHORIZATION,
    "authorization": _AUTHORIZATION,
    "opa": "AuthorizationPolicy with action CUSTOM and an extension provider",
    "apikey": "AuthorizationPolicy with request.headers",
    "metric": _TELEMETRY,
    "logentry": "Telemetry with accessLogging",
    "tracespan": "Telemetry with tracing",
    "httpapispec": "nothing: API attributes are not supported any more",
    "httpapispecbinding": "nothing: API attributes are not supported any more",
}
# Files for old releases still say these.
_DROPPED = {
    ("config.istio.io", "RouteRule"): "VirtualService",
    ("config.istio.io", "DestinationPolicy"): "DestinationRule",
    ("config.istio.io", "EgressRule"): "ServiceEntry",
    ("config.istio.io", "IngressRule"): "Gateway and VirtualService",
    (
        "authentication.istio.io",
        "Policy",
    ): "PeerAuthentication and RequestAuthentication",
    (
        "authentication.istio.io",
        "MeshPolicy",
    ): "PeerAuthentication without selector in the root namespace",
    ("rbac.istio.io", "ServiceRole"): _AUTHORIZATION,
    ("rbac.istio.io", "ServiceRoleBinding"): _AUTHORIZATION,
    ("rbac.istio.io", "RbacConfig"): _AUTHORIZATION,
    ("rbac.istio.io", "ClusterRbacConfig"): _AUTHORIZATION,
    (
        "rbac.istio.io",
        "AuthorizationPolicy",
    ): "AuthorizationPolicy in security.istio.io/v1",
    ("networking.istio.io", "ExternalService"): "ServiceEntry",
}


def is_mixers(group: str, kind: str) -> bool:
    """Whether a kind was Mixer's: policy and telemetry of Istio up to 1.6."""
    return group == "config.istio.io" and (group, kind) not in _DROPPED


def replacement_of(group: str, kind: str) -> str:
    """What replaced a kind that Istio dropped; empty if it never was one."""
    known = _DROPPED.get((group, kind))
    if known is not None:
        return known
    if group == "config.istio.io":
        return _MIXER.get(kind.lower(), _TELEMETRY)
    return ""
