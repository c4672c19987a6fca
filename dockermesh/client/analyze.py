"""What `dockermesh analyze` looks at: files, the running mesh, or files as if they were applied to
it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockermesh.analysis.context import Context
from dockermesh.analysis.messages import BY_CODE
from dockermesh.analysis.reading import read_items, read_mesh_config
from dockermesh.analysis.registry import Suppression, analyze
from dockermesh.config.files import resource_files
from dockermesh.config.findings import Finding
from dockermesh.config.loading import MAX_BYTES
from dockermesh.errors import InputError, UsageError
from dockermesh.model.catalog import Catalog
from dockermesh.model.contract import consul_domain_of, service_domain
from dockermesh.model.refusal import Refusal

_Source = tuple[str, str | bytes]
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be analyzed. Without files it is the running mesh; `live` puts files over what
    runs.
    """

    files: tuple[str, ...] = ()
    mesh_config: Path | None = None
    catalog: Path | None = None
    live: bool = False
    recursive: bool = False
    namespace: str = ""
    suppress: tuple[str, ...] = ()


def run(request: Request) -> tuple[tuple[Finding, ...], list[str]]:
    """The findings, the worst first, and what the user should know about the request itself.

    Raises UsageError for a request that makes no sense, InputError for a file that cannot be read,
    NotReadyError when there is no running mesh to look at.
    """
    suppressions, warnings = _suppressions(request.suppress)
    sources = list(_sources(request))
    is_live = request.live or not request.files

    if is_live and request.catalog is not None:
        raise UsageError(
            "--catalog stands in for a running mesh",
            fix="give files, too, or leave it out",
        )

    catalog = _catalog(request.catalog) if request.catalog is not None else None
    refused: list[Refusal] = []
    with_secrets = False
    if is_live:
        # Here, as files alone need neither the SDK nor a connection.
        from dockermesh.client.mesh.live_mesh import live_catalog, live_resources

        # Files last: of an object that is given twice, the last one counts.
        catalog, refused = live_catalog()
        stored, with_secrets = live_resources(os.environ)
        sources = [*stored, *sources]

    items, findings = read_items(sources, request.namespace or "default")
    context = Context(
        items,
        findings=findings,
        mesh_config=_mesh_config(request.mesh_config),
        catalog=catalog,
        is_live=is_live,
        refused=refused,
        with_secrets=with_secrets,
        service_domain=service_domain(consul_domain_of(os.environ)),
    )
    namespaces = (request.namespace,) if request.namespace else ()

    return analyze(context, namespaces=namespaces, suppressions=suppressions), warnings


def _suppressions(given: tuple[str, ...]) -> tuple[list[Suppression], list[str]]:
    found, warnings = [], []
    for text in given:
        code, equals, resource = text.partition("=")
        if not equals or not code or not resource:
            raise UsageError(
                f"{text!r} is no suppression",
                where="--suppress",
                fix="write CODE=RESOURCE",
            )

        if code not in BY_CODE:
            warnings.append(
                f"there is no code {code!r}, so suppressing it has no effect"
            )
        found.append(Suppression(code, resource))

    return found, warnings


def _catalog(file: Path) -> Catalog:
    from dockermesh.client.offline.catalog_file import read_catalog

    return read_catalog(file, service_domain(consul_domain_of(os.environ)))


def _mesh_config(file: Path | None) -> Mapping[str, Any] | None:
    if file is None:
        return None
    settings, problem = read_mesh_config(_content(file))
    if problem:
        raise InputError(
            problem, where=str(file), fix="write Istio's MeshConfig as YAML"
        )
    return settings


def _sources(request: Request) -> Iterator[_Source]:
    for name in request.files:
        if name == STDIN:
            yield "<stdin>", sys.stdin.buffer.read(MAX_BYTES + 1)
            continue
        path = Path(name)
        for file in resource_files(path):
            if request.recursive or not path.is_dir() or file.parent == path:
                yield str(file), _content(file)


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            # One byte more than may be parsed, so that the parser can tell that it is too much.
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror}",
            where=str(file),
            fix="name an existing YAML or JSON file, or -",
        ) from error
