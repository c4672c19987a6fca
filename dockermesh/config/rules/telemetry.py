"""Rules of Telemetry."""

from __future__ import annotations

from collections.abc import Mapping

from dockermesh.config.api.telemetry import (
    CustomTag,
    Metrics,
    MetricsOverrides,
    TagOperation,
    Telemetry,
    Tracing,
)
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.cel import check_expression
from dockermesh.config.rules.headers import check_name
from dockermesh.config.rules.log_format import check_text
from dockermesh.config.rules.scope import check_label_selector, check_targets, report


def check_telemetry(resource: Resource[Telemetry], at: Cursor) -> None:
    """All rules of a Telemetry."""
    spec = resource.spec
    check_label_selector(spec.selector, at / "selector")
    check_targets(spec.target_ref, spec.target_refs, at)
    # The API has lists where Istio uses one entry.
    if len(spec.tracing) > 1 and any(t.match is None for t in spec.tracing):
        (at / "tracing").warn(
            "of what several entries say of one thing the last counts; give each a match.mode"
        )
    for index, tracing in enumerate(spec.tracing):
        _check_tracing(tracing, at / "tracing" / index)
    for index, metrics in enumerate(spec.metrics):
        _check_metrics(metrics, at / "metrics" / index)

    for index, logging in enumerate(spec.access_logging):
        if logging.filter is not None:
            place = at / "accessLogging" / index / "filter" / "expression"
            report(place, check_expression(logging.filter.expression))


def _check_tracing(tracing: Tracing, at: Cursor) -> None:
    if len(tracing.providers) > 1:
        (at / "providers").warn(
            "several providers are not supported, only the first has an effect"
        )
    check_custom_tags(tracing.custom_tags, at / "customTags")


def check_custom_tags(tags: Mapping[str, CustomTag], at: Cursor) -> None:
    """Rules of tags of spans: Envoy refuses a whole listener for one that is wrong."""
    for name, tag in tags.items():
        place = at / name
        if not name:
            place.error("the name of a tag must not be empty")
        if tag.header is not None and tag.header.name:
            report(place / "header" / "name", check_name(tag.header.name))
        if tag.formatter is not None:
            report(place / "formatter" / "value", _check_format(tag.formatter.value))


def _check_format(value: str) -> str:
    if "%REQ_WITHOUT_QUERY(" in value:
        return "%REQ_WITHOUT_QUERY% is for access logs alone"
    return check_text(value)


def _check_metrics(metrics: Metrics, at: Cursor) -> None:
    for index, override in enumerate(metrics.overrides):
        _check_override(override, at / "overrides" / index)


def _check_override(override: MetricsOverrides, at: Cursor) -> None:
    for name, tag in override.tag_overrides.items():
        place = at / "tagOverrides" / name
        if not name:
            place.warn("the name of a tag should not be empty")
        if tag.operation is TagOperation.UPSERT and not tag.value:
            (place / "value").error("must be set when operation is UPSERT")
        if tag.operation is TagOperation.REMOVE and tag.value:
            (place / "value").error("may only be set when operation is UPSERT")
