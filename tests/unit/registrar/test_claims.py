"""`SERVICE_ID` is no way into another's registration: who has an id, on a host and in Consul."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from dockermesh.registrar.claims import ClaimBook, Claims, claims_of
from dockermesh.registrar.container import Container, State
from dockermesh.registrar.desired import desired_state
from dockermesh.registrar.mapping import Registration
from dockermesh.registrar.options import Options
from dockermesh.registrar.plan import Entry, plan_registrations

OPTIONS = Options(hostname="h", host="h", internal=True)
UP = State(status="running", running=True)


def make(name: str, created: int, service_id: str = "", **more: Any) -> Container:
    env = (
        f"SERVICE_NAME={name}",
        *([f"SERVICE_ID={service_id}"] if service_id else []),
    )
    found = Container(
        id=name * 64,
        name=name,
        env=env,
        exposed=("80/tcp",),
        ip="10.0.0.1",
        created=created,
        state=UP,
    )
    return replace(found, **more)


def ids(*containers: Container, stopping: tuple[str, ...] = ()) -> dict[str, str]:
    found = desired_state(containers, OPTIONS, stopping=stopping)
    return {r.name: r.id for r in found.registrations}


OLD, NEW = make("b", 1, "vault-1"), make("a", 2, "vault-1")


def test_the_oldest_that_runs_has_an_id_and_others_have_their_own() -> None:
    for order in itertools.permutations((OLD, NEW)):
        assert ids(*order) == {"b": "vault-1", "a": "h:a:80"}
    down = replace(OLD, state=State(status="exited"))
    assert ids(down, NEW) == {"a": "vault-1"}
    assert ids(OLD, NEW, stopping=(OLD.id,)) == {"a": "vault-1"}


def test_a_containers_own_id_is_nobodys_to_choose() -> None:
    assert ids(make("v", 9), make("e", 1, "h:v:80")) == {"v": "h:v:80", "e": "h:e:80"}


def test_the_warning_names_both() -> None:
    (told,) = desired_state([OLD, NEW], OPTIONS).skipped
    assert told.is_warning
    assert (told.container, told.reason) == (
        "a",
        "service id vault-1 is that of container b; registered as h:a:80",
    )


def test_who_has_the_id_is_registered_with_who_gave_way() -> None:
    found = {r.id: r.meta for r in desired_state([OLD, NEW], OPTIONS).registrations}
    assert found["h:a:80"]["dockermesh-id-of"] == "vault-1 container b"
    assert "dockermesh-id-of" not in found["vault-1"]
    given = registration().giving_way("vault@10.0.0.1:80 of host other")
    assert len(given.body()["Meta"]) == len(registration().body()["Meta"]) + 1


def asked(container: Container) -> Claims:
    return claims_of([container], OPTIONS)


def test_a_group_is_told_when_it_gains_or_loses_an_id() -> None:
    book = ClaimBook()
    assert book.take("new", asked(NEW)) == set()
    assert book.holders("new")["vault-1"].name == "a"
    assert book.take("old", asked(OLD)) == {"new"}
    assert book.take("old", asked(OLD)) == set(), "nothing is new"
    assert book.holders("new")["vault-1"].name == "b"
    assert book.take("old", {}) == {"new"}
    assert book.holders("new")["vault-1"].name == "a"


def test_who_chose_an_id_waits_until_all_were_seen() -> None:
    book = ClaimBook()
    book.take("new", asked(NEW))
    assert not book.is_settled("new"), "nobody listed the containers yet"
    book.expect({"old", "new", "plain"})
    assert not book.is_settled("new")
    book.take("plain", asked(make("p", 3)))
    assert book.is_settled("plain"), "its id is its own, whoever comes"
    assert book.take("old", asked(OLD)) == {"new"}
    assert book.is_settled("old")
    assert book.is_settled("new")
    book.expect({"old", "new", "plain", "later"})
    assert book.is_settled("new"), "later ones are judged as they come"


def registration(service_id: str = "vault-1") -> Registration:
    return Registration(service_id, "evil", 80, "10.0.0.9", own_id="h:e:80")


@pytest.mark.parametrize(
    ("entry", "has_it"),
    [
        (Entry("vault-1", host="other"), False),
        (Entry("vault-1", host="joined"), False),
        (Entry("vault-1", where="vault@10.0.0.1:80"), False),
        (Entry("vault-1", where="evil@10.0.0.9:80"), True),
        (Entry("vault-1", host="h", where="vault@10.0.0.1:80"), True),
    ],
    ids=["another host's", "joined", "by hand", "registrator's of it", "ours"],
)
def test_an_id_that_is_anothers_in_consul_stays_so(entry: Entry, has_it: bool) -> None:
    found = plan_registrations([entry], [registration()], host="h", group="e")
    (given,) = found.register
    assert given.id == ("vault-1" if has_it else "h:e:80")
    assert [c.given for c in found.conflicts] == ([] if has_it else ["h:e:80"])
    assert found.deregister == ()


def test_without_an_id_of_its_own_it_is_not_registered() -> None:
    entries = [Entry("vault-1", host="other"), Entry("h:e:80", host="other")]
    found = plan_registrations(entries, [registration()], host="h", group="e")
    assert (found.register, found.update) == ((), ())
    assert [c.given for c in found.conflicts] == [""]


def test_registrators_entry_of_a_container_is_taken_over() -> None:
    own = registration("h:e:80")
    entry = Entry("h:e:80", where="evil@10.0.0.3:80")
    found = plan_registrations([entry], [own], host="h", group="e")
    assert found.register == (own,)
