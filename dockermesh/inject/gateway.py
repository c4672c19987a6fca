"""The gateways of a project: their pods and proxies, and the Istio resources that make one serve
published ports.

Invariant: what the user's own Gateway and VirtualService serve is theirs; nothing is generated
beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dockermesh.config.resource import GENERATED_LABEL
from dockermesh.inject import names
from dockermesh.inject.emit import emit
from dockermesh.inject.images import Images
from dockermesh.inject.options import PortMapping
from dockermesh.inject.plan import Meshed, Plan
from dockermesh.inject.pod import Service, exposed_ports, pod_base, proxy
from dockermesh.inject.ports import ENTRY_HOST_PORT
from dockermesh.inject.settings import conventions
from dockermesh.model import READINESS_PORT, WorkloadKind, contract
from dockermesh.model.contract import (
    EGRESS_GATEWAY_ACCOUNT,
    ENV_CAPTURE,
    ENV_HOLD_PORTS,
    GATEWAY_ACCOUNT,
    INGRESS_GATEWAY,
    SYSTEM_NAMESPACE,
)

HTTPS_HOST_PORT = 30443
_HTTPS_PORT = 443
OWN_NETWORK = "default"
_WORKERS = 2
_MOST_HELD = 7
"""How many ports the pod takes in a list; without one it holds all."""
_API = "networking.istio.io/v1"
_LISTENER_KINDS = {
    "HTTP": "http",
    "HTTP2": "http",
    "GRPC": "http",
    "HTTPS": "tls",
    "TLS": "tls",
}
"""What a listener does, by the protocol of a Gateway's server; all others pass TCP on."""


@dataclass(frozen=True, slots=True)
class UserPorts:
    """The ports that the user's Gateways open on our gateway and that a VirtualService is bound
    to.
    """

    http: tuple[int, ...] = ()
    tls: tuple[int, ...] = ()
    tcp: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        """Every port."""
        return (*self.http, *self.tls, *self.tcp)


def gateway_labels(project: str) -> dict[str, str]:
    """The labels that Gateways select; those of Istio's own ingress gateway, and the project's."""
    return {
        "app": INGRESS_GATEWAY,
        "istio": "ingressgateway",
        contract.LABEL_PROJECT: project,
    }


def egress_labels(project: str) -> dict[str, str]:
    """The labels of the gateway through which traffic leaves the mesh; again those of Istio's
    own.
    """
    return {
        "app": contract.EGRESS_GATEWAY,
        "istio": "egressgateway",
        contract.LABEL_PROJECT: project,
    }


def user_ports(config: Iterable[Mapping[str, Any]], project: str) -> UserPorts:
    """What the user's resources already make our gateway serve; port 80 first."""
    resources = list(config)
    bound = {reference for resource in resources for reference in _bound(resource)}
    labels = gateway_labels(project)
    found: dict[str, dict[int, None]] = {"http": {}, "tls": {}, "tcp": {}}

    for resource in resources:
        # A Gateway without a VirtualService answers 404 to everything: it serves nothing yet.
        if not _is_ours(resource, labels) or _key(resource) not in bound:
            continue
        for number, protocol in _server_ports(resource):
            found[_LISTENER_KINDS.get(protocol, "tcp")][number] = None

    http = sorted(found["http"], key=lambda number: (number != 80, number))
    return UserPorts(
        tuple(http), tuple(sorted(found["tls"])), tuple(sorted(found["tcp"]))
    )


def _is_ours(resource: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    is_gateway = resource.get("kind") == "Gateway"
    selector = _section(_section(resource, "spec"), "selector")
    return (
        is_gateway
        and "istio.io" in str(resource.get("apiVersion"))
        and selector.items() <= labels.items()
    )


def _server_ports(gateway: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Number and protocol of each server; what is not a number was refused elsewhere."""
    servers = _section(gateway, "spec").get("servers")
    for server in servers if isinstance(servers, list) else ():
        port = _section(server, "port")
        if str(port.get("number")).isdigit():
            yield int(port["number"]), str(port.get("protocol", "HTTP")).upper()


def settle(mappings: Sequence[PortMapping], user: UserPorts) -> tuple[PortMapping, ...]:
    """Mark the mappings that the user's own config serves."""
    return tuple(
        replace(mapping, generated=mapping.gateway_port not in user.all)
        for mapping in mappings
    )


def resources(mappings: Iterable[PortMapping], plan: Plan) -> list[dict[str, Any]]:
    """A Gateway and a VirtualService per generated mapping."""
    found: list[dict[str, Any]] = []
    for mapping in mappings:
        if not mapping.generated:
            continue
        service = plan.meshed[mapping.service]
        namespace = service.settings.namespace
        # Compose's project may have `_`, which no name of a resource has.
        title = f"{plan.project.replace('_', '-').strip('-')}-gateway-{mapping.gateway_port}"
        port = {
            "number": mapping.gateway_port,
            "name": f"{mapping.protocol}-{mapping.gateway_port}",
        }
        server = {"port": port | {"protocol": mapping.protocol.upper()}, "hosts": ["*"]}
        # Hosts of resources have no `_` either; the mesh knows such a service by this name, too.
        host = destination_host(service, mapping.target).replace("_", "-")
        route = {
            "route": [
                {"destination": {"host": host, "port": {"number": mapping.target}}}
            ]
        }
        spec: dict[str, Any] = {"hosts": ["*"], "gateways": [title]}

        if mapping.protocol == "http":
            spec["http"] = [route]
        else:
            spec["tcp"] = [{"match": [{"port": mapping.gateway_port}], **route}]

        metadata = {
            "name": title,
            "namespace": namespace,
            "labels": {GENERATED_LABEL: "true"},
        }
        found.append(
            {
                "apiVersion": _API,
                "kind": "Gateway",
                "metadata": metadata,
                "spec": {"selector": gateway_labels(plan.project), "servers": [server]},
            }
        )
        found.append(
            {
                "apiVersion": _API,
                "kind": "VirtualService",
                "metadata": dict(metadata),
                "spec": spec,
            }
        )

    return found


def destination_host(service: Meshed, port: int) -> str:
    """The mesh's name for the port. With several ports the registrar, as registrator did, appends
    the port to the name; Compose's name then stands for all of them.
    """
    declared = conventions(service.definition)
    if named := declared.get(f"SERVICE_{port}_NAME"):
        return named
    known = exposed_ports(service.definition)
    single = len(known) == 1 and "-" not in known[0]
    return declared.get("SERVICE_NAME", service.name) if single else service.name


@dataclass(frozen=True, slots=True)
class Edge:
    """Makes the Compose services of a project's gateways."""

    plan: Plan
    mesh_key: str
    mesh_name: str
    images: Images
    own_network: bool = False
    """Whether the project has a network of its own, on which there may be what is not in the mesh.
    """

    def ingress(
        self, mappings: Sequence[PortMapping], user: UserPorts
    ) -> dict[str, Service]:
        """Pod and proxy of the gateway; none if no port is published and no config of the user
        needs a gateway.
        """
        published = _published(mappings, user)
        if not published:
            return {}

        taken = self.plan.meshed.keys() | self.plan.followers.keys()
        service = (
            names.GATEWAY
            if names.GATEWAY not in taken
            else f"dockermesh-{names.GATEWAY}"
        )
        made = self._gateway(
            service,
            (names.GATEWAY_POD, names.GATEWAY_PROXY),
            GATEWAY_ACCOUNT,
            gateway_labels(self.plan.project),
        )
        pod = made[names.GATEWAY_POD]
        if len(published) <= _MOST_HELD:
            pod["environment"][ENV_HOLD_PORTS] = ",".join(
                str(port["target"]) for port in published
            )

        if generated := resources(mappings, self.plan):
            text = "---\n".join(map(emit, generated))
            # Compose interpolates what it reads.
            pod["labels"][contract.LABEL_CONFIG] = text.replace("$", "$$")

        pod["ports"] = [*published, *_https_port(published)]
        return made

    def egress(self) -> dict[str, Service]:
        """Pod and proxy of the egress gateway. Translation makes it the service that Istio's users
        know it as.
        """
        made = self._gateway(
            contract.EGRESS_GATEWAY,
            (names.EGRESS_POD, names.EGRESS_PROXY),
            EGRESS_GATEWAY_ACCOUNT,
            egress_labels(self.plan.project),
        )
        pod = made[names.EGRESS_POD]
        # Which ports will be open is not known here, and a call to one that is not must fail at
        # once.
        pod["environment"][ENV_HOLD_PORTS] = str(READINESS_PORT)
        if self.own_network:
            pod["networks"][OWN_NETWORK] = None

        return made

    def _gateway(
        self, service: str, pair: tuple[str, str], account: str, labels: dict[str, str]
    ) -> dict[str, Service]:
        workload = names.workload_name(self.plan.project, service, 1)
        pod = pod_base(
            pair[0],
            workload=workload,
            service=service,
            kind=WorkloadKind.GATEWAY,
            namespace=SYSTEM_NAMESPACE,
            service_account=account,
            mesh_name=self.mesh_name,
            labels=labels,
            image=self.images.pod,
        )
        pod["environment"][ENV_CAPTURE] = "none"
        pod["labels"] |= labels
        pod["networks"] = {self.mesh_key: None}
        # Envoy is not root and has no capability, and yet listens on port 80.
        pod["sysctls"] = {"net.ipv4.ip_unprivileged_port_start": "0"}
        made = proxy(
            pair[0],
            workload=workload,
            service=service,
            images=self.images,
            workers=_WORKERS,
            profiles=None,
            # Nobody takes its place: what it did not refuse meanwhile would be lost later.
            patience="",
        )

        return {pair[0]: pod, pair[1]: made}


def _https_port(published: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Beside the entry at 30080, the door at 30443 for Gateways that are applied later."""
    entry = next(
        (port for port in published if port["published"] == str(ENTRY_HOST_PORT)), None
    )
    hosts, targets = (
        {port["published"] for port in published},
        {port["target"] for port in published},
    )
    if entry is None or str(HTTPS_HOST_PORT) in hosts or _HTTPS_PORT in targets:
        return []
    return [_port(_HTTPS_PORT, HTTPS_HOST_PORT, str(entry.get("host_ip") or ""))]


def _published(
    mappings: Sequence[PortMapping], user: UserPorts
) -> list[dict[str, Any]]:
    found = [
        _port(mapping.gateway_port, mapping.host_port, mapping.host_ip)
        for mapping in mappings
    ]
    hosts = {mapping.host_port for mapping in mappings}
    served = {mapping.gateway_port for mapping in mappings}

    for number in user.all:
        if number in served:
            continue
        first = {user.http[:1]: ENTRY_HOST_PORT, user.tls[:1]: HTTPS_HOST_PORT}.get(
            (number,), number
        )
        host = first if first not in hosts else number
        if host not in hosts:
            found.append(_port(number, host, ""))
            hosts.add(host)

    return found


def _port(target: int, host: int, host_ip: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "mode": "ingress",
        "target": target,
        "published": str(host),
        "protocol": "tcp",
    }
    return {"host_ip": host_ip} | found if host_ip else found


def _bound(resource: Mapping[str, Any]) -> list[str]:
    """The Gateways that a VirtualService names, as namespace/name."""
    if resource.get("kind") != "VirtualService":
        return []
    namespace = _namespace(resource)
    gateways = _section(resource, "spec").get("gateways")
    named = [
        str(item)
        for item in (gateways if isinstance(gateways, list) else ())
        if item != "mesh"
    ]
    return [item if "/" in item else f"{namespace}/{item}" for item in named]


def _key(resource: Mapping[str, Any]) -> str:
    return f"{_namespace(resource)}/{(resource.get('metadata') or {}).get('name')}"


def _namespace(resource: Mapping[str, Any]) -> str:
    return str(_section(resource, "metadata").get("namespace") or "default")


def _section(value: Any, key: str) -> Mapping[str, Any]:
    """A mapping inside a resource. Whether the resource is right is judged, with file and line,
    where it is applied.
    """
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}
