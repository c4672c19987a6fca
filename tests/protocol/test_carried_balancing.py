"""Who is balanced by a hash comes to the same replica, whatever carries the request: of each key
HTTP/2 makes what HTTP/1.1 does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import pytest_asyncio
from carried_rig import Wire, counted, says
from replica_rig import WAYS, World, hash_rule, running

from dockermesh.model import Protocol

pytestmark = [pytest.mark.binary, pytest.mark.asyncio(loop_scope="module")]

REPLICAS = 4
KINDS = {"declared": Protocol.HTTP, "sniffed": Protocol.AUTO}
HASHES = {
    "header": "httpHeaderName: x-user",
    "cookie": "httpCookie: {name: user, ttl: 60s}",
    "query": "httpQueryParameterName: user",
    "source": "useSourceIp: true",
    "ring": "httpHeaderName: x-user, ringHash: {minimumRingSize: 4096}",
    "maglev": "httpHeaderName: x-user, maglev: {tableSize: 1021}",
}
BY_KEY = [name for name in HASHES if name != "source"]
KEYS = [f"user-{n}" for n in range(40)]
every_kind = pytest.mark.parametrize("kind", KINDS)


RULES = "\n---\n".join(
    hash_rule(f"{name}-{kind}", text) for name, text in HASHES.items() for kind in KINDS
)
SERVICES = {
    f"{name}-{kind}": protocol for name in HASHES for kind, protocol in KINDS.items()
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("balancing")
    async with running(folder, SERVICES, REPLICAS, RULES) as made:
        for replica in made.replicas:
            name = replica.name
            replica.app.scripts["/who"] = says(
                f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\n\r\n{name}"
            )
        yield made


def _request(service: str, *headers: str, query: str = "") -> str:
    lines = [f"GET /who~{query} HTTP/1.1", f"Host: {service}", *headers, "", ""]
    return "\r\n".join(lines)


def _with_key(service: str, name: str, key: str) -> str:
    """A request that says its key where this hash looks for it."""
    if name == "cookie":
        return _request(service, f"Cookie: other=1; user={key}")
    if name == "query":
        return _request(service, query=f"?a=1&user={key}")
    return _request(service, f"X-User: {key}")


def _asked(wire: Wire, text: str) -> tuple[str, str]:
    """The replica that answers, and the head of its answer."""
    wire.send_text(text)
    head, _, body = wire.read_answer().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200"), head
    return body, head


def _places(
    world: World, way: str, service: str, request: Callable[[str], str]
) -> dict[str, str]:
    """Which replica each key comes to, on one connection."""
    with world.wire(way, service) as wire:
        return {key: _asked(wire, request(key))[0] for key in KEYS}


def _of_both(
    world: World, service: str, request: Callable[[str], str]
) -> dict[str, str]:
    """The same, for HTTP/2 and HTTP/1.1 alike: so a key sticks to its replica."""
    by_way = {way: _places(world, way, service, request) for way in WAYS}
    assert by_way["HTTP/2"] == by_way["HTTP/1.1"]
    return by_way["HTTP/2"]


def _by_http2(world: World) -> int:
    return sum(counted(r.admin, "downstream_rq_http2_total") for r in world.replicas)


@every_kind
@pytest.mark.parametrize("name", BY_KEY)
async def test_a_key_sticks_to_the_replica_that_it_has_over_http_1(
    world: World, name: str, kind: str
) -> None:
    service = f"{name}-{kind}"
    before = _by_http2(world)
    found = _of_both(world, service, lambda key: _with_key(service, name, key))
    assert _by_http2(world) == before + len(KEYS), "one of the two ways is HTTP/2"
    counts = Counter(found.values())
    assert len(counts) == REPLICAS, counts
    assert max(counts.values()) < 0.6 * len(KEYS), counts


@every_kind
async def test_most_keys_stay_when_another_replica_goes(
    world: World, kind: str
) -> None:
    def places() -> dict[tuple[str, str], str]:
        return {
            (name, key): place
            for name in BY_KEY
            for key, place in _of_both(
                world,
                f"{name}-{kind}",
                lambda key, n=name: _with_key(f"{n}-{kind}", n, key),
            ).items()
        }

    before = places()
    gone, *rest = world.replicas
    world.stays(*rest)
    try:
        after = places()
    finally:
        world.stays(*world.replicas)
    assert gone.name not in after.values()
    for name in BY_KEY:
        others = [k for k in before if k[0] == name and before[k] != gone.name]
        stayed = [k for k in others if before[k] == after[k]]
        # Envoy fills as large a ring, or table, with fewer replicas: each gets more places, some of
        # them with keys of others, as in Istio. By chance a third would stay.
        assert len(stayed) > 0.5 * len(others), name
    # Who comes back gets its keys back.
    assert places() == before


@every_kind
@pytest.mark.parametrize("way", WAYS)
async def test_who_brings_no_cookie_gets_one_that_leads_back(
    world: World, way: str, kind: str
) -> None:
    service = f"cookie-{kind}"
    seen = set()
    for _ in range(10):
        with world.wire(way, service) as wire:
            first, head = _asked(wire, _request(service))
        cookie = re.search(r"^set-cookie: (user=[^;]*);(.*)\r?$", head, re.M | re.I)
        assert cookie is not None, head
        assert "Max-Age=60" in cookie[2] and "HttpOnly" in cookie[2]
        for other in WAYS:
            with world.wire(other, service) as wire:
                for _ in range(2):
                    text = _request(service, f"Cookie: {cookie[1]}")
                    place, head = _asked(wire, text)
                    assert place == first
                    assert "set-cookie" not in head.lower()
        seen.add(first)
    assert len(seen) > 1


SOURCES = [f"127.9.{n}.{n + 1}" for n in range(20)]


def _from_sources(world: World, way: str, service: str) -> Mapping[str, str]:
    found = {}
    for source in SOURCES:
        answers = set()
        for _ in range(2):
            with world.wire(way, service, source=source) as wire:
                answers |= {_asked(wire, _request(service))[0] for _ in range(2)}
        assert len(answers) == 1, "one source has one replica"
        found[source] = answers.pop()
    return found


@every_kind
async def test_a_source_sticks_to_the_replica_that_it_has_over_http_1(
    world: World, kind: str
) -> None:
    """As where several have one proxy: a node's, or a gateway."""
    service = f"source-{kind}"
    found = {way: _from_sources(world, way, service) for way in WAYS}
    assert found["HTTP/2"] == found["HTTP/1.1"]
    assert len(set(found["HTTP/2"].values())) > 1


@every_kind
async def test_an_app_is_one_source_whatever_it_asks(world: World, kind: str) -> None:
    """Its own proxy, which is captured to, sees its address: all that it sends goes to one replica,
    as in Istio.
    """
    service = f"source-{kind}"
    for source in SOURCES[:3]:
        places = set()
        for way in WAYS:
            for key in KEYS[:10]:
                with world.wire(way, service, source=source) as wire:
                    text = _request(service, f"X-User: {key}", query=f"?user={key}")
                    places.add(_asked(wire, text)[0])
        assert len(places) == 1


@every_kind
async def test_an_app_that_passes_on_whom_it_asks_for_has_many_sources(
    world: World, kind: str
) -> None:
    """The last of X-Forwarded-For is the source to a client's own proxy, as in Istio."""
    service = f"source-{kind}"

    def request(key: str) -> str:
        number = KEYS.index(key)
        return _request(service, f"X-Forwarded-For: 10.9.9.9, 10.1.{number}.{number}")

    found = _of_both(world, service, request)
    assert set(found.values()) == {r.name for r in world.replicas}
