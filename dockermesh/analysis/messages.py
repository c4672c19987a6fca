"""The codes: what each means, how bad it is, and its text.

Codes, names, levels and arguments of IST... are those of Istio's
`pkg/config/analysis/msg/messages.yaml`, so that suppressions and habits carry over; DM... are our
own. A code is never given a second meaning.
"""

from __future__ import annotations

from dataclasses import dataclass

from dockermesh.config.findings import Level


@dataclass(frozen=True, slots=True)
class Message:
    """A kind of finding. `text` is a format string, filled in with the arguments of one finding."""

    code: str
    name: str
    level: Level
    text: str


_E, _W, _I = Level.ERROR, Level.WARNING, Level.INFO

INTERNAL_ERROR = Message("IST0001", "InternalError", _E, "internal error in {}: {}")
DEPRECATED = Message("IST0002", "Deprecated", _W, "Deprecated: {}")
NOT_FOUND = Message(
    "IST0101", "ReferencedResourceNotFound", _E, 'Referenced {} not found: "{}"'
)
NAMESPACE_NOT_INJECTED = Message(
    "IST0102",
    "NamespaceNotInjected",
    _I,
    "pods of namespace {0} get no proxy; label it istio-injection=enabled, or"
    " istio-injection=disabled to say that this is meant",
)
POD_MISSING_PROXY = Message(
    "IST0103",
    "PodMissingProxy",
    _W,
    "pod {} has no Istio proxy; deploy it again to get one",
)
SCHEMA_ERROR = Message(
    "IST0106", "SchemaValidationError", _E, "Schema validation error: {}"
)
MISPLACED_ANNOTATION = Message(
    "IST0107", "MisplacedAnnotation", _W, "annotation {} has an effect on {} only"
)
UNKNOWN_ANNOTATION = Message(
    "IST0108", "UnknownAnnotation", _W, "Unknown annotation: {}"
)
MESH_HOST_CONFLICT = Message(
    "IST0109",
    "ConflictingMeshGatewayVirtualServiceHosts",
    _E,
    "VirtualServices {} all route host {} for the gateway mesh; only one of them counts, so merge"
    " them",
)
SIDECAR_CONFLICT = Message(
    "IST0110",
    "ConflictingSidecarWorkloadSelectors",
    _E,
    'Sidecars {} of namespace "{}" select the same workload "{}"',
)
SIDECAR_DEFAULTS = Message(
    "IST0111",
    "MultipleSidecarsWithoutWorkloadSelectors",
    _E,
    'Sidecars {} of namespace "{}" have no workload selector; only one of them counts',
)
PORT_REQUIRED = Message(
    "IST0112",
    "VirtualServiceDestinationPortSelectorRequired",
    _E,
    'the destination "{}" has several ports, {}: say which one by port.number',
)
MULTIPLE_SERVICES = Message(
    "IST0116",
    "DeploymentAssociatedToMultipleServices",
    _W,
    "Deployment {} belongs to services that use port {} with different protocols: {}",
)
PORT_NAME = Message(
    "IST0118",
    "PortNameIsNotUnderNamingConvention",
    _I,
    'port name "{}" (port {}, target {}) tells no protocol as <protocol>[-<suffix>] would; it will'
    " be sniffed",
)
INVALID_REGEXP = Message(
    "IST0122", "InvalidRegexp", _W, "regular expression of {} is invalid: {}"
)
INJECTION_LABELS = Message(
    "IST0123",
    "NamespaceMultipleInjectionLabels",
    _W,
    "the namespace has more than one injection label: {}",
)
INVALID_ANNOTATION = Message(
    "IST0125", "InvalidAnnotation", _W, "Invalid annotation {}: {}"
)
UNKNOWN_REGISTRY = Message(
    "IST0126",
    "UnknownMeshNetworksServiceRegistry",
    _E,
    "Unknown service registry {} in network {}",
)
NO_WORKLOADS = Message(
    "IST0127", "NoMatchingWorkloadsFound", _W, "no workload matches the labels: {}"
)
NO_CA = Message(
    "IST0128",
    "NoServerCertificateVerificationDestinationLevel",
    _W,
    "DestinationRule {} in namespace {} has TLS mode {} without caCertificates: system roots alone"
    " verify {}",
)
NO_CA_FOR_PORT = Message(
    "IST0129",
    "NoServerCertificateVerificationPortLevel",
    _W,
    "DestinationRule {} in namespace {} has TLS mode {} without caCertificates: system roots alone"
    " verify {} at port {}",
)
UNREACHABLE_RULE = Message(
    "IST0130", "VirtualServiceUnreachableRule", _W, "rule {} is never used ({})"
)
INEFFECTIVE_MATCH = Message(
    "IST0131",
    "VirtualServiceIneffectiveMatch",
    _I,
    "match {1} of rule {0} is never used: rule {2} comes first",
)
HOST_NOT_IN_GATEWAY = Message(
    "IST0132",
    "VirtualServiceHostNotFoundInGateway",
    _W,
    "none of the hosts {} of VirtualService {} is served by Gateway {}",
)
SCHEMA_WARNING = Message(
    "IST0133", "SchemaWarning", _W, "Schema validation warning: {}"
)
ADDRESSES_REQUIRED = Message(
    "IST0134",
    "ServiceEntryAddressesRequired",
    _W,
    "a port of protocol TCP, or of none, needs addresses to be told apart from others",
)
DEPRECATED_ANNOTATION = Message(
    "IST0135",
    "DeprecatedAnnotation",
    _I,
    'annotation "{}" is deprecated{} and may stop working',
)
ALPHA_ANNOTATION = Message(
    "IST0136", "AlphaAnnotation", _I, 'annotation "{}" is of an alpha feature'
)
CONFLICTING_PORTS = Message(
    "IST0137",
    "DeploymentConflictingPorts",
    _W,
    'Deployment {} belongs to services {} with the same targetPort "{}" but different ports: {}',
)
DUPLICATE_CERTIFICATE = Message(
    "IST0138",
    "GatewayDuplicateCertificate",
    _W,
    "Gateways {} share a certificate: a client that reuses its HTTP/2 connection gets 404 from the"
    " wrong one",
)
INVALID_WEBHOOK = Message("IST0139", "InvalidWebhook", _E, "{}")
INGRESS_IGNORES_SUBSET = Message(
    "IST0140",
    "IngressRouteRulesNotAffected",
    _W,
    "the subsets of VirtualService {} have no effect on gateway requests that {} routes",
)
INVALID_UID = Message(
    "IST0144",
    "InvalidApplicationUID",
    _W,
    "user id 1337 is the proxy's: nothing is captured",
)
GATEWAY_CONFLICT = Message(
    "IST0145",
    "ConflictingGateways",
    _E,
    "conflict with Gateways {} (workload selector {}, port {}, hosts {})",
)
AUTO_IMAGE_WARNING = Message(
    "IST0146",
    "ImageAutoWithoutInjectionWarning",
    _W,
    "{} {} has `image: auto`, but no injection webhook selects it",
)
AUTO_IMAGE_ERROR = Message(
    "IST0147",
    "ImageAutoWithoutInjectionError",
    _E,
    "{} {} has `image: auto`, which injection should have replaced",
)
INJECTED_BY_DEFAULT = Message(
    "IST0148",
    "NamespaceInjectionEnabledByDefault",
    _I,
    "is injected, since Istio injects namespaces by default",
)
CLAIM_WITHOUT_AUTHENTICATION = Message(
    "IST0149",
    "JwtClaimBasedRoutingWithoutRequestAuthN",
    _E,
    "routing by the JWT claim {} needs a RequestAuthentication for gateway {} (workload {})",
)
EXTERNAL_NAME_PORT = Message(
    "IST0150",
    "ExternalNameServiceTypeInvalidPortName",
    _W,
    "a port of an ExternalName service has to name an HTTP or TLS protocol, or traffic may go"
    " astray",
)
RELATIVE_PATCH = Message(
    "IST0151",
    "EnvoyFilterUsesRelativeOperation",
    _W,
    "a relative operation without a priority may find nothing to relate to; use INSERT_FIRST or"
    " ADD, or set priority",
)
REPLACE_MISUSED = Message(
    "IST0152",
    "EnvoyFilterUsesReplaceOperationIncorrectly",
    _E,
    "REPLACE works with HTTP_FILTER and NETWORK_FILTER only",
)
ADD_MISUSED = Message(
    "IST0153",
    "EnvoyFilterUsesAddOperationIncorrectly",
    _E,
    "ADD is ignored for ROUTE_CONFIGURATION and HTTP_ROUTE",
)
REMOVE_MISUSED = Message(
    "IST0154",
    "EnvoyFilterUsesRemoveOperationIncorrectly",
    _E,
    "REMOVE is ignored for ROUTE_CONFIGURATION and HTTP_ROUTE",
)
RELATIVE_PATCH_VERSION = Message(
    "IST0155",
    "EnvoyFilterUsesRelativeOperationWithProxyVersion",
    _W,
    "a relative operation without a priority relates to a filter of one proxy version only; set"
    " priority",
)
TELEMETRY_PROVIDER = Message(
    "IST0157",
    "InvalidTelemetryProvider",
    _W,
    'Telemetry {} in namespace "{}" has no provider, so it is ignored',
)
PROXY_IMAGES = Message(
    "IST0158",
    "PodsIstioProxyImageMismatchInNamespace",
    _W,
    "pods run another proxy image than injection gives: {}",
)
TELEMETRY_CONFLICT = Message(
    "IST0159",
    "ConflictingTelemetryWorkloadSelectors",
    _E,
    'Telemetries {} of namespace "{}" select the same workload "{}"',
)
TELEMETRY_DEFAULTS = Message(
    "IST0160",
    "MultipleTelemetriesWithoutWorkloadSelectors",
    _E,
    'Telemetries {} of namespace "{}" have no selector; only one of them counts',
)
INVALID_CREDENTIAL = Message(
    "IST0161",
    "InvalidGatewayCredential",
    _E,
    "the credential that Gateway {} names in namespace {} holds no valid certificate and key",
)
GATEWAY_PORT = Message(
    "IST0162",
    "GatewayPortNotDefinedOnService",
    _W,
    "port {} is not among the ports of the service in front of the gateway's workloads, or those"
    " that their host publishes (selector {})",
)
EXTERNAL_CONTROL_PLANE = Message(
    "IST0163",
    "InvalidExternalControlPlaneConfig",
    _W,
    "the address ({}) by which webhook {} reaches istiod {}",
)
EXTERNAL_CONTROL_PLANE_IP = Message(
    "IST0164",
    "ExternalControlPlaneAddressIsNotAHostname",
    _I,
    "the address ({}) by which webhook {} reaches istiod is an IP, not a hostname",
)
INTERNAL_GATEWAY = Message(
    "IST0165",
    "ReferencedInternalGateway",
    _W,
    "VirtualService {} names a generated, internal Gateway: {}",
)
INEFFECTIVE_SELECTOR = Message(
    "IST0166",
    "IneffectiveSelector",
    _W,
    "a selector has no effect on the Kubernetes Gateway {}; use targetRefs",
)
INEFFECTIVE_POLICY = Message(
    "IST0167", "IneffectivePolicy", _W, "the policy has no effect: {}"
)
NEGATIVE_CONDITION = Message(
    "IST0171",
    "NegativeConditionStatus",
    _W,
    "its status says: type={}, reason={}, message={}",
)
SUBSET_SELECTS_NOTHING = Message(
    "IST0173",
    "DestinationRuleSubsetNotSelectPods",
    _E,
    "subset {} selects no workload: requests to it fail with 503",
)
UNKNOWN_RULE_HOST = Message(
    "IST0174", "UnknownDestinationRuleHost", _W, "host {} is no service of the mesh"
)

NO_ENDPOINTS = Message(
    "DM0001",
    "ServiceWithoutEndpoints",
    _W,
    "the destination {} has no endpoint: requests fail",
)
LYING_PORT_NAME = Message(
    "DM0002",
    "PortNameContradictsProtocol",
    _W,
    'port {} is declared as {} but named "{}", which says {}',
)
SHADOWED = Message("DM0003", "ShadowedRule", _W, "{}")
GATEWAY_UNSERVED = Message(
    "DM0004",
    "GatewayWithoutProxy",
    _W,
    "is bound to Gateway {}, which no gateway workload serves (selector {})",
)
DUPLICATE_SUBSET = Message(
    "DM0005",
    "DuplicateSubset",
    _W,
    "subset {} of host {} is also defined by DestinationRule {}; the older one counts",
)
DELEGATE_NOT_FOUND = Message(
    "DM0006",
    "DelegateNotFound",
    _E,
    'rule {} delegates to VirtualService "{}", which {}',
)
GIVEN_TWICE = Message(
    "DM0007",
    "ResourceGivenTwice",
    _W,
    "is given twice, first at {}; the last one counts",
)
UNREADABLE = Message("DM0008", "UnreadableFile", _E, "{}")
REFUSED = Message("DM0009", "RefusedRegistration", _W, "{}; {}")
LIMITS_NOBODY = Message("DM0010", "LimitsNobody", _W, "limits nobody: {}")
UNKNOWN_PROVIDER = Message(
    "DM0011",
    "UnknownAccessLogProvider",
    _W,
    'MeshConfig has no provider "{}", so nothing is logged for it',
)
COUNTS_NOTHING = Message("DM0012", "LimitCountsNothing", _W, "counts nothing: {}")

# In the order of this module, which is that of the codes.
ALL: tuple[Message, ...] = tuple(
    value for value in dict(globals()).values() if isinstance(value, Message)
)
"""Every code, in order."""
BY_CODE = {message.code: message for message in ALL}
