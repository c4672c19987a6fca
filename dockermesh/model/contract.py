"""Every name that two parts of dockermesh share, and nothing else: the one place where it stands.

Two parts are two packages, two processes, or one of them and a file that users see (a Compose file,
`compose/mesh.yaml`, an image). Invariants: no other module has one of these as a literal
(`tests/unit/model/test_contract.py`), and the tables of ARCHITECTURE.md are made from `ENTRIES`
(`scripts/contract.py`). A change here is a change of what older parts expect: say so in CHANGELOG.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Section(StrEnum):
    """A table of ARCHITECTURE.md."""

    PORTS = "Ports"
    DOCKER = "Networks, containers and volumes"
    PATHS = "Paths in containers"
    LABELS = "Docker labels"
    POD = "A pod's environment"
    SETTINGS = "Environment of the control plane and the command line"
    KEYS = "Consul's KV"
    META = "Consul's service meta"
    HOSTS = "Host names"
    IDENTITIES = "Identities and secrets"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a table."""

    section: Section
    value: str
    meaning: str


ENTRIES: list[Entry] = []


def _name(section: Section, value: str, meaning: str) -> str:
    ENTRIES.append(Entry(section, value, meaning))
    return value


def _port(number: int, meaning: str) -> int:
    ENTRIES.append(Entry(Section.PORTS, str(number), meaning))
    return number


# Ports: Istio's, so that tools and habits carry over
# --------------------------------------------------------------------------------------------------

ADMIN_PORT = _port(
    15000,
    "the harmless pages of Envoy's admin, on loopback; the admin itself is a unix socket",
)
OUTBOUND_PORT = _port(15001, "captured outbound connections (Istio: proxyListenPort)")
INBOUND_PORT = _port(
    15006, "captured inbound connections (Istio: proxyInboundListenPort)"
)
XDS_PLAINTEXT_PORT = _port(15010, "xDS without TLS: only on request, only on loopback")
XDS_TLS_PORT = _port(15012, "xDS over TLS")
DEBUG_PORT = _port(15014, "the control plane's health, metrics and debug pages")
READINESS_PORT = _port(15021, "the proxy's `/healthz/ready`")
DNS_PORT = _port(
    15053, "the app's DNS queries; at the control plane, those that only it can answer"
)
ENDPOINTS_DNS_PORT = _port(
    15054, "the proxy's own questions for a service's endpoints, by UDP on loopback"
)
DNS_NAMES_PORT = _port(
    15055, "the mesh's names, which the pod asks its proxy for, by UDP on loopback"
)
SPANS_PORT = _port(
    9411,
    "spans of proxies, as Zipkin takes them: at the control plane, by mutual TLS alone",
)
PROMETHEUS_PORT = _port(
    15090,
    "the proxy's `/stats/prometheus`: in plaintext on loopback, elsewhere by mutual TLS for"
    " Prometheus and the control plane alone",
)
API_PORT = _port(8080, "the config API")
LIMITER_PORT = _port(
    8081, "the limiter: Envoy's rate limit service, for certificates of the mesh alone"
)
PROXY_PORTS = frozenset(
    {
        ADMIN_PORT,
        OUTBOUND_PORT,
        INBOUND_PORT,
        READINESS_PORT,
        DNS_PORT,
        ENDPOINTS_DNS_PORT,
        DNS_NAMES_PORT,
        PROMETHEUS_PORT,
    }
)
"""Those that the proxy itself has in a pod: neither an app nor a gateway's listener can."""
PROXY_UID = 1337
"""User and group of Envoy; capture rules let its traffic pass."""

# Docker: networks, containers, volumes
# --------------------------------------------------------------------------------------------------

MESH_PROJECT = "dockermesh"
"""The mesh's own Compose project."""
MESH_NETWORK = _name(
    Section.DOCKER,
    "dockermesh",
    "the mesh network: every pod, every gateway, the control plane",
)
CONTROL_NETWORK = _name(
    Section.DOCKER,
    "dockermesh-control",
    "the control network: control plane and Consul alone",
)
MESH_SUBNET = _name(Section.DOCKER, "172.28.0.0/16", "the subnet of the mesh network")
CONTROL_SUBNET = _name(
    Section.DOCKER, "10.254.28.0/28", "the subnet of the control network"
)
CONTROL_PLANE_CONTAINER = _name(
    Section.DOCKER, "dockermesh-control-plane", "the control plane's container"
)
CONSUL_CONTAINER = _name(
    Section.DOCKER,
    "dockermesh-consul",
    "Consul's container, and the volume of its data",
)
TELEMETRY_PROJECT = "dockermesh-telemetry"
"""The Compose project of Prometheus, Grafana and Zipkin."""
PROMETHEUS_CONTAINER = _name(
    Section.DOCKER, "dockermesh-prometheus", "Prometheus' container, and its volume"
)
GRAFANA_CONTAINER = _name(Section.DOCKER, "dockermesh-grafana", "Grafana's container")
ZIPKIN_CONTAINER = _name(
    Section.DOCKER,
    "dockermesh-zipkin",
    "Zipkin's container, and its name on the mesh network",
)
TRUST_VOLUME = _name(
    Section.DOCKER,
    "dockermesh-trust",
    "the mesh root, `root.pem`; written by the control plane, read by pods and proxies",
)
TELEMETRY_VOLUME = _name(
    Section.DOCKER,
    "dockermesh-telemetry",
    "Prometheus' certificate and token; written by the control plane, mounted by nobody else",
)
NODE_CONTAINER = _name(
    Section.DOCKER,
    "dockermesh-node",
    "the pod of a host's proxy, and the volume of which containers that one serves",
)
NODE_PROXY_CONTAINER = _name(
    Section.DOCKER, "dockermesh-node-proxy", "the proxy of a host: node mode"
)
NODE_AGENT_CONTAINER = _name(
    Section.DOCKER, "dockermesh-node-agent", "the agent of a host: node mode"
)
STATE_VOLUME = _name(
    Section.DOCKER,
    "dockermesh-state",
    "`api.token`, the sealed CA, and what Consul would keep where there is none",
)

# Paths
# --------------------------------------------------------------------------------------------------

TRUST_PATH = _name(
    Section.PATHS,
    "/etc/dockermesh/trust",
    "the trust volume, in pods and proxies read-only",
)
TELEMETRY_PATH = _name(
    Section.PATHS,
    "/etc/dockermesh/telemetry",
    "the telemetry volume, in the control plane and in Prometheus",
)
CAPTURE_PATH = _name(
    Section.PATHS,
    "/etc/dockermesh/capture.rules",
    "a pod's capture rules: the image's, or those of a Compose `configs` entry",
)
CREDENTIALS_PATH = _name(
    Section.PATHS,
    "/etc/dockermesh/credentials",
    "files that a gateway's `credentialName` may mean",
)
RUN_PATH = _name(
    Section.PATHS,
    "/run/dockermesh",
    "a tmpfs (0700) of pod and proxy: `envoy.json` (0400), `trust.json`, `admin.sock` (0600),"
    " `kept.json.gz` (0600), `on-kept`",
)
NODE_PATH = _name(
    Section.PATHS,
    "/etc/dockermesh/node",
    "which containers of the host are in node mode: `attached.json`, written by the agent",
)
NAMESPACES_PATH = _name(
    Section.PATHS,
    "/run/netns",
    "Docker's network namespaces, in the agent and the proxy of a host",
)
ADMIN_SOCKET = f"{RUN_PATH}/admin.sock"
ADMIN_CLUSTER = "proxy-admin"
"""In every proxy's bootstrap: what leads to that socket."""
KEPT_MARK = f"{RUN_PATH}/on-kept"
"""There while the proxy runs on the configuration that it kept; says since when that is."""
STATE_PATH = _name(
    Section.PATHS, "/var/lib/dockermesh", "the state volume, control plane only"
)
API_TOKEN_FILE = "api.token"
"""In the state volume."""

# Docker labels
# --------------------------------------------------------------------------------------------------

LABEL_PREFIX = "dockermesh.io/"
LABEL_ROLE = _name(
    Section.LABELS,
    LABEL_PREFIX + "role",
    "`pod`, `proxy`, `app`, or `follower`: shares a meshed one's network, and is no endpoint",
)
LABEL_WORKLOAD = _name(
    Section.LABELS, LABEL_PREFIX + "workload", "`<project>/<service>-<replica>`"
)
LABEL_SERVICE = _name(Section.LABELS, LABEL_PREFIX + "service", "the Compose service")
LABEL_KIND = _name(
    Section.LABELS, LABEL_PREFIX + "kind", "`sidecar`, `router` or `node`; on pods"
)
LABEL_NAMESPACE = _name(
    Section.LABELS, LABEL_PREFIX + "namespace", "of the workload; on pods"
)
LABEL_ACCOUNT = _name(
    Section.LABELS,
    LABEL_PREFIX + "service-account",
    "of the workload; on pods, or the user's",
)
LABEL_NETWORK = _name(
    Section.LABELS, LABEL_PREFIX + "network", "the mesh network's name; on pods"
)
LABEL_LABELS = _name(
    Section.LABELS,
    LABEL_PREFIX + "labels",
    "the workload's labels as a JSON object; on pods",
)
LABEL_ALIASES = _name(
    Section.LABELS,
    LABEL_PREFIX + "aliases",
    "other names that Docker's DNS has for it; on pods",
)
LABEL_CONFIG = _name(
    Section.LABELS,
    LABEL_PREFIX + "config",
    "YAML of Istio resources; on gateways' pods",
)
LABEL_PORTS = _name(
    Section.LABELS,
    LABEL_PREFIX + "ports",
    "which of its ports stand for published ones: `web:80=8080,...`; on gateways' pods",
)
LABEL_PROJECT = _name(
    Section.LABELS, LABEL_PREFIX + "project", "the Compose project; on gateways' pods"
)
LABEL_GENERATED = _name(
    Section.LABELS,
    LABEL_PREFIX + "generated",
    'on resources: `"true"`, made for a published port; the user\'s own win, host by host',
)
LABEL_RAW_SOCKETS = _name(
    Section.LABELS,
    LABEL_PREFIX + "raw-sockets",
    "`false`: the app loses `NET_RAW`; the user's",
)
LABEL_INJECT = _name(
    Section.LABELS,
    LABEL_PREFIX + "inject",
    'the user\'s: `"false"` keeps a service out',
)
LABEL_MODE = _name(
    Section.LABELS,
    LABEL_PREFIX + "mode",
    "the user's: `node`, served by its host's proxy; `sidecar`, not by that",
)
COMPOSE_LABELS = "com.docker."
COMPOSE_PROJECT = _name(
    Section.LABELS, COMPOSE_LABELS + "compose.project", "Compose's own: the project"
)
COMPOSE_SERVICE = _name(
    Section.LABELS, COMPOSE_LABELS + "compose.service", "Compose's own: the service"
)
COMPOSE_NUMBER = _name(
    Section.LABELS,
    COMPOSE_LABELS + "compose.container-number",
    "Compose's own: which replica it is",
)
COMPOSE_VOLUME = _name(
    Section.LABELS, COMPOSE_LABELS + "compose.volume", "Compose's own: the volume's key"
)
COMPOSE_ONE_OFF = _name(
    Section.LABELS,
    COMPOSE_LABELS + "compose.oneoff",
    "Compose's own: made by `compose run`",
)

# Environment
# --------------------------------------------------------------------------------------------------

ENV_WORKLOAD = _name(Section.POD, "DOCKERMESH_WORKLOAD", "the workload's name")
ENV_KIND = _name(Section.POD, "DOCKERMESH_KIND", "`sidecar`, `router` or `node`")
ENV_NAMESPACE = _name(Section.POD, "DOCKERMESH_NAMESPACE", "the workload's namespace")
ENV_CAPTURE = _name(Section.POD, "DOCKERMESH_CAPTURE", "`none`: no capture rules")
ENV_DNS_DOMAIN = _name(
    Section.POD, "DOCKERMESH_DNS_DOMAIN", "Consul's domain, where it is another"
)
NODE_CONTROL_PLANE = _name(
    Section.POD,
    "CONTROL_PLANE",
    "not of the environment but of Envoy's node metadata: the host of its control plane",
)
ENV_HOLD_PORTS = _name(
    Section.POD,
    "DOCKERMESH_HOLD_PORTS",
    "up to 7 ports or ranges at which new connections wait while the proxy is down; else all",
)

ENV_SERVICE = _name(
    Section.POD, "DOCKERMESH_SERVICE", "Istio's `workload` in telemetry; of proxies"
)
ENV_APP = _name(Section.POD, "DOCKERMESH_APP", "its label `app`; of proxies")
ENV_VERSION = _name(
    Section.POD, "DOCKERMESH_VERSION", "its label `version`; of proxies"
)
ENV_UNKNOWN = _name(
    Section.POD,
    "DOCKERMESH_UNKNOWN",
    "`unknown`, for labels of metrics with nothing to say; of proxies",
)
ENV_CANONICAL_SERVICE = _name(
    Section.POD,
    "DOCKERMESH_CANONICAL_SERVICE",
    "what telemetry calls the service; of proxies",
)
ENV_CANONICAL_REVISION = _name(
    Section.POD,
    "DOCKERMESH_CANONICAL_REVISION",
    "its version, for telemetry; of proxies",
)

ENV_MODE = _name(
    Section.SETTINGS, "DOCKERMESH_MODE", "`sidecar` or `node`: how `up` brings apps up"
)
ENV_NAMESPACES = _name(
    Section.SETTINGS,
    "DOCKERMESH_NETNS",
    "where the engine keeps network namespaces: `/var/run/docker/netns`",
)
ENV_NODE = _name(
    Section.SETTINGS, "DOCKERMESH_NODE", "this host's name among several: node mode"
)
ENV_REGISTRY = _name(Section.SETTINGS, "DOCKERMESH_REGISTRY", "`consul` or `docker`")
ENV_NETWORK = _name(Section.SETTINGS, "DOCKERMESH_NETWORK", "another mesh network")
ENV_SUBNET = _name(Section.SETTINGS, "DOCKERMESH_SUBNET", "its subnet")
ENV_CONTROL_SUBNET = _name(
    Section.SETTINGS, "DOCKERMESH_CONTROL_SUBNET", "the subnet of the control network"
)
ENV_CONSUL_DOMAIN = _name(
    Section.SETTINGS,
    "DOCKERMESH_CONSUL_DOMAIN",
    "what Consul's host names end with, and so the mesh's: `consul`",
)
ENV_DNS_ADDRESS = _name(
    Section.SETTINGS,
    "DOCKER_GATEWAY",
    "where Consul's DNS is published, up to its `53`",
)
ENV_API_PORT = _name(
    Section.SETTINGS, "DOCKERMESH_API_PORT", "the config API's port on the host"
)
ENV_DEBUG_PORT = _name(
    Section.SETTINGS, "DOCKERMESH_DEBUG_PORT", "the port of the debug pages on the host"
)
ENV_TRUST_DOMAIN = _name(
    Section.SETTINGS, "DOCKERMESH_TRUST_DOMAIN", "the first part of every identity"
)
ENV_LEAF_LIFETIME = _name(
    Section.SETTINGS, "DOCKERMESH_LEAF_LIFETIME", "how long certificates are good for"
)
ENV_EXPLICIT = _name(
    Section.SETTINGS,
    "DOCKERMESH_EXPLICIT",
    "`true`: a container outside of the mesh is a service only with a SERVICE_NAME",
)
ENV_RUN_CHECKS = _name(
    Section.SETTINGS,
    "DOCKERMESH_RUN_CHECKS",
    "health checks are asked by the registrar",
)
ENV_CA_DIR = _name(Section.SETTINGS, "DOCKERMESH_CA_DIR", "a CA of the user's")
ENV_CONFIG_DIR = _name(
    Section.SETTINGS, "DOCKERMESH_CONFIG_DIR", "Istio resources to take over"
)
ENV_API_AUTH = _name(Section.SETTINGS, "DOCKERMESH_API_AUTH", "`token` or `none`")
ENV_DNS_LISTEN = _name(
    Section.SETTINGS,
    "DOCKERMESH_DNS_ADDRESS",
    "where the control plane answers pods' DNS queries; empty: nowhere",
)
ENV_SPANS_LISTEN = _name(
    Section.SETTINGS,
    "DOCKERMESH_SPANS_ADDRESS",
    "where the control plane takes spans of proxies; empty: nowhere",
)
ENV_SPANS_TO = _name(
    Section.SETTINGS,
    "DOCKERMESH_SPANS_TO",
    "URL of a Zipkin, or of what takes spans like one, which gets those that the control plane"
    " took; empty: nobody",
)
ENV_PROMETHEUS_PORT = _name(
    Section.SETTINGS, "DOCKERMESH_PROMETHEUS_PORT", "Prometheus' port on the host"
)
ENV_GRAFANA_PORT = _name(
    Section.SETTINGS, "DOCKERMESH_GRAFANA_PORT", "Grafana's port on the host"
)
ENV_ZIPKIN_PORT = _name(
    Section.SETTINGS, "DOCKERMESH_ZIPKIN_PORT", "Zipkin's port on the host"
)
ENV_CONSUL_DNS = _name(
    Section.SETTINGS,
    "DOCKERMESH_CONSUL_DNS",
    "Consul's DNS, `host:port`: port 8600 of the host of its HTTP API",
)
ENV_LIMITER_LISTEN = _name(
    Section.SETTINGS, "DOCKERMESH_LIMITER_ADDRESS", "where the limiter listens"
)
ENV_LIMITER_NAME = _name(
    Section.SETTINGS,
    "DOCKERMESH_LIMITER_NAME",
    "where proxies find the limiter, `host:port`",
)
ENV_LIMITER_REDIS = _name(
    Section.SETTINGS,
    "DOCKERMESH_LIMITER_REDIS",
    "URL of the Redis where limiters of several control planes count",
)
ENV_API_ADDRESS = _name(
    Section.SETTINGS, "DOCKERMESH_API_ADDRESS", "where the config API listens"
)
ENV_DEBUG_ADDRESS = _name(
    Section.SETTINGS, "DOCKERMESH_DEBUG_ADDRESS", "where the debug pages listen"
)
ENV_REGISTRAR = _name(
    Section.SETTINGS,
    "DOCKERMESH_REGISTRAR",
    "whether the control plane runs the registrar, too",
)
ENV_STATE_DIR = _name(
    Section.SETTINGS, "DOCKERMESH_STATE_DIR", "another place of the state"
)
ENV_TRUST_DIR = _name(
    Section.SETTINGS, "DOCKERMESH_TRUST_DIR", "another place of `root.pem`"
)
ENV_TELEMETRY_DIR = _name(
    Section.SETTINGS,
    "DOCKERMESH_TELEMETRY_DIR",
    "where Prometheus' certificate and token are written; empty: nowhere",
)
ENV_CA_PASSPHRASE_FILE = _name(
    Section.SETTINGS,
    "DOCKERMESH_CA_PASSPHRASE_FILE",
    "seals the CA, for several control planes",
)
ENV_HOST = _name(
    Section.SETTINGS, "DOCKERMESH_HOST", "this host's name, for its registrar"
)
ENV_API = _name(
    Section.SETTINGS, "DOCKERMESH_API", "the config API's URL, for the command line"
)
ENV_TOKEN = _name(Section.SETTINGS, "DOCKERMESH_TOKEN", "its token")
ENV_CA = _name(
    Section.SETTINGS, "DOCKERMESH_CA", "a file with the roots that it is verified by"
)
ENV_POD_IMAGE = _name(Section.SETTINGS, "DOCKERMESH_POD_IMAGE", "another image of pods")
ENV_PROXY_IMAGE = _name(
    Section.SETTINGS, "DOCKERMESH_PROXY_IMAGE", "another image of proxies"
)

# Consul
# --------------------------------------------------------------------------------------------------

KEY_WORKLOADS = _name(
    Section.KEYS,
    "dockermesh/workloads/",
    "`<host>/<workload>`: JSON of `model.Workload`; `<host>/.kept` is there while Consul has kept"
    " what the host's registrar wrote",
)
WORKLOADS_KEPT = ".kept"
KEY_HOSTS = _name(
    Section.KEYS,
    "dockermesh/hosts/",
    "`<host>`: a registrar's lease, held by a session",
)
KEY_CONFIG = _name(
    Section.KEYS,
    "dockermesh/config/",
    "`<group>/<kind>/<namespace>/<name>`: JSON of an Istio resource",
)
KEY_HISTORY = _name(
    Section.KEYS,
    "dockermesh/history/",
    "`<number>/entry`, `<number>/change/<config key>`: who changed what, what was there before",
)
KEY_TOKENS = _name(
    Section.KEYS,
    "dockermesh/tokens/",
    "`denied/<sha256>` and `join/<sha256>`: revoked tokens, and those with which one may join;"
    " `joined/<workload>`: who did",
)
KEY_ROTATION = _name(
    Section.KEYS,
    "dockermesh/rotation/",
    "`<generation of the CA>/<replica>-<number>`: proxies that have taken a rotation's step",
)
KEY_CA = _name(Section.KEYS, "dockermesh/ca", "the CA, sealed")

META_PREFIX = "dockermesh-"
META_HOST = _name(Section.META, META_PREFIX + "host", "whose registrar wrote it")
META_CONTAINER = _name(
    Section.META, META_PREFIX + "container", "the container's short id"
)
META_WORKLOAD = _name(Section.META, META_PREFIX + "workload", "the workload's name")
META_SERVICE = _name(Section.META, META_PREFIX + "service", "the Compose service")
META_NAMESPACE = _name(
    Section.META, META_PREFIX + "namespace", "the workload's namespace"
)
META_ACCOUNT = _name(
    Section.META, META_PREFIX + "service-account", "the workload's account"
)
META_PROTOCOL = _name(
    Section.META,
    META_PREFIX + "protocol",
    "what the container's image speaks on the port, where the number tells otherwise",
)
META_ID_OF = _name(
    Section.META,
    META_PREFIX + "id-of",
    "`<id> <holder>`: the id that it asked for, and who has it",
)
META_HASH = _name(
    Section.META,
    META_PREFIX + "hash",
    "of the registration: what is equal is not written again",
)

# Host names
# --------------------------------------------------------------------------------------------------

CONSUL_DOMAIN = "consul"
"""Consul's own default; `ENV_CONSUL_DOMAIN` names another."""


def service_domain(consul_domain: str) -> str:
    """What services' host names end with, as Consul's DNS would answer them."""
    return f"service.{consul_domain}"


def consul_domain_of(environment: Mapping[str, str]) -> str:
    """Consul's domain as this environment has it; a dot at the end makes no difference."""
    return environment.get(ENV_CONSUL_DOMAIN, "").strip(".") or CONSUL_DOMAIN


DEFAULT_SERVICE_DOMAIN = _name(
    Section.HOSTS,
    service_domain(CONSUL_DOMAIN),
    "after a service's name, unless set otherwise",
)
CLUSTER_DOMAIN = _name(
    Section.HOSTS,
    "svc.cluster.local",
    "after a service's name and namespace: Kubernetes' form",
)
CONTROL_PLANE_HOST = _name(
    Section.HOSTS, "control-plane.dockermesh", "the control plane on the mesh network"
)

LIMIT_HEADER = "x-dockermesh-limit"
"""In an answer with a text of the user's: which RateLimit it is of."""

# Identities
# --------------------------------------------------------------------------------------------------

DEFAULT_TRUST_DOMAIN = _name(
    Section.IDENTITIES, "cluster.local", "the trust domain, unless set otherwise"
)
SYSTEM_NAMESPACE = _name(
    Section.IDENTITIES,
    "istio-system",
    "where gateways are, and config that holds everywhere",
)
GATEWAY_ACCOUNT = _name(
    Section.IDENTITIES,
    "istio-ingressgateway-service-account",
    "gateways, as policies name them",
)
EGRESS_GATEWAY_ACCOUNT = _name(
    Section.IDENTITIES, "istio-egressgateway-service-account", "egress gateways"
)
INGRESS_GATEWAY = _name(
    Section.IDENTITIES,
    "istio-ingressgateway",
    "gateways' label `app`; `istio` is `ingressgateway`",
)
EGRESS_GATEWAY = _name(
    Section.IDENTITIES,
    "istio-egressgateway",
    "egress gateways' service and their label `app`",
)
CONTROL_PLANE_ACCOUNT = "dockermesh-control-plane"
"""Who asks health checks where a proxy takes no plaintext; in the system namespace."""
SCRAPER_ACCOUNT = _name(
    Section.IDENTITIES,
    "dockermesh-prometheus",
    "who may read proxies' metrics, in the system namespace, beside the control plane",
)
RESERVED_NAMES = frozenset(
    {
        CONSUL_DOMAIN,
        CONSUL_CONTAINER,
        CONTROL_PLANE_HOST.partition(".")[0],
        CONTROL_PLANE_CONTAINER,
        EGRESS_GATEWAY,
    }
)
"""Services that are no workload's to serve: Consul's servers, and what is called so by Docker's DNS
or the mesh itself.
"""
CLUSTER_ID = _name(
    Section.IDENTITIES,
    "dockermesh",
    "the cluster in labels of metrics (Istio: `Kubernetes`)",
)
CERTIFICATE_FACTS = _name(
    Section.IDENTITIES,
    "2.25.281250957394213905361423640264019874801",
    "the kind of name in a certificate that says what metrics call its workload",
)
SEAL_PURPOSE = _name(
    Section.IDENTITIES,
    "dockermesh: private keys in a kept configuration",
    "what a pod's token is hashed with (HMAC) to the password of its keys in `kept.json.gz`",
)
TELEMETRY_PURPOSE = _name(
    Section.IDENTITIES,
    "dockermesh: token of Prometheus",
    "what the API's token is hashed with (HMAC) to the one that opens `/metrics` and"
    " `/telemetry/targets` alone",
)
MODULES_PATH = "/mesh/modules"
"""Where modules of plugins are brought to, on the config API's port."""
TARGETS_PATH = "/telemetry/targets"
"""Of the control plane: whom Prometheus is to ask."""
ROOTS_SECRET = _name(
    Section.IDENTITIES,
    "ROOTCA",
    "the SDS secret of the roots; `default` is a proxy's own leaf",
)
