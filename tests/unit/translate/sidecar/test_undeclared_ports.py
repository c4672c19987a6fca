"""What the ports that nobody declares cost, and where there are none."""

from __future__ import annotations

from ipaddress import ip_address

from meshes import as_dict, mesh, messages, service, sidecar

from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.dialled import CALLED_HEADER
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.stand_in import REFUSING
from dockermesh.translate.mesh.state import MeshState
from dockermesh.translate.translator import Translator
from dockermesh.xds import Snapshot


def told(state: MeshState) -> Snapshot:
    translator = Translator()
    translator.update(state)
    return translator.snapshot(sidecar())


def leads(snapshot: Snapshot) -> dict[str, str]:
    """The resolver's table: name to cluster."""
    (listener,) = (
        x
        for x in as_dict(snapshot)["listeners"]
        if x["name"] == names.ENDPOINTS_LISTENER
    )
    (config,) = (f["typedConfig"] for f in listener["listenerFilters"])
    table = config["serverConfig"]["inlineDnsTable"].get("virtualDomains", [])
    return {item["name"]: item["endpoint"]["clusterName"] for item in table}


def test_a_service_costs_a_line() -> None:
    one = told(mesh(service("a", "10.0.0.1")))
    state = mesh(service("a", "10.0.0.1"), service("b", "10.0.0.2"))
    two = told(state)
    assert len(leads(one)) == 1
    assert leads(two) == {
        f"{state.vips[f'{name}.service.consul']}.endpoints": (
            f"outbound|9080||{name}.service.consul"
        )
        for name in ("a", "b")
    }
    assert messages(one, "listeners").keys() == messages(two, "listeners").keys()
    more = messages(two, "clusters").keys() - messages(one, "clusters").keys()
    assert more == {"outbound|9080||b.service.consul"}


def test_where_nothing_unknown_may_be_called_they_are_not_either() -> None:
    made = told(mesh(service("a", "10.0.0.1"), settings=MeshSettings(allow_any=False)))
    assert names.UNDECLARED_CLUSTER not in str(as_dict(made))
    assert names.ENDPOINTS_LISTENER not in messages(made, "listeners")


def test_while_a_service_is_away_its_ports_are_not_the_callers_own() -> None:
    address = ip_address(REFUSING[0])
    assert not address.is_loopback and not address.is_unspecified


def test_requests_follow_where_others_declare_the_port() -> None:
    made = told(mesh(service("a", "10.0.0.1")))
    rest = messages(made, "routes")["9080"].virtual_hosts[-1]
    first, *others = rest.routes
    (header,) = first.match.headers
    assert first.route.cluster == names.UNDECLARED_CLUSTER
    assert (header.name, header.string_match.prefix) == (CALLED_HEADER, "240.240.")
    assert others[0].name == "allow_any"
    filters = [
        f["name"]
        for listener in as_dict(made)["listeners"]
        if listener["name"] == "0.0.0.0_9080"
        for f in listener["filterChains"][0]["filters"][0]["typedConfig"]["httpFilters"]
    ]
    assert filters[-3:] == [
        "dockermesh.undeclared",
        "envoy.filters.http.dynamic_forward_proxy",
        "envoy.filters.http.router",
    ]
