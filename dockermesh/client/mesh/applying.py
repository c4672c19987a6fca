"""Resources from files to the config API: `apply`, its diff, what it prunes, and `delete -f`.

Invariant: all files are read and validated before the first change, so a typing error changes
nothing.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from dockermesh.client.mesh.api_client import MANAGER, ApiClient, path_of
from dockermesh.client.mesh.modules import with_module
from dockermesh.config.documents import read_text
from dockermesh.config.files import resource_files
from dockermesh.config.resource import Resource
from dockermesh.errors import InputError
from dockermesh.kubeapi.served import SERVED, Served, named

_SERVER_FIELDS = (
    "managedFields",
    "resourceVersion",
    "generation",
    "uid",
    "creationTimestamp",
)


@dataclass(frozen=True, slots=True)
class Item:
    """A resource of a file."""

    served: Served
    document: Mapping[str, Any]
    file: str = ""

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.document["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.document["metadata"]["name"])

    @property
    def path(self) -> str:
        """Its path in the API."""
        return path_of(
            self.served,
            self.namespace,
            self.name,
            str(self.document["apiVersion"]).rpartition("/")[2],
        )

    @property
    def title(self) -> str:
        """`virtualservice.networking.istio.io/reviews`."""
        return f"{self.served.singular}.{self.served.group}/{self.name}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to a resource, with the server's warnings, and the difference it makes if that
    was asked for.
    """

    title: str
    verb: str
    warnings: tuple[str, ...] = ()
    diff: str = ""


def read_items(sources: Iterable[str], namespace: str) -> tuple[list[Item], list[str]]:
    """The resources of files, directories and `-` (stdin), and warnings. Raises InputError naming
    all mistakes.
    """
    texts = chain.from_iterable(map(_texts, sources))
    readings = [read_text(text, name, namespace) for name, text in texts]

    items = [_item(r) for r in chain.from_iterable(r.resources for r in readings)]
    findings = list(chain.from_iterable(r.findings for r in readings))

    errors = [str(f) for f in findings if f.is_error]
    if errors:
        raise InputError(
            "the resources are invalid, nothing was changed:\n  " + "\n  ".join(errors)
        )

    if not items:
        raise InputError(
            "there is no resource in the input", fix="name files with Istio resources"
        )
    return items, [str(f) for f in findings]


def _item(resource: Resource[Any]) -> Item:
    """The resource as it is sent: without status, and without what the server fills in."""
    served = named(f"{resource.kind}.{resource.api_version.partition('/')[0]}")
    place = str(resource.location)
    if served is None:
        raise InputError(f"{resource.kind} is not kept in the config API", where=place)

    if not resource.document["metadata"].get("name"):
        raise InputError(
            "cannot use generateName with apply",
            where=place,
            fix="give it a metadata.name, or use kubectl create",
        )

    metadata = {**resource.document["metadata"], "namespace": resource.namespace}
    for field in _SERVER_FIELDS:
        metadata.pop(field, None)

    document = {k: v for k, v in resource.document.items() if k != "status"}
    return Item(served, document | {"metadata": metadata}, resource.location.file)


def _texts(source: str) -> Iterator[tuple[str, bytes]]:
    if source == "-":
        yield "<stdin>", sys.stdin.buffer.read()
        return
    for file in resource_files(Path(source)):
        try:
            yield str(file), file.read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot be read: {error.strerror}", where=str(file)
            ) from error


def apply_items(
    client: ApiClient,
    items: Iterable[Item],
    *,
    dry_run: bool = False,
    diff: bool = False,
) -> Iterator[Outcome]:
    """Apply one after the other."""
    for given in items:
        document, bring = with_module(given.document, given.file, client)
        item = replace(given, document=document)
        if not dry_run:
            bring()
        live = client.find(item.path)
        # A diff needs the merged object before anything is written.
        preview = (
            client.apply(item.served, item.document, dry_run=True).body
            if diff
            else None
        )
        reply = client.apply(item.served, item.document, dry_run=dry_run)
        verb = (
            "created"
            if live is None
            else "unchanged"
            if _same(live, reply.body)
            else "configured"
        )
        text = difference(item.title, live, preview) if diff else ""
        yield Outcome(item.title, verb, reply.warnings, text)


def prune(
    client: ApiClient, items: Iterable[Item], *, dry_run: bool = False
) -> Iterator[Outcome]:
    """Delete what an earlier apply of ours stored in the same namespaces, and is not among
    `items`.
    """
    items = list(items)
    kept = {(i.served.kind, i.namespace, i.name) for i in items}

    for namespace in sorted({i.namespace for i in items}):
        for served in (s for s in SERVED if s.namespaced):
            for document in client.find(path_of(served, namespace))["items"]:
                name = document["metadata"]["name"]
                if (served.kind, namespace, name) not in kept and _is_ours(document):
                    yield delete(
                        client, Item(served, document), dry_run=dry_run, verb="pruned"
                    )


def delete(
    client: ApiClient, item: Item, *, dry_run: bool = False, verb: str = "deleted"
) -> Outcome:
    """Delete one resource."""
    path = path_of(item.served, item.namespace, item.name)
    client.request("DELETE", path, {"dryRun": "All"} if dry_run else None)
    return Outcome(item.title, verb)


def _is_ours(document: Mapping[str, Any]) -> bool:
    managed = document["metadata"].get("managedFields") or ()
    return any(
        e.get("manager") == MANAGER and e.get("operation") == "Apply" for e in managed
    )


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(_bare(one) == _bare(other))


def difference(
    title: str, live: Mapping[str, Any] | None, new: Mapping[str, Any] | None
) -> str:
    """What leads from one document to another, as a unified diff of YAML; None is a document that
    does not exist.
    """
    before, after = (
        _yaml(d).splitlines(keepends=True) if d is not None else [] for d in (live, new)
    )
    return "".join(
        difflib.unified_diff(before, after, f"live/{title}", f"merged/{title}")
    )


def _yaml(document: Mapping[str, Any]) -> str:
    return yaml.safe_dump(_bare(document), sort_keys=False)


def _bare(document: Mapping[str, Any]) -> dict[str, Any]:
    """What users write."""
    metadata = {
        k: v for k, v in document["metadata"].items() if k not in _SERVER_FIELDS
    }
    return {
        k: v
        for k, v in document.items()
        if k not in {"metadata", "status", "apiVersion"}
    } | {"metadata": metadata}
