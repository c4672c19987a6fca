"""The whole translation: everything at once, and after one change, for one proxy and for many.

    python bench/translate/run.py [--services 1000] [--endpoints 3] [--proxies 1,1000] [--rounds 3]

No network, no Envoy: MeshState in, snapshots of serialised resources out. What the rows and columns
are is in bench/README.md.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

from dockermesh.config.api.destination_rule import DestinationRule, Subset
from dockermesh.config.api.virtual_service import (
    Destination,
    HTTPRoute,
    HTTPRouteDestination,
    VirtualService,
)
from dockermesh.config.resource import Resource
from dockermesh.model import (
    Catalog,
    Endpoint,
    Port,
    Protocol,
    ServedPort,
    Service,
    Workload,
)
from dockermesh.translate.mesh.settings import IstioConfig
from dockermesh.translate.mesh.state import MeshState, Proxy, build_mesh
from dockermesh.translate.translator import Translator

Row = dict[str, float]
PORT = 9080


def address(number: int) -> str:
    """A replica's address."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def service(number: int, endpoints: int, first: int) -> Service:
    """A service with its endpoints, whose addresses start at `first`."""
    listed = tuple(
        Endpoint(address(first + n), PORT, labels={"version": f"v{n % 2 + 1}"})
        for n in range(endpoints)
    )
    return Service(
        f"s{number}", f"s{number}.service.consul", (Port(PORT, Protocol.HTTP),), listed
    )


def route(number: int, weight: int = 90) -> Resource[VirtualService]:
    """A canary: two subsets by weight."""
    host = f"s{number}.service.consul"
    targets = tuple(
        HTTPRouteDestination(
            destination=Destination(host=host, subset=subset), weight=share
        )
        for subset, share in (("v1", weight), ("v2", 100 - weight))
    )
    spec = VirtualService(hosts=(host,), http=(HTTPRoute(route=targets),))
    return Resource(
        "VirtualService", "networking.istio.io/v1", f"s{number}", "default", spec
    )


def rule(number: int) -> Resource[DestinationRule]:
    """The two subsets."""
    subsets = tuple(Subset(name=v, labels={"version": v}) for v in ("v1", "v2"))
    spec = DestinationRule(host=f"s{number}.service.consul", subsets=subsets)
    return Resource(
        "DestinationRule", "networking.istio.io/v1", f"s{number}", "default", spec
    )


def proxies(count: int, services: int) -> list[Proxy]:
    """Sidecars, each of a workload of its own, serving one service or another."""
    made = []
    for number in range(count):
        name = f"s{number % services}"
        own = Workload(
            id=f"id-{number}",
            name=f"shop/{name}-{number}",
            service=name,
            address=address(number + 1),
            ports=(ServedPort(name, PORT, "http"),),
            labels={"app": name, "replica": str(number)},
        )
        made.append(
            Proxy(own.name, address=own.address, labels=own.labels, workload=own)
        )
    return made


def measure(
    services: int, endpoints: int, count: int, *, with_rules: bool
) -> dict[str, Row]:
    """The rows of one mesh, in a process of its own: wall and CPU time in ms, services translated,
    memory in MiB.
    """
    listed = {
        s.hostname: s
        for s in (service(n, endpoints, 1 + n * endpoints) for n in range(services))
    }
    config = IstioConfig()
    if with_rules:
        numbers = sorted(range(services), key=lambda n: f"s{n}")
        config = IstioConfig(
            virtual_services=tuple(route(n) for n in numbers),
            destination_rules=tuple(rule(n) for n in numbers),
        )
    # The same object each time, as a registry's is while no workload comes or goes.
    nobody: dict[str, Workload] = {}
    clients = proxies(count, services)
    translator, rows = Translator(), {}
    before = _resident()
    state = MeshState()

    def step(name: str, make: Callable[[MeshState], MeshState]) -> None:
        nonlocal state
        gc.collect()
        translated, start, busy = (
            translator.counters.services,
            time.perf_counter(),
            time.process_time(),
        )
        state = make(state)
        translator.update(state)
        for client in clients:
            translator.snapshot(client)
        rows[name] = {
            "ms": (time.perf_counter() - start) * 1e3,
            "cpu": (time.process_time() - busy) * 1e3,
            "services": translator.counters.services - translated,
            "MiB": _resident() - before,
        }

    step(
        "cold",
        lambda old: build_mesh(Catalog(listed, nobody), config=config, previous=old),
    )
    one = f"s{services // 2}.service.consul"
    grown = replace(
        listed[one], endpoints=(*listed[one].endpoints, Endpoint("10.255.0.1", PORT))
    )
    listed = {**listed, one: grown}
    step(
        "endpoint added", lambda old: build_mesh(Catalog(listed, nobody), previous=old)
    )
    if with_rules:
        changed = tuple(
            route(services // 2, 50) if r.name == f"s{services // 2}" else r
            for r in config.virtual_services
        )
        config = replace(config, virtual_services=changed)
        step(
            "VirtualService changed",
            lambda old: build_mesh(
                Catalog(listed, nobody), config=config, previous=old
            ),
        )
    added = service(services, endpoints, 1 + services * endpoints)
    listed = {**listed, added.hostname: added}
    step("service added", lambda old: build_mesh(Catalog(listed, nobody), previous=old))
    return rows


def _resident() -> float:
    """The largest resident set of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--endpoints", type=int, default=3, help="of each service")
    parser.add_argument(
        "--proxies", default="1,1000", help="how many, separated by commas"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="each in a new process; the median is printed",
    )
    args = parser.parse_args()
    print(f"{args.services} services of {args.endpoints} endpoints")
    print(
        f"{'proxies':>8} {'rules':>6}  {'step':<24} {'ms':>9} {'cpu ms':>9} {'translated':>11}"
        f" {'MiB':>7}"
    )
    for count in map(int, args.proxies.split(",")):
        for with_rules in (False, True):
            found = []
            for _ in range(args.rounds):
                # A process of its own, so that the memory is that of this case alone.
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    job = pool.submit(
                        measure,
                        args.services,
                        args.endpoints,
                        count,
                        with_rules=with_rules,
                    )
                    found.append(job.result())
            for step in found[0]:
                row = {
                    key: statistics.median(r[step][key] for r in found)
                    for key in found[0][step]
                }
                rules = 2 * args.services if with_rules else 0
                text = (
                    f"{row['ms']:>9.1f} {row['cpu']:>9.1f} {row['services']:>11.0f}"
                    f" {row['MiB']:>7.0f}"
                )
                print(f"{count:>8} {rules:>6}  {step:<24} {text}", flush=True)


if __name__ == "__main__":
    main()
