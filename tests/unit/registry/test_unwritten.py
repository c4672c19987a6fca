"""What is shown while Consul is away: as Consul said it, unless the registrar knows better."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from dockermesh.model import Health
from dockermesh.model.contract import META_HOST, META_WORKLOAD
from dockermesh.registrar.checks import Check, HealthStatus
from dockermesh.registrar.desired import Desired
from dockermesh.registrar.mapping import Registration
from dockermesh.registry.consul.assembly import Instances
from dockermesh.registry.consul.convert import Instance, convert_entries
from dockermesh.registry.consul.unwritten import Unwritten

GROUP = "shop/web-1"
META = {META_HOST: "host-a", META_WORKLOAD: GROUP}
WEB = Registration(
    id="host-a:web:80",
    name="web",
    port=80,
    address="10.9.0.1",
    meta=MappingProxyType(META),
)
ASKED_BY_CONSUL: Check = {"HTTP": "http://10.9.0.1/", "Interval": "5s"}
NODE = {"Node": "agent", "Datacenter": "dc1", "Meta": {"protocol": "tcp"}}


def said_by_consul(registration: Registration, *checks: Any) -> Instances:
    """What Consul tells of a registration that was written."""
    entry = {"Node": NODE, "Service": registration.body(), "Checks": list(checks)}
    return convert_entries([entry], allow_loopback=False).instances


def shown(
    registration: Registration, known: Instances, other: Instances = ()
) -> Instance:
    """What is shown of a registration while Consul, which told `known` of it, is away."""
    unwritten = Unwritten()
    unwritten.over_instances("other", other, allow_loopback=False)
    unwritten.take(registration.meta[META_WORKLOAD], Desired((registration,)))
    unwritten.show(is_away=True)

    (found,) = unwritten.over_instances("web", known, allow_loopback=False)
    return found


def test_what_consul_has_already_is_shown_as_consul_said_it() -> None:
    known = said_by_consul(WEB)
    assert known[0].endpoint.locality == "dc1/host-a/"
    assert shown(WEB, known) == known[0]


def test_an_instance_that_moved_keeps_the_place_of_its_host() -> None:
    moved = shown(replace(WEB, address="10.9.0.7"), said_by_consul(WEB))
    assert moved.endpoint.address == "10.9.0.7"
    assert moved.endpoint.locality == "dc1/host-a/"


def test_a_new_one_gets_the_place_that_others_of_its_host_have() -> None:
    other = said_by_consul(replace(WEB, id="host-a:other:80", name="other"))
    assert shown(WEB, (), other).endpoint.locality == "dc1/host-a/"
    assert shown(WEB, ()).endpoint.locality == "/host-a/"


MAINTENANCE = {"CheckID": "_service_maintenance:host-a:web:80", "Status": "critical"}


@pytest.mark.parametrize(
    ("own", "check", "told", "expected"),
    [
        ("passing", None, MAINTENANCE, Health.DRAINING),
        ("critical", None, MAINTENANCE, Health.DRAINING),
        ("passing", ASKED_BY_CONSUL, {"Status": "critical"}, Health.UNHEALTHY),
        ("critical", ASKED_BY_CONSUL, {"Status": "passing"}, Health.UNHEALTHY),
        ("passing", None, {"Status": "critical"}, Health.HEALTHY),
        ("critical", None, {"Status": "passing"}, Health.UNHEALTHY),
    ],
)
def test_whose_word_counts_for_health(
    own: str, check: Check | None, told: dict[str, str], expected: Health
) -> None:
    registration = replace(WEB, check=check, health=HealthStatus(own, ""))
    known = said_by_consul(registration, told)
    assert shown(registration, known).endpoint.health is expected


def test_a_container_made_anew_is_judged_by_its_registrar() -> None:
    known = said_by_consul(WEB, MAINTENANCE)
    moved = replace(WEB, address="10.9.0.7", health=HealthStatus("passing", ""))
    assert shown(moved, known).endpoint.health is Health.HEALTHY
