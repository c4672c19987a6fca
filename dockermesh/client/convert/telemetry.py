"""`logentry`, `metric` and `tracespan`, and the handlers they went to, as Telemetry and the
extension providers of a MeshConfig.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from dockermesh.client.convert.conditions import constant_of
from dockermesh.client.convert.destinations import Place
from dockermesh.client.convert.envoy_words import operator
from dockermesh.client.convert.expression import Inexpressible, parse
from dockermesh.client.convert.metrics import Standard, standard
from dockermesh.client.convert.mixer import Action, mapping, text
from dockermesh.client.convert.scope import Scope, scope_of
from dockermesh.model.contract import CLUSTER_DOMAIN, SPANS_PORT, SYSTEM_NAMESPACE

_NAME = "mixer"
"""Of the Telemetry resources that are made: Istio honours one without selector in a namespace."""
_FLUENTD = (
    "Envoy does not speak Fluentd's protocol: the lines go to the proxies' stdout, whence Docker"
    " sends them with `logging: {{driver: fluentd, options: {{fluentd-address: {address}}}}}`"
)
_REPORTERS = {"SERVER": "destination", "CLIENT": "source"}
_ZIPKIN_PATH = "/api/v2/spans"


@dataclass(slots=True)
class Telemetry:
    """Settings of telemetry by place, and the providers that they name."""

    specs: dict[Place, dict[str, Any]] = field(default_factory=dict)
    providers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def resources(self) -> list[dict[str, Any]]:
        """The Telemetry resources."""
        return [
            {
                "apiVersion": "telemetry.istio.io/v1",
                "kind": "Telemetry",
                "metadata": {
                    "name": "-".join((_NAME, *(value for _, value in place.labels))),
                    "namespace": place.namespace,
                },
                "spec": {**place.selector, **spec},
            }
            for place, spec in self.specs.items()
        ]

    def add(self, action: Action) -> tuple[str, list[str]]:
        """What an action becomes, and what was assumed. Raises Inexpressible."""
        if action.instance.type == "logentry":
            return "accessLogging of a Telemetry", self._log(action)
        if action.instance.type == "tracespan":
            return "tracing of a Telemetry", self._trace(action)
        found = self._count(action)
        read = [] if found.is_same else [f"read {found.old} as {found.query}"]
        return "a standard metric", [*read, *found.notes]

    def _log(self, action: Action) -> list[str]:
        """A log entry; returns what was assumed. Raises Inexpressible."""
        scope = scope_of(action.match, action.rule.namespace)
        scope.at_selected()
        labels, notes = _labels(action)
        name = action.instance.item.name
        is_stderr = text(action.handler.params.get("logStream")) == "STDERR"
        stream = "/dev/stderr" if is_stderr else "/dev/stdout"
        if is_stderr:
            name += "-stderr"
        self.providers[name] = {
            "name": name,
            "envoyFileAccessLog": {"path": stream, "logFormat": {"labels": labels}},
        }
        entry: dict[str, Any] = {"providers": [{"name": name}]}
        if scope.mode:
            entry["match"] = {"mode": scope.mode}
        if scope.conditions:
            entry["filter"] = {"expression": " && ".join(scope.conditions)}
        self._add(scope.place, "accessLogging", entry)
        if action.handler.type == "fluentd":
            address = text(action.handler.params.get("address")) or "localhost:24224"
            notes.append(_FLUENTD.format(address=address))
        return [*scope.notes, *notes]

    def _count(self, action: Action) -> Standard:
        """A metric of Prometheus. Raises Inexpressible."""
        scope = _of_metric(action)
        series = {f"destination_{key}": value for key, value in scope.place.labels}
        if scope.mode:
            series["reporter"] = _REPORTERS[scope.mode]
        found = standard(
            action.handler,
            action.instance,
            series,
            is_tcp=scope.is_tcp,
            event=scope.event,
        )
        if found.tags:
            metric: dict[str, Any] = {"metric": found.metric}
            if scope.mode:
                metric["mode"] = scope.mode
            place = Place(scope.place.namespace)
            override = {
                "match": metric,
                "tagOverrides": {
                    name: {"value": tag} for name, tag in found.tags.items()
                },
            }
            self._override(place, override)
        found.notes.extend(scope.notes)
        return found

    def _trace(self, action: Action) -> list[str]:
        """Spans for Zipkin; returns what was assumed. Raises Inexpressible."""
        scope = scope_of(action.match, action.rule.namespace)
        name = action.handler.item.name
        self.providers[name] = {"name": name, "zipkin": _zipkin(action.handler.params)}
        entry: dict[str, Any] = {"providers": [{"name": name}]}
        share = text(action.handler.params.get("sampleProbability"))
        if share:
            entry["randomSamplingPercentage"] = _percent(share)
        tags, notes = _span_tags(action)
        if tags:
            entry["customTags"] = tags
        if scope.conditions:
            notes.append(
                "its condition has no counterpart: of all requests that share is traced"
            )
        self._add(scope.place, "tracing", entry)
        return [*scope.notes, *notes]

    def join(self, other: Telemetry) -> None:
        """Take in what another has. Raises Inexpressible, and then has changed nothing."""
        for place, spec in other.specs.items():
            if "tracing" in spec and self.specs.get(place, {}).get("tracing"):
                raise Inexpressible(
                    "workloads send their spans to one server, and one is named before"
                )
        self.providers |= other.providers
        for place, spec in other.specs.items():
            for metrics in spec.get("metrics", ()):
                for override in metrics["overrides"]:
                    self._override(place, override)
            for field_name in ("accessLogging", "tracing"):
                for entry in spec.get(field_name, ()):
                    self._add(place, field_name, entry)

    def _add(self, place: Place, field: str, entry: dict[str, Any]) -> None:
        entries = self.specs.setdefault(place, {}).setdefault(field, [])
        if entry not in entries:
            entries.append(entry)

    def _override(self, place: Place, override: dict[str, Any]) -> None:
        spec = self.specs.setdefault(place, {})
        metrics = spec.setdefault(
            "metrics", [{"providers": [{"name": "prometheus"}], "overrides": []}]
        )
        if override not in metrics[0]["overrides"]:
            metrics[0]["overrides"].append(override)


def mesh_config(providers: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A MeshConfig with these extension providers."""
    return {
        "apiVersion": "mesh.istio.io/v1alpha1",
        "kind": "MeshConfig",
        "metadata": {"name": "default", "namespace": SYSTEM_NAMESPACE},
        "spec": {"extensionProviders": list(providers.values())},
    }


def _of_metric(action: Action) -> Scope:
    try:
        scope = scope_of(action.match, action.rule.namespace)
    except Inexpressible as reason:
        scope = Scope(Place(action.rule.namespace))
        scope.notes.append(f"it counts all, for {reason}; say it in the query")
    if scope.conditions:
        scope.notes.append(
            "it counts all, whatever the rule's match: say it in the query"
        )
    return scope


def _labels(action: Action) -> tuple[dict[str, str], list[str]]:
    """The fields of a log line in JSON, as the adapter wrote them."""
    params = action.instance.params
    item = action.instance.item
    labels = {"level": "info", "time": "%START_TIME%"}
    severity = text(params.get("severity"))
    if severity:
        level = constant_of(parse(severity))
        labels["level"] = str(level) if level is not None else "info"
    labels["instance"] = f"{item.name}.{action.instance.type}.{item.namespace}"
    notes = []
    for name, value in mapping(params.get("variables")).items():
        try:
            labels[name], instead = operator(parse(text(value)))
        except Inexpressible as reason:
            notes.append(f"without {name}: {reason}")
            continue
        if instead:
            notes.append(f"{name} is {instead}")
    return labels, notes


def _zipkin(params: Mapping[str, Any]) -> dict[str, Any]:
    url = text(params.get("url"))
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if not parts.hostname:
        raise Inexpressible("its handler has no url")
    host = parts.hostname
    if host.count(".") == 1:
        host += f".{CLUSTER_DOMAIN}"
    return {"service": host, "port": parts.port or SPANS_PORT, "path": _ZIPKIN_PATH}


def _percent(share: str) -> float:
    try:
        return round(float(share) * 100, 4)
    except ValueError:
        raise Inexpressible(f"its sampleProbability is {share!r}") from None


def _span_tags(action: Action) -> tuple[dict[str, Any], list[str]]:
    tags: dict[str, Any] = {}
    notes = []
    for name, value in mapping(action.instance.params.get("spanTags")).items():
        expression = parse(text(value))
        try:
            shown, instead = operator(expression)
        except Inexpressible as reason:
            notes.append(f"without the tag {name}: {reason}")
            continue
        if constant_of(expression) is not None:
            tags[name] = {"literal": {"value": shown.replace("%%", "%")}}
        else:
            tags[name] = {"formatter": {"value": shown}}
        if instead:
            notes.append(f"{name} is {instead}")
    return tags, notes
