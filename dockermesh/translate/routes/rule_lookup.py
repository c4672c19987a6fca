"""From a route back to the rule of the VirtualService that it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from dockermesh.config.api.virtual_service import (
    HTTPMatchRequest,
    HTTPRoute,
    VirtualService,
)
from dockermesh.config.resource import Resource
from dockermesh.translate.routes.match import route_match


def find_rule(
    resource: Resource[VirtualService], route: Mapping[str, Any]
) -> tuple[int, int] | None:
    """The numbers of the rule in `spec.http` and of its match, from a route as proto JSON with the
    protos' names.

    Of rules with the same conditions, the one that leads to the same subsets; None if no rule has
    these conditions.
    """
    alike = []
    for number, rule in enumerate(resource.spec.http):
        for position, match in enumerate(rule.match or (HTTPMatchRequest(),)):
            made = json_format.MessageToDict(
                route_match(match), preserving_proto_field_name=True
            )
            if made == route.get("match"):
                alike.append((number, position))

    wanted = _subsets_of_route(route.get("route", {}))
    same = [
        found
        for found in alike
        if _subsets_of_rule(resource.spec.http[found[0]]) == wanted
    ]
    return next(iter(same or alike), None)


def _subsets_of_rule(rule: HTTPRoute) -> set[str]:
    return {
        t.destination.subset
        for t in rule.route
        if t.destination is not None and (t.weight or len(rule.route) == 1)
    }


def _subsets_of_route(action: Mapping[str, Any]) -> set[str]:
    entries = action.get("weighted_clusters", {}).get("clusters", ())
    names = (
        [str(action["cluster"])]
        if "cluster" in action
        else [str(entry["name"]) for entry in entries]
    )
    return {parts[2] for name in names if len(parts := name.split("|")) == 4}
