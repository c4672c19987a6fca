"""The gateways of a project: their pods and proxies, and the Istio resources that make one serve
published ports.

Invariant: what the user's own Gateway and VirtualService serve is theirs; nothing is generated
beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dockermesh.config.resource import GENERATED_LABEL
from dockermesh.errors import InputError
from dockermesh.inject import names
from dockermesh.inject.emit import emit
from dockermesh.inject.images import Images
from dockermesh.inject.options import PortMapping
from dockermesh.inject.plan import Meshed, Plan
from dockermesh.inject.pod import Service, exposed_ports, pod_base, proxy
from dockermesh.inject.proxy_config import (
    LABEL,
    GatewayConfig,
    ProxyDefaults,
    ProxyStart,
)
from dockermesh.inject.rewrites import ENTRY_HOST_PORT
from dockermesh.inject.settings import conventions
from dockermesh.inject.user_gateways import UserPorts
from dockermesh.model import READINESS_PORT, WorkloadKind, contract
from dockermesh.model.contract import (
    EGRESS_GATEWAY_ACCOUNT,
    ENV_CAPTURE,
    ENV_HOLD_PORTS,
    GATEWAY_ACCOUNT,
    SYSTEM_NAMESPACE,
)

HTTPS_HOST_PORT = 30443
OWN_NETWORK = "default"
_START = ProxyStart(concurrency=2)
_MOST_HELD = 7
"""How many ports the pod takes in a list; without one it holds all."""
_API = "networking.istio.io/v1"


def settle(mappings: Sequence[PortMapping], user: UserPorts) -> tuple[PortMapping, ...]:
    """Mark the mappings that the user's own config serves."""
    return tuple(
        replace(
            mapping,
            generated=mapping.gateway_port not in user.all,
            scheme="https" if mapping.gateway_port in user.tls else mapping.scheme,
        )
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
                "spec": {
                    "selector": names.gateway_labels(plan.project),
                    "servers": [server],
                },
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
    defaults: ProxyDefaults
    config: GatewayConfig = field(default_factory=GatewayConfig)
    own_network: bool = False
    """Whether the project has a network of its own, on which there may be what is not in the mesh.
    """

    def ingress(
        self,
        mappings: Sequence[PortMapping],
        user: UserPorts,
        opened: Mapping[int, int],
    ) -> dict[str, Service]:
        """Pod and proxy of the gateway; none if no port is published and no config of the user
        needs a gateway. `opened` are host ports for ports of the gateway itself.
        """
        published = _published(mappings, user, opened)
        if not published:
            return {}

        taken = self.plan.meshed.keys() | self.plan.followers.keys()
        service = (
            names.GATEWAY
            if names.GATEWAY not in taken
            else f"dockermesh-{names.GATEWAY}"
        )
        labels = names.gateway_labels(self.plan.project)
        if self.config.label:
            labels[LABEL] = self.config.label
        made = self._gateway(
            service,
            (names.GATEWAY_POD, names.GATEWAY_PROXY),
            GATEWAY_ACCOUNT,
            labels,
            self.config.start,
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

        if mappings:
            pod["labels"][contract.LABEL_PORTS] = ",".join(
                f"{mapping.service}:{mapping.target}={mapping.gateway_port}"
                for mapping in mappings
            )
        pod["ports"] = published
        return made

    def egress(self) -> dict[str, Service]:
        """Pod and proxy of the egress gateway. Translation makes it the service that Istio's users
        know it as.
        """
        made = self._gateway(
            contract.EGRESS_GATEWAY,
            (names.EGRESS_POD, names.EGRESS_PROXY),
            EGRESS_GATEWAY_ACCOUNT,
            names.egress_labels(self.plan.project),
            ProxyStart(),
        )
        pod = made[names.EGRESS_POD]
        # Which ports will be open is not known here, and a call to one that is not must fail at
        # once.
        pod["environment"][ENV_HOLD_PORTS] = str(READINESS_PORT)
        if self.own_network:
            pod["networks"][OWN_NETWORK] = None

        return made

    def _gateway(
        self,
        service: str,
        pair: tuple[str, str],
        account: str,
        labels: dict[str, str],
        own: ProxyStart,
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
            namespace=SYSTEM_NAMESPACE,
            labels=labels,
            images=self.images,
            start=self.defaults.start(SYSTEM_NAMESPACE, labels, own).over(_START),
            profiles=None,
            # Nobody takes its place: what it did not refuse meanwhile would be lost later.
            patience="",
        )

        return {pair[0]: pod, pair[1]: made}


def _published(
    mappings: Sequence[PortMapping], user: UserPorts, opened: Mapping[int, int]
) -> list[dict[str, Any]]:
    """What the gateway's pod publishes: the ports that moved to it, those that its owner opens,
    and those that the user's Gateways want beside them.
    """
    found = [
        _port(mapping.gateway_port, mapping.host_port, mapping.host_ip)
        for mapping in mappings
    ]
    hosts = {mapping.host_port for mapping in mappings}
    served = {mapping.gateway_port for mapping in mappings} | opened.keys()

    for number, host in opened.items():
        if host in hosts:
            raise InputError(
                f"host port {host} is wanted by port {number} of the gateway and by another",
                where="gateway ports",
                fix=f"give it another with --gateway-port {number}:PORT",
            )
        found.append(_port(number, host, ""))
        hosts.add(host)

    usual = {user.http[:1]: ENTRY_HOST_PORT, user.for_tls[:1]: HTTPS_HOST_PORT}
    for number in user.opened:
        if number in served:
            continue
        first = usual.get((number,), number)
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
