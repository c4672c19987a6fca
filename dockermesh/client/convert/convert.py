"""The way through: files in, today's resources and a line for each resource out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dockermesh.client.convert import limits, policies, telemetry
from dockermesh.client.convert.callers import Callers
from dockermesh.client.convert.dimensions import Target
from dockermesh.client.convert.expression import Inexpressible
from dockermesh.client.convert.mixer import (
    GROUP,
    Action,
    Item,
    Mixer,
    mapping,
    read,
    sequence,
    sort,
    text,
)
from dockermesh.client.convert.report import Ledger, Line, Verdict
from dockermesh.config.documents import read_document
from dockermesh.config.kinds import is_mesh_group, replacement_of
from dockermesh.model.contract import SYSTEM_NAMESPACE

_CHECKS = {"denier": {"checknothing"}, "listchecker": {"listentry"}}
_QUOTAS = frozenset({"memquota", "redisquota"})
_GUARDS = frozenset(
    {*_CHECKS, *_QUOTAS, "opa", "rbac", "QuotaSpec", "QuotaSpecBinding"}
)
_TELEMETRY = frozenset(
    {
        ("stdio", "logentry"),
        ("fluentd", "logentry"),
        ("prometheus", "metric"),
        ("zipkin", "tracespan"),
    }
)
_BUILT_IN = {
    "attributemanifest": "attributes are built in",
    "adapter": "adapters are built in",
    "template": "templates are built in",
    "kubernetesenv": "the mesh knows workloads by itself",
    "kubernetes": "the mesh knows workloads by itself",
}


@dataclass(frozen=True, slots=True)
class Converted:
    """The resources, and what became of each of the input's."""

    resources: tuple[dict[str, Any], ...]
    report: tuple[Line, ...]

    @property
    def lost_guards(self) -> tuple[Line, ...]:
        """What refused requests and could not be said: without it more would pass."""
        return tuple(
            line
            for line in self.report
            if line.guards and line.verdict is Verdict.IMPOSSIBLE
        )


def convert(
    sources: Sequence[tuple[str, bytes]], namespace: str, callers: Callers
) -> Converted:
    """All files together, for rules name what stands in others. Raises InputError."""
    items = read(sources, namespace)
    return _Run(sort(items), callers).run(items)


class _Run:
    def __init__(self, mixer: Mixer, callers: Callers) -> None:
        self._mixer = mixer
        self._callers = callers
        self._ledger = Ledger()
        self._made: list[dict[str, Any]] = []
        self._kept: list[dict[str, Any]] = []
        self._telemetry = telemetry.Telemetry()
        self._quotas: list[Action] = []

    def run(self, items: list[Item]) -> Converted:
        for item in self._mixer.others:
            self._other(item)
        for part in (*self._mixer.handlers, *self._mixer.instances):
            if part.type in _BUILT_IN:
                self._ledger.say(Verdict.UNUSED, _BUILT_IN[part.type], part.item)
        for rule in self._mixer.rules:
            self._rule(rule)
        for binding in self._mixer.bindings:
            self._binding(binding)
        self._unbound()
        self._add_telemetry()
        return Converted((*self._kept, *self._made), tuple(self._ledger.lines(items)))

    def _other(self, item: Item) -> None:
        if item.group == GROUP:
            self._dropped(item)
        elif replacement_of(item.group, item.kind):
            self._ledger.guard(item)
            self._ledger.say(
                Verdict.IMPOSSIBLE,
                f"only Mixer's are converted; use {replacement_of(item.group, item.kind)}",
                item,
            )
        elif is_mesh_group(item.group) or item.kind == "MeshConfig":
            # Plain data, without the lines of the file.
            self._kept.append(json.loads(json.dumps(item.data)))
            self._ledger.say(Verdict.KEPT, "", item)
        else:
            self._ledger.say(Verdict.UNUSED, "it is no resource of the mesh", item)

    def _dropped(self, item: Item) -> None:
        built_in = _BUILT_IN.get(item.kind)
        if built_in is not None:
            self._ledger.say(Verdict.UNUSED, built_in, item)
            return
        use = replacement_of(item.group, item.kind)
        self._ledger.say(Verdict.IMPOSSIBLE, f"use {use}", item)

    def _rule(self, rule: Item) -> None:
        if not sequence(rule.spec.get("actions")):
            self._ledger.say(Verdict.UNUSED, "it does nothing", rule)
        denials = 0
        for action in self._mixer.actions(rule):
            if isinstance(action, str):
                # Nobody can tell what it did, so it may have refused.
                self._ledger.guard(rule)
                self._ledger.say(Verdict.IMPOSSIBLE, action, rule)
                continue
            if action.handler.type in _GUARDS:
                self._ledger.guard(rule, action.handler.item, action.instance.item)
            try:
                if action.handler.type in _CHECKS:
                    denials += 1
                self._act(action, denials)
            except Inexpressible as reason:
                self._impossible(str(reason), action)

    def _act(self, action: Action, denials: int) -> None:
        handler, instance = action.handler.type, action.instance.type
        if handler in _CHECKS and instance in _CHECKS[handler]:
            found = policies.denial(action, self._callers)
            name = action.rule.name if denials == 1 else f"{action.rule.name}-{denials}"
            self._add(found.policies(name), found.notes, action)
        elif handler in _QUOTAS and instance == "quota":
            self._quotas.append(action)
        elif (handler, instance) in _TELEMETRY:
            self._observe(action)
        elif handler in _BUILT_IN:
            self._ledger.say(Verdict.UNUSED, _BUILT_IN[handler], action.rule)
        else:
            raise Inexpressible(
                f"nothing does what {handler or 'no adapter'} did with {instance}"
            )

    def _observe(self, action: Action) -> None:
        """A log entry, a metric or a span; what would not be valid leaves nothing behind."""
        # By itself: what others left has been checked.
        found = telemetry.Telemetry()
        what, notes = found.add(action)
        for resource in (*found.resources(), telemetry.mesh_config(found.providers)):
            self._check(resource)
        self._telemetry.join(found)
        self._say(what, notes, *_parts(action))

    def _binding(self, binding: Item) -> None:
        self._ledger.guard(binding)
        try:
            services = limits.targets(binding)
            specs = [
                self._spec(binding, raw)
                for raw in sequence(binding.spec.get("quotaSpecs"))
            ]
            found = [charge for spec in specs for charge in limits.charges(spec)]
        except Inexpressible as reason:
            self._ledger.say(Verdict.IMPOSSIBLE, str(reason), binding)
            return
        if not services or not found:
            self._ledger.say(Verdict.UNUSED, "it binds nothing", binding)
        number = 0
        for charge in found:
            self._ledger.guard(charge.spec)
            actions = [
                a for a in self._quotas if _is_named(charge.quota, a, charge.spec)
            ]
            if not actions:
                why = (
                    f"no rule of the files gives {charge.quota!r} to a quota's handler"
                )
                self._ledger.say(Verdict.IMPOSSIBLE, why, charge.spec, binding)
            for action in actions:
                for target in services:
                    number += 1
                    name = binding.name if number == 1 else f"{binding.name}-{number}"
                    self._limit(name, action, charge, target, binding)

    def _spec(self, binding: Item, raw: Any) -> Item:
        named = mapping(raw)
        name = text(named.get("name"))
        namespace = text(named.get("namespace")) or binding.namespace
        for spec in self._mixer.quota_specs:
            if (spec.name, spec.namespace) == (name, namespace):
                return spec
        raise Inexpressible(f"there is no QuotaSpec {namespace}/{name} in the files")

    def _limit(
        self,
        name: str,
        action: Action,
        charge: limits.Charge,
        target: Target,
        binding: Item,
    ) -> None:
        others = (charge.spec, binding)
        try:
            found = limits.limit(name, action, charge, target)
            if found is None:
                why = f"its rule is not about {target.name}"
                self._ledger.say(Verdict.UNUSED, why, action.rule, *others)
                return
            self._add([found.resource], list(found.notes), action, *others)
        except Inexpressible as reason:
            self._impossible(f"{target.name}: {reason}", action, *others)

    def _unbound(self) -> None:
        """Quotas that no client charged limited nothing."""
        for action in self._quotas:
            items = [i for i in _parts(action) if not self._ledger.has(i)]
            self._ledger.say(
                Verdict.UNUSED,
                "no QuotaSpecBinding binds it, so it limited nothing",
                *items,
            )

    def _add_telemetry(self) -> None:
        self._made.extend(self._telemetry.resources())
        if not self._telemetry.providers:
            return
        mesh = next((r for r in self._kept if r.get("kind") == "MeshConfig"), None)
        if mesh is None:
            self._made.append(telemetry.mesh_config(self._telemetry.providers))
            return
        self._kept[self._kept.index(mesh)] = _with_providers(
            mesh, list(self._telemetry.providers.values())
        )

    def _add(
        self,
        made: list[dict[str, Any]],
        notes: list[str],
        action: Action,
        *others: Item,
    ) -> None:
        for resource in made:
            self._rename(resource, action.rule)
            self._check(resource)
        self._made.extend(made)
        names = ", ".join(
            f"{r['kind']} {r['metadata']['namespace']}/{r['metadata']['name']}"
            for r in made
        )
        self._say(names, notes, *_parts(action), *others)

    def _rename(self, resource: dict[str, Any], rule: Item) -> None:
        """Rules of one name in several namespaces may become policies of one."""
        taken = {_identity(each) for each in (*self._kept, *self._made)}
        metadata = resource["metadata"]
        if _identity(resource) in taken:
            metadata["name"] += f"-{rule.namespace}"
        if _identity(resource) in taken:
            raise Inexpressible(f"there are two of the name {metadata['name']}")

    def _say(self, what: str, notes: list[str], first: Item, *others: Item) -> None:
        verdict = Verdict.APPROXIMATED if notes else Verdict.TRANSLATED
        self._ledger.made(verdict, what, notes, first)
        # How is said once, with the rule.
        for item in others:
            self._ledger.made(verdict, what, (), item)

    def _check(self, resource: dict[str, Any]) -> None:
        wrong = [f for f in read_document(resource).findings if f.is_error]
        if wrong:
            raise Inexpressible(f"{wrong[0].field}: {wrong[0].message}")

    def _impossible(self, why: str, action: Action, *others: Item) -> None:
        self._ledger.say(Verdict.IMPOSSIBLE, why, action.rule)
        rest = (*_parts(action)[1:], *others)
        self._ledger.say(Verdict.IMPOSSIBLE, f"see rule {action.rule.name}", *rest)


def _parts(action: Action) -> tuple[Item, Item, Item]:
    return action.rule, action.handler.item, action.instance.item


def _identity(resource: Mapping[str, Any]) -> tuple[str, str, str]:
    metadata = mapping(resource.get("metadata"))
    return (
        text(resource.get("kind")),
        text(metadata.get("namespace")),
        text(metadata.get("name")),
    )


def _is_named(quota: str, action: Action, spec: Item) -> bool:
    """Whether a QuotaSpec means an action's instance."""
    item = action.instance.item
    is_near = item.namespace in (spec.namespace, SYSTEM_NAMESPACE)
    return quota in action.instance.full_names or (is_near and quota == item.name)


def _with_providers(
    mesh: dict[str, Any], providers: list[dict[str, Any]]
) -> dict[str, Any]:
    """A MeshConfig of the input with the providers beside its own."""
    inner = mesh.get("spec")
    settings = dict(inner if isinstance(inner, dict) else mesh)
    settings["extensionProviders"] = [
        *sequence(settings.get("extensionProviders")),
        *providers,
    ]
    return {**mesh, "spec": settings} if isinstance(inner, dict) else settings
