"""Building our images: a context in a temporary folder, and Compose, whose steps are told while
they happen.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dockermesh import __version__
from dockermesh.client.images.base import WAYS_OUT, get_base
from dockermesh.client.images.build_log import build_failure, build_step
from dockermesh.client.images.downloads import UNREACHED, BaseFacts, download, look_at
from dockermesh.client.images.mesh_images import Say, State, mesh_images
from dockermesh.client.images.sources import SOURCES_LABEL, fingerprint, stage
from dockermesh.docker.compose import stream_compose
from dockermesh.docker.image_store import ImageStore
from dockermesh.errors import EngineError
from dockermesh.inject.images import reference

_BASES = {
    "consul": "debian",
    "control-plane": "python",
    "pod": "debian",
    "prometheus": "debian",
    "proxy": "python",
}
_NO_NETWORK = (
    "temporary failure",
    "could not resolve",
    "connection",
    "no matching distribution",
)
_HINTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("no space left",),
        "make room on the engine's disk: `docker system df`, `docker image prune`",
    ),
    (
        ("pull access denied", "failed to resolve source", "dial tcp", "no such host"),
        WAYS_OUT,
    ),
    (("certificate",), "name your CA's file: DOCKERMESH_CA_BUNDLE=/path/ca.pem"),
    (
        _NO_NETWORK,
        UNREACHED,
    ),
)


def build(store: ImageStore, names: Sequence[str], step: Say) -> None:
    """Build these of our images under our names, from the package that is installed.

    Raises EngineError with the step that failed.
    """
    bases = get_base(store, os.environ, step)
    facts = look_at(store, bases["python"])
    pod_facts = look_for_iptables(store, bases, facts)
    folder = download(store, bases["python"], pod_facts, names, step)

    with tempfile.TemporaryDirectory(prefix="dockermesh-build-") as context:
        stage(Path(context))
        _add(folder, Path(context), pod_facts)
        file = Path(context) / "build.yaml"
        # JSON is YAML. Compose would take a plain `$`, as a path may have it, for a variable.
        file.write_text(json.dumps(_project(context, names, bases)).replace("$", "$$"))
        arguments = ["-f", str(file), "-p", "dockermesh-build", "build"]
        run_build(arguments, "build the mesh's images", dict(os.environ), step)


def ensure(store: ImageStore, step: Say, addons: Iterable[str] = ()) -> None:
    """Build those of ours that are missing or stale, under our names."""
    images = mesh_images(store, {}, addons=addons)
    wanted = [image.name for image in images if image.state is not State.PRESENT]
    if wanted:
        build(store, wanted, step)


def fetch(store: ImageStore, names: Sequence[str], step: Say) -> Path:
    """Download what the builds need; returns the folder."""
    bases = get_base(store, os.environ, step)
    facts = look_for_iptables(store, bases, look_at(store, bases["python"]))
    return download(store, bases["python"], facts, names, step)


def look_for_iptables(
    store: ImageStore, bases: Mapping[str, str], facts: BaseFacts
) -> BaseFacts:
    """The facts, with iptables as the pod's base has it: that one may be without Python."""
    if bases["debian"] == bases["python"]:
        return facts
    status, _, _ = store.run(
        bases["debian"], ["sh", "-c", "command -v iptables-restore"]
    )
    return BaseFacts(facts.machine, facts.glibc, facts.python, status == 0)


def run_build(
    arguments: Sequence[str], doing: str, environ: Mapping[str, str], step: Say
) -> None:
    """Run a build of Compose's and tell its steps. Raises EngineError with the one that failed."""
    status, lines = stream_compose(arguments, _steps(step), env=environ)
    if status:
        why = build_failure(lines)
        raise EngineError(
            f"Compose could not {doing}: {why}", fix=_hint("\n".join(lines))
        )


def _steps(step: Say) -> Callable[[str], None]:
    told: set[str] = (
        set()
    )  # BuildKit says a step's name again when another one spoke meanwhile

    def on_line(line: str) -> None:
        text = build_step(line)
        if text and text not in told:
            told.add(text)
            step(text)

    return on_line


def _hint(said: str) -> str:
    text = said.lower()
    found = (fix for words, fix in _HINTS if any(word in text for word in words))
    return next(found, "correct the step that failed")


def _add(folder: Path, context: Path, facts: BaseFacts) -> None:
    """Put what was downloaded where the Dockerfiles look for it."""
    places = {part: f"build/{part}" for part in ("wheels", "consul", "prometheus")}
    if not facts.has_iptables:
        places["debs"] = "compose/images/pod/debs"
    for part, place in places.items():
        if (folder / part).is_dir():
            shutil.copytree(folder / part, context / place, dirs_exist_ok=True)


def _project(
    context: str, names: Sequence[str], bases: Mapping[str, str]
) -> dict[str, Any]:
    services = {}
    for name in names:
        place = f"{context}/compose/images/pod" if name == "pod" else context
        services[name] = {
            "image": reference(name, {}),
            "build": {
                "context": place,
                "dockerfile": f"{context}/compose/images/{name}/Dockerfile",
                "args": {"BASE_IMAGE": bases[_BASES[name]]},
                "labels": {
                    SOURCES_LABEL: fingerprint(name),
                    "org.opencontainers.image.version": __version__,
                },
            },
        }

    return {"services": services}
