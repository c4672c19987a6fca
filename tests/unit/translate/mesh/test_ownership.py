"""Registering under a name is no way into a service: whose a name is, and what is taken all the
same.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from meshes import catalog, edge

from dockermesh.model import Endpoint, Port, Protocol, ServedPort, Service, Workload
from dockermesh.translate.mesh.ownership import given_way, refusals
from dockermesh.translate.mesh.stand_in import REFUSING
from dockermesh.translate.mesh.state import MeshState, build_mesh

VAULT = "vault.service.consul"


def pod(
    name: str, address: str, serves: str = "vault", port: int = 8200, **more: Any
) -> Workload:
    compose = name.partition("/")[2].rpartition("-")[0]
    since = more.pop("since", {})
    return Workload(
        id=name,
        name=name,
        service=compose,
        address=address,
        ports=(ServedPort(serves, port, "http"),),
        since=since if isinstance(since, dict) else {compose: since, serves: since},
        **more,
    )


def at(workload: Workload, port: int = 8200, **more: Any) -> Endpoint:
    account = workload.service_account or workload.service
    return Endpoint(
        workload.address,
        port,
        id=workload.name,
        workload=workload.name,
        namespace=workload.namespace,
        service_account=account,
        **more,
    )


OWN = pod("bank/vault-1", "10.0.0.1", since=5)
EVIL = pod("evil/web-1", "10.6.6.6", since=1)


def mesh(
    *workloads: Workload,
    config: str = "",
    others: tuple[Endpoint, ...] = (),
    ports: tuple[Port, ...] = (Port(8200, Protocol.HTTP),),
    previous: MeshState | None = None,
) -> MeshState:
    endpoints = tuple(at(w, w.ports[0].port) for w in workloads) + others
    found = Service("vault", VAULT, ports, endpoints)
    return build_mesh(
        catalog([found], workloads),
        config=edge(config) if config else None,
        previous=previous,
    )


def taken(state: MeshState, host: str = VAULT) -> set[str]:
    return {e.address for e in state.services[host].endpoints}


def test_a_foreign_service_name_gives_neither_endpoint_nor_identity() -> None:
    for order in itertools.permutations((OWN, EVIL)):
        state = mesh(*order)
        assert taken(state) == {"10.0.0.1"}
        assert state.services[VAULT].accounts == (("default", "vault"),)
    assert taken(state, "vault.evil.service.consul") == {"10.6.6.6"}, "its own it keeps"
    assert state.services["vault.evil.service.consul"].accounts == (("default", "web"),)
    assert state.names_in("evil")["vault"] == "vault.evil.service.consul"
    assert state.names_in("bank")["vault"] == state.names["vault"] == VAULT
    (told,) = refusals(state.owned, state.ownership)
    said = "evil/web-1 (10.6.6.6:8200) is registered as vault, which is bank's"
    assert said in told.sentence
    assert "default/web" in told.sentence
    assert "subjectAltNames" in told.fix


def test_it_says_neither_ports_nor_protocol_nor_namespace_of_the_service() -> None:
    evil = pod("evil/web-1", "10.6.6.6", port=8000, namespace="evil")
    ports = (Port(8000, Protocol.HTTP), Port(8200, Protocol.TCP))
    found = mesh(OWN, evil, ports=ports).services[VAULT]
    assert found.ports == (Port(8200, Protocol.HTTP),)
    assert found.namespace == "default"


def test_nobody_elses_is_called_while_its_own_are_away() -> None:
    found = Service("vault", VAULT, (Port(8200, Protocol.HTTP),), (at(EVIL),))
    state = build_mesh(catalog([found], (OWN, EVIL)))
    assert taken(state) == {REFUSING[0]}


@pytest.mark.parametrize(("ours", "theirs", "owner"), [(1, 2, "bank"), (2, 1, "evil")])
def test_a_name_that_is_no_compose_services_is_whose_it_was_first(
    ours: int, theirs: int, owner: str
) -> None:
    first = pod("bank/a-1", "1.1.1.1", since=ours)
    second = pod("evil/b-1", "2.2.2.2", since=theirs)
    assert mesh(first, second).ownership.owners["vault"] == owner


def test_a_version_of_a_service_is_the_services_own() -> None:
    """As bookinfo's `reviews-v1`: a later project's Compose service of the very name is not."""
    first = pod("bank/vault-v1-1", "10.0.0.1", since=1)
    assert taken(mesh(first, pod("evil/vault-1", "10.6.6.6", since=2))) == {"10.0.0.1"}
    assert taken(mesh(first, replace(EVIL, since={"vault": 0}))) == {"10.0.0.1"}


def test_versions_with_accounts_of_their_own_are_one_project_s() -> None:
    pods = [pod(f"bank/vault-v{n}-1", f"10.0.0.{n}", since=n) for n in (1, 2, 3)]
    state = mesh(*pods)
    assert len(taken(state)) == len(state.services[VAULT].accounts) == 3


PLAIN = Endpoint("10.6.6.7", 8200, id="plain")
POSING = Endpoint("10.6.6.8", 8200, id="posing", workload="bank/vault-9")


def test_a_meshed_service_takes_no_plaintext_endpoint_unless_told() -> None:
    state = mesh(OWN, others=(PLAIN, POSING))
    assert taken(state) == {"10.0.0.1"}
    told = list(refusals(state.owned, state.ownership))
    assert [t.asker for t in told] == ["plain", "bank/vault-9"]
    assert all("DISABLE" in t.fix for t in told)
    rule = _rule("{host: vault, trafficPolicy: {tls: {mode: DISABLE}}}")
    assert taken(mesh(OWN, others=(PLAIN,), config=rule)) == {"10.0.0.1", "10.6.6.7"}


def test_who_gave_way_to_the_holder_of_an_id_is_told() -> None:
    late = replace(at(OWN), id="h:web:80", gave_way="vault-1 container b")
    found = Service("vault", VAULT, (Port(8200),), (at(OWN), late))
    (told,) = given_way([found])
    assert told.sentence == (
        "bank/vault-1 (10.0.0.1:8200) asks for the service id vault-1, which is container"
        " b's: it is registered as h:web:80"
    )
    assert "SERVICE_ID" in told.fix


def test_what_no_workload_serves_is_as_its_registry_has_it() -> None:
    found = Service("vault", VAULT, (Port(8200),), (PLAIN, POSING))
    state = build_mesh(catalog([found], (pod("bank/web-1", "10.0.0.2", "web"),)))
    assert taken(state) == {"10.6.6.7", "10.6.6.8"}
    assert not list(refusals(state.owned, state.ownership))


def _rule(spec: str, kind: str = "DestinationRule") -> str:
    group = "networking.istio.io/v1"
    return f"apiVersion: {group}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"


SAN = "spiffe://cluster.local/ns/default/sa/web"
BY_RULE = f"tls: {{mode: ISTIO_MUTUAL, subjectAltNames: ['{SAN}']}}"
BY_ENTRY = f"subjectAltNames: ['{SAN}'], ports: [{{number: 1, name: tcp}}]"


@pytest.mark.parametrize(
    "config",
    [
        _rule(
            f"{{host: vault.default.svc.cluster.local, trafficPolicy: {{{BY_RULE}}}}}"
        ),
        _rule(
            f"{{host: {VAULT}, subsets: [{{name: a, trafficPolicy: {{{BY_RULE}}}}}]}}"
        ),
        _rule(f"{{hosts: [{VAULT}], {BY_ENTRY}, resolution: STATIC}}", "ServiceEntry"),
    ],
)
def test_a_resource_takes_another_account_in(config: str) -> None:
    state = mesh(OWN, EVIL, config=config)
    assert taken(state) == {"10.0.0.1", "10.6.6.6"}
    assert state.services[VAULT].accounts == (("default", "vault"), ("default", "web"))
    after = mesh(OWN, EVIL, config=_rule("{host: other}"), previous=state)
    assert taken(after) == {"10.0.0.1"}


def test_who_shares_the_account_or_joined_with_a_token_is_taken_in() -> None:
    shared = replace(EVIL, service_account="vault")
    joined = pod("joined/vault-1", "10.0.0.3", service_account="vm")
    state = mesh(OWN, shared, joined)
    assert taken(state) == {"10.0.0.1", "10.6.6.6", "10.0.0.3"}
    assert state.services[VAULT].accounts == (("default", "vault"), ("default", "vm"))
    elsewhere = replace(shared, namespace="evil")
    assert taken(mesh(OWN, elsewhere)) == {"10.0.0.1"}, "another namespace's host"


def test_who_comes_or_goes_leaves_the_service_as_it_was() -> None:
    alone = mesh(OWN)
    both = mesh(OWN, EVIL, previous=alone)
    assert both.services[VAULT] is alone.services[VAULT]
    again = mesh(OWN, previous=both)
    assert again.services[VAULT] is alone.services[VAULT]


def test_a_name_is_had_since_the_first_record_of_it() -> None:
    old, new = pod("bank/a-1", "1.1.1.1", since=1), pod("bank/a-1", "1.1.1.2", since=9)
    assert new.aged(old).since["vault"] == 1
    assert new.aged(None).since["vault"] == 9
    waiting = replace(new, ports=(), since={})
    assert new.aged(waiting.aged(old)).since["vault"] == 1, "its app was made anew"
    other = pod("bank/a-1", "1.1.1.1", "other", since=1)
    assert new.aged(other).since["vault"] == 9, "it did not serve the name"
    assert new.aged(replace(old, service_account="x")).since["vault"] == 9
