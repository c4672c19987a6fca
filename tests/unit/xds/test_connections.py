"""Which connections without a stream have to go: the oldest of who has too many."""

from __future__ import annotations

import pytest

from dockermesh.xds.connections import Bounds, Peer, parse_peer

BOUNDS = Bounds(of_a_peer=2, young_of_a_peer=4, in_all=6, time_enough_s=10)
NOW = 100.0


def held(address: str, *ages: float) -> list[tuple[float, Peer]]:
    return [(NOW - age, (address, port)) for port, age in enumerate(ages)]


@pytest.mark.parametrize(
    ("ages", "gone"),
    [
        ((20, 20), set()),
        ((20, 30, 20), {1}),
        ((1, 1, 1, 1), set()),
        ((1, 3, 1, 1, 2), {1}),
        ((20, 1, 30, 40), {3}),
    ],
)
def test_the_oldest_go_of_who_has_too_many(
    ages: tuple[float, ...], gone: set[int]
) -> None:
    seen = held("10.0.0.1", *ages) + held("10.0.0.2", 50, 50)
    assert BOUNDS.superfluous(seen, NOW) == {("10.0.0.1", port) for port in gone}


def test_many_peers_together_have_a_bound() -> None:
    seen = [one for n in range(8) for one in held(f"10.0.0.{n}", n)]
    assert BOUNDS.superfluous(seen, NOW) == {("10.0.0.7", 0), ("10.0.0.6", 0)}


def test_peers_are_read_as_grpc_writes_them() -> None:
    assert parse_peer("ipv4:10.0.0.1:1234") == ("10.0.0.1", 1234)
    assert parse_peer("ipv6:%5Bfd00::1%5D:1234") == ("fd00::1", 1234)
    assert parse_peer("ipv6:[::ffff:10.0.0.1]:9") == ("10.0.0.1", 9)
    assert parse_peer("unix:/x") == ("", 0)
