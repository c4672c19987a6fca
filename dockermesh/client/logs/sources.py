"""The containers whose logs are asked for, by the names that people use for workloads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from dockermesh.client.logs.lines import Source
from dockermesh.client.mesh.mesh_client import MeshClient
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import DockermeshError, InputError
from dockermesh.model.contract import LABEL_ROLE, LABEL_SERVICE, LABEL_WORKLOAD

_PARTS = frozenset({"app", "proxy"})


@dataclass(frozen=True, slots=True)
class Chosen:
    """The workloads that are meant: all of a project, or of the engine, or those of these names. A
    name may be a workload's, that without the project, or a Compose service's with all its
    replicas.
    """

    names: tuple[str, ...] = ()
    project: str = ""

    def sources(self, engine: LocalEngine) -> list[Source]:
        """Their apps and proxies, as far as they are there now."""
        return [
            source
            for source, known in _listed(engine, self.project)
            if not self.names or not known.isdisjoint(self.names)
        ]


def choose(engine: LocalEngine, names: Sequence[str], project: str = "") -> Chosen:
    """What is meant by names, among them those of services of the mesh. Raises InputError for one
    that is not there.
    """
    listed = _listed(engine, project)
    known = frozenset[str]().union(*(forms for _, forms in listed))
    if not known and not names:
        raise InputError(
            f"no workload of {project or 'a mesh'} is on this engine",
            fix="`dockermesh up` brings a project up in a mesh",
        )

    found = [name for name in names if name in known]
    missing = [name for name in names if name not in known]
    called = _services(engine) if missing else {}
    for name in missing:
        workloads = called.get(name, frozenset[str]())
        forms = [_of_all_replicas(k) for s, k in listed if s.workload in workloads]
        if not forms:
            raise InputError(
                f"no workload on this engine is called {name!r}",
                fix=_hint(name, {*known, *called}),
            )
        found.extend(forms)

    return Chosen(tuple(dict.fromkeys(found)), project)


def _listed(engine: LocalEngine, project: str) -> list[tuple[Source, frozenset[str]]]:
    """Every app and proxy with its names."""
    found = []
    for container in engine.containers([LABEL_WORKLOAD]):
        labels = container["Labels"]
        workload, part = labels[LABEL_WORKLOAD], labels.get(LABEL_ROLE, "")
        own, _, replica = workload.rpartition("/")
        if part not in _PARTS or project not in {"", own}:
            continue
        is_running = container.get("State") == "running"
        source = Source(workload, part, container["Id"], is_running)
        service = labels.get(LABEL_SERVICE) or replica.rpartition("-")[0]
        known = {workload, replica, service, f"{own}/{service}"}
        found.append((source, frozenset(known)))

    return sorted(found, key=lambda entry: (entry[0].workload, entry[0].part))


def _of_all_replicas(forms: Iterable[str]) -> str:
    """Of a workload's names the one that its later replicas will have, too."""
    return min((form for form in forms if "/" in form), key=len)


def _services(engine: LocalEngine) -> dict[str, frozenset[str]]:
    """The workloads of each service of the mesh; none where no control plane tells."""
    try:
        workloads = MeshClient(engine).workloads()["workloads"]
    except DockermeshError:
        return {}
    found: dict[str, frozenset[str]] = {}
    for workload in workloads:
        name = str(workload["service"] or "")
        if name:
            found[name] = found.get(name, frozenset()) | {str(workload["name"])}
    return found


def _hint(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, sorted(known), n=1)
    return f"did you mean {near[0]}?" if near else "see `dockermesh ps`"
