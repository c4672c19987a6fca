"""The gateway of a project: its pod and proxy, and the Istio resources that make it serve published ports.

Invariant: what the user's own Gateway and VirtualService serve is theirs; nothing is generated beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dockermesh.inject import names
from dockermesh.inject.emit import emit
from dockermesh.inject.images import Images
from dockermesh.inject.options import PortMapping
from dockermesh.inject.plan import Meshed, Plan
from dockermesh.inject.pod import Service, exposed_ports, pod_base, proxy
from dockermesh.inject.ports import ENTRY_HOST_PORT
from dockermesh.inject.settings import conventions
from dockermesh.model import WorkloadKind
from dockermesh.model.identity import GATEWAY_ACCOUNT, GATEWAY_NAMESPACE

HTTPS_HOST_PORT = 30443
_WORKERS = 2
_MOST_HELD = 7
"""How many ports the pod takes in a list; without one it holds all."""
_API = "networking.istio.io/v1"


@dataclass(frozen=True, slots=True)
class UserPorts:
    """The ports that the user's Gateways open on our gateway and that a VirtualService is bound to."""

    http: tuple[int, ...] = ()
    tls: tuple[int, ...] = ()
    tcp: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        """Every port."""
        return (*self.http, *self.tls, *self.tcp)


def gateway_labels(project: str) -> dict[str, str]:
    """The labels that Gateways select; those of Istio's own ingress gateway, and the project's."""
    return {"app": "istio-ingressgateway", "istio": "ingressgateway", names.PROJECT: project}


def user_ports(config: Iterable[Mapping[str, Any]], project: str) -> UserPorts:
    """What the user's resources already make our gateway serve; port 80 first."""
    resources = list(config)
    bound = {reference for resource in resources for reference in _bound(resource)}
    labels = gateway_labels(project)
    found: dict[str, dict[int, None]] = {"http": {}, "tls": {}, "tcp": {}}
    for resource in resources:
        if resource.get("kind") != "Gateway" or "istio.io" not in str(resource.get("apiVersion")):
            continue
        spec = _section(resource, "spec")
        if not labels.items() >= _section(spec, "selector").items() or _key(resource) not in bound:
            continue
        servers = spec.get("servers")
        for server in servers if isinstance(servers, list) else ():
            port = _section(server, "port")
            kind = {"HTTP": "http", "HTTP2": "http", "GRPC": "http", "HTTPS": "tls", "TLS": "tls"}.get(
                str(port.get("protocol", "HTTP")).upper(), "tcp"
            )
            if str(port.get("number")).isdigit():
                found[kind][int(port["number"])] = None
    http = sorted(found["http"], key=lambda number: (number != 80, number))
    return UserPorts(tuple(http), tuple(sorted(found["tls"])), tuple(sorted(found["tcp"])))


def settle(mappings: Sequence[PortMapping], user: UserPorts) -> tuple[PortMapping, ...]:
    """Mark the mappings that the user's own config serves."""
    return tuple(replace(mapping, generated=mapping.gateway_port not in user.all) for mapping in mappings)


def resources(mappings: Iterable[PortMapping], plan: Plan) -> list[dict[str, Any]]:
    """A Gateway and a VirtualService per generated mapping."""
    found: list[dict[str, Any]] = []
    for mapping in mappings:
        if not mapping.generated:
            continue
        service = plan.meshed[mapping.service]
        namespace = service.settings.namespace
        title = f"{plan.project}-gateway-{mapping.gateway_port}"
        port = {"number": mapping.gateway_port, "name": f"{mapping.protocol}-{mapping.gateway_port}"}
        server = {"port": port | {"protocol": mapping.protocol.upper()}, "hosts": ["*"]}
        host = destination_host(service, mapping.target)
        route = {"route": [{"destination": {"host": host, "port": {"number": mapping.target}}}]}
        spec: dict[str, Any] = {"hosts": ["*"], "gateways": [title]}
        if mapping.protocol == "http":
            spec["http"] = [route]
        else:
            spec["tcp"] = [{"match": [{"port": mapping.gateway_port}], **route}]
        metadata = {"name": title, "namespace": namespace}
        found.append(
            {
                "apiVersion": _API,
                "kind": "Gateway",
                "metadata": metadata,
                "spec": {"selector": gateway_labels(plan.project), "servers": [server]},
            }
        )
        found.append({"apiVersion": _API, "kind": "VirtualService", "metadata": dict(metadata), "spec": spec})
    return found


def destination_host(service: Meshed, port: int) -> str:
    """The mesh's name for the port. With several ports the registrar, as registrator did, appends the port to the name;
    Compose's name then stands for all of them.
    """
    declared = conventions(service.definition)
    if named := declared.get(f"SERVICE_{port}_NAME"):
        return named
    known = exposed_ports(service.definition)
    single = len(known) == 1 and "-" not in known[0]
    return declared.get("SERVICE_NAME", service.name) if single else service.name


def gateway_services(
    mappings: Sequence[PortMapping], user: UserPorts, plan: Plan, *, mesh_key: str, mesh_name: str, images: Images
) -> dict[str, Service]:
    """The gateway's pod and proxy; empty if no port is published and no config of the user needs a gateway."""
    published = _published(mappings, user)
    if not published:
        return {}
    taken = plan.meshed.keys() | plan.followers.keys()
    service = names.GATEWAY if names.GATEWAY not in taken else f"dockermesh-{names.GATEWAY}"
    workload = names.workload_name(plan.project, service, 1)
    labels = gateway_labels(plan.project)
    pod = pod_base(
        names.GATEWAY_POD,
        workload=workload,
        service=service,
        kind=WorkloadKind.GATEWAY,
        namespace=GATEWAY_NAMESPACE,
        service_account=GATEWAY_ACCOUNT,
        mesh_name=mesh_name,
        labels=labels,
        image=images.pod,
    )
    pod["environment"]["DOCKERMESH_CAPTURE"] = "none"
    if len(published) <= _MOST_HELD:
        pod["environment"]["DOCKERMESH_HOLD_PORTS"] = ",".join(str(port["target"]) for port in published)
    pod["labels"] |= labels
    if made := resources(mappings, plan):
        text = "---\n".join(map(emit, made))
        # Compose interpolates what it reads.
        pod["labels"][names.CONFIG] = text.replace("$", "$$")
    pod["networks"] = {mesh_key: None}
    pod["ports"] = published
    # Envoy is not root and has no capability, and yet listens on port 80.
    pod["sysctls"] = {"net.ipv4.ip_unprivileged_port_start": "0"}
    return {
        names.GATEWAY_POD: pod,
        names.GATEWAY_PROXY: proxy(
            names.GATEWAY_POD, workload=workload, service=service, images=images, workers=_WORKERS, profiles=None
        ),
    }


def _published(mappings: Sequence[PortMapping], user: UserPorts) -> list[dict[str, Any]]:
    found = [_port(mapping.gateway_port, mapping.host_port, mapping.host_ip) for mapping in mappings]
    hosts = {mapping.host_port for mapping in mappings}
    served = {mapping.gateway_port for mapping in mappings}
    for number in user.all:
        if number in served:
            continue
        first = {user.http[:1]: ENTRY_HOST_PORT, user.tls[:1]: HTTPS_HOST_PORT}.get((number,), number)
        host = first if first not in hosts else number
        if host not in hosts:
            found.append(_port(number, host, ""))
            hosts.add(host)
    return found


def _port(target: int, host: int, host_ip: str) -> dict[str, Any]:
    found: dict[str, Any] = {"mode": "ingress", "target": target, "published": str(host), "protocol": "tcp"}
    return {"host_ip": host_ip} | found if host_ip else found


def _bound(resource: Mapping[str, Any]) -> list[str]:
    """The Gateways that a VirtualService names, as namespace/name."""
    if resource.get("kind") != "VirtualService":
        return []
    namespace = _namespace(resource)
    gateways = _section(resource, "spec").get("gateways")
    named = [str(item) for item in (gateways if isinstance(gateways, list) else ()) if item != "mesh"]
    return [item if "/" in item else f"{namespace}/{item}" for item in named]


def _key(resource: Mapping[str, Any]) -> str:
    return f"{_namespace(resource)}/{(resource.get('metadata') or {}).get('name')}"


def _namespace(resource: Mapping[str, Any]) -> str:
    return str(_section(resource, "metadata").get("namespace") or "default")


def _section(value: Any, key: str) -> Mapping[str, Any]:
    """A mapping inside a resource. Whether the resource is right is judged, with file and line, where it is applied."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}
