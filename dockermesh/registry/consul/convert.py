"""Consul's health entries as services of the mesh. Pure.

An entry is what `/v1/health/service/<name>` lists: `{"Node": ..., "Service": ..., "Checks":
[...]}`. It comes from outside: whatever is missing or of another type makes the entry be skipped
with a reason, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from dockermesh.model.contract import (
    META_ACCOUNT,
    META_HOST,
    META_ID_OF,
    META_NAMESPACE,
    META_PREFIX,
    META_PROTOCOL,
    META_SERVICE,
    META_WORKLOAD,
)
from dockermesh.model.identity import ACCOUNT_META, is_identity_part
from dockermesh.model.protocol import Protocol, agreed, parse_protocol
from dockermesh.model.protocol_selection import infer_protocol
from dockermesh.model.service import NO_LABELS, Endpoint, Health, Port, Service
from dockermesh.registry.accept import (
    address_problem,
    name_problem,
    plain_label,
    plain_name,
    plain_workload,
    quoted,
)

_MAX_WEIGHT = 65535
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Instance:
    """One registration: its endpoint, what is spoken there, and the Compose service it belongs
    to.
    """

    endpoint: Endpoint
    protocol: Protocol = Protocol.AUTO
    compose_service: str = ""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The usable instances of a Consul service in order, and why others were skipped."""

    instances: tuple[Instance, ...] = ()
    skipped: tuple[str, ...] = ()


def convert_entries(
    entries: Sequence[Any] | None, *, allow_loopback: bool = False
) -> Conversion:
    """The instances of one answer of `/v1/health/service/<name>`, sorted by address, port and
    id.
    """
    instances: list[Instance] = []
    skipped: list[str] = []
    for entry in entries or ():
        result = _convert(entry, allow_loopback=allow_loopback)
        if isinstance(result, Instance):
            instances.append(result)
        else:
            skipped.append(result)
    # Consul's order changes between answers, and every change of order would be a push.
    instances.sort(key=_order)
    return Conversion(tuple(instances), tuple(sorted(set(skipped))))


def build_service(
    name: str,
    instances: Iterable[Instance],
    *,
    domain: str,
    previous: Service | None = None,
) -> Service:
    """The service of these instances; `previous`, and its endpoints, where they are the same."""
    ordered = sorted(instances, key=_order)
    protocols = _port_protocols(ordered)
    endpoints = _endpoints(ordered, protocols, previous)
    # A service has one; where its instances disagree, nobody's is better than another's.
    namespaces = {e.namespace for e in endpoints}
    service = Service(
        name=name,
        hostname=f"{name}.{domain}".lower(),
        ports=tuple(
            Port(number, protocol) for number, protocol in sorted(protocols.items())
        ),
        endpoints=endpoints,
        namespace=namespaces.pop() if len(namespaces) == 1 else "default",
    )

    return _kept(previous, service)


def _endpoints(
    instances: Iterable[Instance],
    protocols: Mapping[int, Protocol],
    previous: Service | None,
) -> tuple[Endpoint, ...]:
    known = (
        {(e.address, e.port, e.id): e for e in previous.endpoints} if previous else {}
    )
    found: list[Endpoint] = []
    for instance in instances:
        new = instance.endpoint
        if (
            instance.protocol is Protocol.UDP
            and protocols[new.port] is not Protocol.UDP
        ):
            # A port number has one protocol; a datagram twin (DNS) would only get TCP connections.
            continue
        found.append(_kept(known.get((new.address, new.port, new.id)), new))
    return tuple(found)


def _kept(old: T | None, new: T) -> T:
    """The object of before where it is equal: translation is cached by identity."""
    return old if old is not None and old == new else new


def _order(instance: Instance) -> tuple[str, int, str]:
    return instance.endpoint.address, instance.endpoint.port, instance.endpoint.id


def _port_protocols(instances: Sequence[Instance]) -> dict[int, Protocol]:
    protocols: dict[int, Protocol] = {}
    for instance in instances:
        port = instance.endpoint.port
        protocols[port] = agreed(protocols.get(port), instance.protocol)
    return protocols


def _convert(entry: Any, *, allow_loopback: bool) -> Instance | str:
    service, node = _mapping(entry, "Service"), _mapping(entry, "Node")
    identifier, port = service.get("ID"), service.get("Port")
    if not isinstance(identifier, str) or not identifier:
        return "an instance without an ID"

    where = f"instance {quoted(identifier)}"
    address = service.get("Address") or node.get("Address")
    if not isinstance(address, str) or not address:
        return f"{where} has no address"

    # Whoever may register a service could send the mesh's traffic anywhere.
    problem = address_problem(address, allow_loopback=allow_loopback)
    if problem:
        return f"{where} at {quoted(address)}: {problem}"
    if not isinstance(port, int) or not 0 < port < 65536:
        return f"{where} has no port"

    meta, node_meta, tags = (
        _texts(service.get("Meta")),
        _texts(node.get("Meta")),
        _tags(service.get("Tags")),
    )
    labels = _labels(meta, tags)
    health, weight = _health_and_weight(entry.get("Checks"), service.get("Weights"))
    compose = meta.get(META_SERVICE, "")
    endpoint = Endpoint(
        address=address.rstrip("."),
        port=port,
        id=identifier,
        labels=labels,
        health=health,
        workload=plain_workload(meta.get(META_WORKLOAD, "")),
        namespace=plain_name(meta.get(META_NAMESPACE, ""), "default"),
        service_account=_account(meta),
        locality=_locality(node, meta, node_meta),
        weight=weight,
        gave_way=_shown(meta.get(META_ID_OF, "")),
    )

    # What is declared of a number is declared of TCP: registrator has one variable for both.
    return Instance(
        endpoint,
        (
            Protocol.UDP
            if identifier.endswith(":udp") and "udp" in tags
            else _protocol(port, meta, tags, node_meta)
        ),
        "" if name_problem(compose) else compose,
    )


def _mapping(parent: Any, key: str) -> Mapping[str, Any]:
    value = parent.get(key) if isinstance(parent, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return (
        [item for item in value if isinstance(item, Mapping)]
        if isinstance(value, list)
        else []
    )


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {}
    return {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, str)}


def _tags(value: Any) -> list[str]:
    return [t for t in value if isinstance(t, str)] if isinstance(value, list) else []


def _split_tag(tag: str) -> tuple[str, str] | None:
    """`key|value` (Istio's form) or `key=value`, whichever separator comes first."""
    # A value may hold the other separator: `url|http://a?b=c` is one pair.
    cut = min((i for i in (tag.find("|"), tag.find("=")) if i > 0), default=0)
    return (tag[:cut].strip(), tag[cut + 1 :].strip()) if cut else None


def _labels(meta: Mapping[str, str], tags: Sequence[str]) -> Mapping[str, str]:
    """Meta and tags; tags win, because they are what people write for this purpose
    (`SERVICE_TAGS=version|v1`).
    """
    labels = {
        k: v
        for k, v in meta.items()
        if not k.startswith(META_PREFIX) and plain_label(k, v)
    }
    for tag in sorted(tags):
        pair = _split_tag(tag)
        if pair and plain_label(*pair) and not pair[0].startswith(META_PREFIX):
            labels[pair[0]] = pair[1]
    return MappingProxyType(dict(sorted(labels.items()))) if labels else NO_LABELS


def _shown(text: str) -> str:
    return text if text.isprintable() else ""


def _account(meta: Mapping[str, str]) -> str:
    told = (meta.get(META_ACCOUNT, ""), meta.get(ACCOUNT_META, ""))
    return next((account for account in told if is_identity_part(account)), "")


def _protocol(
    port: int,
    meta: Mapping[str, str],
    tags: Sequence[str],
    node_meta: Mapping[str, str],
) -> Protocol:
    told = {k.lower(): v for k, v in meta.items()}
    tagged = dict(pair for pair in map(_split_tag, sorted(tags)) if pair)
    declared = _first(
        parse_protocol,
        told.get(f"{port}_protocol"),
        told.get(f"service_{port}_protocol"),
        told.get("protocol"),
        told.get("service_protocol"),
        tagged.get("protocol"),
        "udp" if "udp" in tags else None,
        node_meta.get("protocol"),
    )
    port_name = _first(
        bool,
        told.get(f"{port}_port_name"),
        told.get("port_name"),
        tagged.get("port_name"),
    )

    # What the registrar knows of an image is nobody's word.
    if not declared and not port_name:
        declared = _first(parse_protocol, told.get(META_PROTOCOL))
    return infer_protocol(declared=declared, port_name=port_name, number=port)


def _first(is_good: Callable[[str], object], *candidates: str | None) -> str:
    return next((text for text in candidates if text and is_good(text)), "")


def _health_and_weight(checks: Any, weights: Any) -> tuple[Health, int]:
    known = _mappings(checks)
    weight_of = weights if isinstance(weights, Mapping) else {}
    statuses = {check.get("Status") for check in known}
    passing = _weight(weight_of.get("Passing"))

    if any(map(_is_maintenance, known)):
        return Health.DRAINING, passing
    if "critical" in statuses:
        return Health.UNHEALTHY, passing
    if "warning" not in statuses:
        return Health.HEALTHY, passing

    # Weight 0 on warning is Consul's way to take an instance out before it fails.
    is_drained = weight_of.get("Warning") == 0
    health = Health.DRAINING if is_drained else Health.HEALTHY
    return health, _weight(weight_of.get("Warning"))


def _is_maintenance(check: Mapping[str, Any]) -> bool:
    # Consul marks maintenance by a check of this id, and by nothing else.
    identifier = str(check.get("CheckID", ""))
    in_maintenance = identifier == "_node_maintenance" or identifier.startswith(
        "_service_maintenance:"
    )
    return in_maintenance and check.get("Status") == "critical"


def _weight(value: Any) -> int:
    return min(max(value, 1), _MAX_WEIGHT) if isinstance(value, int) else 1


def _locality(
    node: Mapping[str, Any], meta: Mapping[str, str], node_meta: Mapping[str, str]
) -> str:
    # Istio's locality has three parts; a host is the zone, and there is no sub-zone.
    region = node.get("Datacenter")
    zone = meta.get(META_HOST) or node_meta.get(META_HOST) or node.get("Node")
    parts = [
        p.replace("/", "-") if isinstance(p, str) and p.isprintable() else ""
        for p in (region, zone)
    ]
    return f"{parts[0]}/{parts[1]}/" if any(parts) else ""
