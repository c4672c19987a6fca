"""Mixer's resources as they stand in files, in both styles: a kind for each adapter and template
(`memquota`, `quota`), or `handler` and `instance`, which name theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dockermesh.config.documents import listed
from dockermesh.config.loading import line_of, load_documents
from dockermesh.config.resource import DEFAULT_NAMESPACE
from dockermesh.errors import InputError

GROUP = "config.istio.io"
_ADAPTERS = frozenset(
    {
        "bypass",
        "circonus",
        "cloudwatch",
        "denier",
        "dogstatsd",
        "fluentd",
        "kubernetesenv",
        "listchecker",
        "memquota",
        "noop",
        "opa",
        "prometheus",
        "rbac",
        "redisquota",
        "servicecontrol",
        "signalfx",
        "solarwinds",
        "stackdriver",
        "statsd",
        "stdio",
        "zipkin",
    }
)
_TEMPLATES = frozenset(
    {
        "apikey",
        "authorization",
        "checknothing",
        "edge",
        "kubernetes",
        "listentry",
        "logentry",
        "metric",
        "quota",
        "reportnothing",
        "servicecontrolreport",
        "tracespan",
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One resource of a file."""

    place: str
    api_version: str
    kind: str
    namespace: str
    name: str
    data: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def group(self) -> str:
        """The part of `apiVersion` before the version."""
        return self.api_version.partition("/")[0]

    @property
    def spec(self) -> Mapping[str, Any]:
        """Its settings; Mixer's samples have some that are empty."""
        return mapping(self.data.get("spec"))


@dataclass(frozen=True, slots=True)
class Part:
    """A handler with its adapter, or an instance with its template."""

    item: Item
    type: str
    params: Mapping[str, Any]

    @property
    def full_names(self) -> frozenset[str]:
        """What it is called in all namespaces: `name.namespace` or `name.kind.namespace`."""
        return frozenset(f"{name}.{self.item.namespace}" for name in self.near_names)

    @property
    def near_names(self) -> frozenset[str]:
        """What it is called in its own, besides: `name` or `name.kind`."""
        name = self.item.name
        return frozenset(
            {name, *(f"{name}.{kind}" for kind in (self.item.kind, self.type))}
        )


@dataclass(frozen=True, slots=True)
class Action:
    """What a rule has a handler do with an instance."""

    rule: Item
    match: str
    handler: Part
    instance: Part


@dataclass(slots=True)
class Mixer:
    """All that was read, and what is wrong with how it hangs together."""

    handlers: list[Part] = field(default_factory=list)
    instances: list[Part] = field(default_factory=list)
    rules: list[Item] = field(default_factory=list)
    quota_specs: list[Item] = field(default_factory=list)
    bindings: list[Item] = field(default_factory=list)
    others: list[Item] = field(default_factory=list)

    def actions(self, rule: Item) -> Iterator[Action | str]:
        """What a rule does; a text where that cannot be told."""
        match = text(rule.spec.get("match"))
        for raw in sequence(rule.spec.get("actions")):
            action = mapping(raw)
            named = text(action.get("handler"))
            handler = find(self.handlers, named, rule.namespace)
            if handler is None:
                yield f"there is no handler {named!r} in the files"
                continue
            for each in sequence(action.get("instances")):
                instance = find(self.instances, text(each), rule.namespace)
                if instance is None:
                    yield f"there is no instance {text(each)!r} in the files"
                else:
                    yield Action(rule, match, handler, instance)


def read(sources: Sequence[tuple[str, bytes]], namespace: str) -> list[Item]:
    """The resources of all files, in their order; `namespace` is for those that name none.

    Raises InputError where a file is no YAML.
    """
    items = []
    for file, content in sources:
        loaded = load_documents(content)
        wrong = loaded.error or next(
            (mistake for each in loaded.documents for mistake in each.mistakes), None
        )
        if wrong is not None:
            raise InputError(
                wrong.message, where=f"{file}:{wrong.line}", fix="correct the file"
            )
        for document in loaded.documents:
            for path, data in listed(document.data):
                place = f"{file}:{line_of(document.data, path) or document.line}"
                items.append(_item(data, place, namespace))
    return items


def _item(data: Any, place: str, namespace: str) -> Item:
    metadata = mapping(mapping(data).get("metadata"))
    kind, name = text(mapping(data).get("kind")), text(metadata.get("name"))
    if kind == "MeshConfig":
        name = name or "default"
    if not kind or not name:
        raise InputError(
            "is no resource: it has no kind or no metadata.name",
            where=place,
            fix="give the files that kubectl took",
        )
    return Item(
        place=place,
        api_version=text(data.get("apiVersion")),
        kind=kind,
        namespace=text(metadata.get("namespace")) or namespace or DEFAULT_NAMESPACE,
        name=name,
        data=data,
    )


def sort(items: Sequence[Item]) -> Mixer:
    """What the resources are to Mixer."""
    found = Mixer()
    listed_as = {
        "rule": found.rules,
        "QuotaSpec": found.quota_specs,
        "QuotaSpecBinding": found.bindings,
    }
    for item in items:
        spec = item.spec
        if item.group != GROUP:
            found.others.append(item)
        elif item.kind in listed_as:
            listed_as[item.kind].append(item)
        elif item.kind == "handler":
            adapter = text(spec.get("compiledAdapter") or spec.get("adapter"))
            found.handlers.append(Part(item, adapter, mapping(spec.get("params"))))
        elif item.kind == "instance":
            template = text(spec.get("compiledTemplate") or spec.get("template"))
            found.instances.append(Part(item, template, mapping(spec.get("params"))))
        elif item.kind == "template" and text(spec.get("template")) in _TEMPLATES:
            found.instances.append(Part(item, text(spec.get("template")), {}))
        elif item.kind in _ADAPTERS:
            found.handlers.append(Part(item, item.kind, spec))
        elif item.kind in _TEMPLATES:
            found.instances.append(Part(item, item.kind, spec))
        else:
            found.others.append(item)
    return found


def find(parts: Sequence[Part], reference: str, namespace: str) -> Part | None:
    """What a reference of a rule in a namespace is to."""
    return next((p for p in parts if _is_meant(p, reference, namespace)), None)


def _is_meant(part: Part, reference: str, namespace: str) -> bool:
    is_near = part.item.namespace == namespace
    return reference in part.full_names or (is_near and reference in part.near_names)


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping, or an empty one instead of anything else."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: Any) -> Sequence[Any]:
    """A list, or an empty one instead of anything else."""
    return value if isinstance(value, list) else ()


def text(value: Any) -> str:
    """A text; of a number or truth value what was written, of anything else nothing."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else ""
