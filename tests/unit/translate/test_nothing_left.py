"""What comes and goes leaves nothing behind: a control plane that runs for months sees more names
and ports than it ever has at once.
"""

from __future__ import annotations

import gc
from collections import Counter
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from meshes import catalog, edge, gateway, service, sidecar

from dockermesh.model import Protocol
from dockermesh.translate.mesh.state import build_mesh
from dockermesh.translate.translator import Translator

# What leads to everything else that was ever imported.
SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
CONFIG = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outer}
spec:
  hosts: [outer-%(n)d.example]
  resolution: DNS
  ports: [{number: %(port)d, name: http, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: %(port)d, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: front}
spec:
  hosts: [www-%(n)d.example]
  gateways: [front]
  http: [{route: [{destination: {host: web-%(n)d, port: {number: %(port)d}}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed}
spec:
  selector: {matchLabels: {tier: tier-%(n)d}}
  action: DENY
  rules: [{to: [{operation: {paths: [/secret-%(n)d]}}]}]
"""


def held_by(root: object) -> Counter[str]:
    """How many objects of each type are reached from one."""
    seen: dict[int, Any] = {}
    ahead: list[Any] = [root]
    while ahead:
        found = ahead.pop()
        if id(found) in seen or isinstance(found, SHARED):
            continue
        seen[id(found)] = found
        ahead.extend(gc.get_referents(found))
    # Numbers are shared by all of Python as long as they are small.
    kinds = (type(found) for found in seen.values())
    return Counter(kind.__name__ for kind in kinds if kind is not int)


def test_names_and_ports_that_are_gone_are_forgotten() -> None:
    translator = Translator()
    state = build_mesh(catalog())
    held = []
    for number in range(12):
        values = {"n": number, "port": 2000 + number}
        services = [
            service(f"web-{number}", "10.0.0.1", port=2000 + number),
            service(
                f"raw-{number}", "10.0.0.2", port=3000 + number, protocol=Protocol.TCP
            ),
        ]
        state = build_mesh(
            catalog(services), config=edge(CONFIG % values), previous=state
        )
        translator.update(state)
        translator.snapshot(sidecar(f"front-{number}", 4000 + number))
        translator.snapshot(gateway({"istio": "ingressgateway"}))
        held.append(held_by(translator))

    # The first rounds fill what is made once.
    more = held[-1] - held[5]
    assert not more, more.most_common(8)
