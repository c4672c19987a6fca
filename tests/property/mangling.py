"""Resources of every kind, mangled at random, and what a mesh with them tells its proxies."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import any_pb2, symbol_database

from dockermesh.config.documents import read_document
from dockermesh.config.resource import Resource
from dockermesh.model import (
    Catalog,
    Endpoint,
    Port,
    Protocol,
    ServedPort,
    Service,
    Workload,
    WorkloadKind,
)
from dockermesh.translate.mesh.settings import istio_config
from dockermesh.translate.mesh.state import Proxy, build_mesh
from dockermesh.translate.translator import Translator
from dockermesh.xds import Snapshot

DOCUMENTS: list[dict[str, Any]] = list(
    yaml.safe_load_all((Path(__file__).parent / "resources.yaml").read_text())
)
TEXTS = [
    *(
        "",
        " ",
        "*",
        "**",
        "ä",
        "x\ny",
        "x\0y",
        "%",
        "%REQ(",
        "a b",
        "/",
        "//",
        "..",
        ".",
        "-",
        "(",
        "(?=x)",
        ".*",
    ),
    *(
        "[0-9]{1000}",
        "(a{30}){30}",
        "'",
        "\\",
        "|",
        "outbound|1||x",
        "0.0.0.0",
        "::1",
        "999.1.1.1",
        "10.0.0.0/8",
    ),
    *(
        "1.2.3.4/0",
        "10.0.0.0/99",
        "unix:///x",
        "@x",
        "localhost",
        "a.b",
        "*.a",
        "a.*",
        "*.",
        "HTTP",
        "TCP",
        "TLS",
    ),
    *(
        "0s",
        "1ms",
        "-1s",
        "0.0001s",
        "315576000001s",
        "9223372036s",
        "24h",
        "mesh",
        "edge",
        "default/edge",
        "\ud800",
    ),
    *(
        "https://a",
        ":path",
        ":authority",
        "Host",
        "content-length",
        "transfer-encoding",
        "5xx",
        "1e3",
        "x" * 5000,
    ),
    "retriable-status-codes,700",
]
OTHERS: list[Any] = [
    *(
        0,
        1,
        -1,
        2,
        99,
        100,
        101,
        600,
        65535,
        65536,
        2**31 - 1,
        2**31,
        2**32 - 1,
        2**32,
        2**63,
        2**64,
        10**30,
    ),
    *(
        0.0,
        0.5,
        1e-9,
        1e300,
        -0.5,
        100.1,
        True,
        False,
        None,
        [],
        {},
        [None],
        [{}],
        {"x": {}},
        ["*"],
        ["~"],
        ["a", "a"],
    ),
]


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
    """The path of every part of a document."""
    yield path
    children = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, child in children:
        yield from places(child, (*path, key))


def part(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        node = node[key]
    return node


def field_of(path: tuple[Any, ...]) -> str:
    """The name of the field that a path leads to, be it through lists."""
    return next((key for key in reversed(path) if isinstance(key, str)), "")


_PARTS: dict[str, list[Any]] = {}
for _document in DOCUMENTS:
    for _path in places(_document):
        _PARTS.setdefault(field_of(_path), []).append(part(_document, _path))


def mangle(chance: random.Random, document: dict[str, Any]) -> None:
    """Remove, double, rename or replace one part of the document's spec; what replaces it is often
    plausible.
    """
    *path, last = chance.choice(
        [p for p in places(document) if len(p) > 1 and p[0] == "spec"] or [("spec",)]
    )
    parent = part(document, tuple(path))
    own, kind = parent[last], chance.random()
    if kind < 0.15:
        del parent[last]
    elif kind < 0.3 and isinstance(parent, list):
        parent.append(copy.deepcopy(own))
    elif kind < 0.55:
        parent[last] = copy.deepcopy(
            chance.choice(_PARTS.get(field_of((*path, last)), [own]))
        )
    elif kind < 0.6 and isinstance(parent, dict):
        parent[chance.choice(TEXTS)] = parent.pop(last)
    else:
        alike = (
            TEXTS
            if isinstance(own, str)
            else [v for v in OTHERS if type(v) is type(own)]
        )
        parent[last] = copy.deepcopy(
            chance.choice(
                alike if alike and chance.random() < 0.8 else [*TEXTS, *OTHERS]
            )
        )


def accepted(document: dict[str, Any]) -> list[Resource[Any]]:
    """The resources of a document that validates; none if it does not. Every finding can be
    printed.
    """
    reading = read_document(document)
    assert reading.resources or reading.findings
    assert all(str(finding) and finding.message for finding in reading.findings)
    return [] if any(f.is_error for f in reading.findings) else list(reading.resources)


def _service(
    name: str, *addresses: str, port: int = 9080, protocol: Protocol = Protocol.HTTP
) -> Service:
    labels = {"version": "v1", "app": name}
    listed = tuple(
        Endpoint(a, port, workload=f"shop/{name}-1", labels=labels, locality="r1/z1")
        for a in addresses
    )
    return Service(name, f"{name}.service.consul", (Port(port, protocol),), listed)


SERVICES = (
    _service("reviews", "10.0.0.2", "10.0.0.3"),
    _service("ratings", "10.0.0.4"),
    _service("db", "10.0.0.5", port=3306, protocol=Protocol.TCP),
    _service("auto", "10.0.0.6", port=7777, protocol=Protocol.AUTO),
)


def _proxy(name: str, kind: WorkloadKind, labels: dict[str, str]) -> Proxy:
    ports = (ServedPort("reviews", 9080, "http"), ServedPort("reviews", 9443, "tls"))
    workload = Workload(
        id=name,
        name=f"shop/{name}",
        service=name,
        address="10.0.0.2",
        ports=ports,
        kind=kind,
        labels=labels,
    )
    return Proxy(
        workload.name,
        kind,
        address="10.0.0.2",
        labels=labels,
        workload=workload,
        locality="r1/z1",
    )


PROXIES = (
    _proxy("front-1", WorkloadKind.SIDECAR, {"app": "front"}),
    _proxy("scoped-1", WorkloadKind.SIDECAR, {"app": "scoped"}),
    _proxy("gateway-1", WorkloadKind.GATEWAY, {"istio": "ingressgateway"}),
)


def told(resources: Iterable[Resource[Any]]) -> list[Snapshot]:
    """What the proxies of a mesh with these resources get."""
    translator = Translator()
    catalog = Catalog({s.hostname: s for s in SERVICES}, {})
    translator.update(build_mesh(catalog, config=istio_config(resources)))
    return [translator.snapshot(proxy) for proxy in PROXIES]


def messages(snapshot: Snapshot) -> Iterable[Any]:
    """Every message of a snapshot."""
    for kind in ("clusters", "listeners", "routes", "endpoints", "secrets"):
        for resource in getattr(snapshot, kind).values():
            packed = any_pb2.Any.FromString(resource.any_bytes)
            yield (
                symbol_database.Default()
                .GetSymbol(packed.TypeName())
                .FromString(packed.value)
            )
