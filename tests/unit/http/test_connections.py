"""How many connections a peer may hold: the oldest goes, and those with a token stay."""

from __future__ import annotations

from dockermesh.http.connections import Connection, Connections


class Book:
    def __init__(self, of_a_peer: int = 2, in_all: int = 3) -> None:
        self.ended: list[str] = []
        self.full: list[str] = []
        self.connections = Connections(self.full.append, of_a_peer, in_all)

    def add(self, name: str, peer: str = "a") -> Connection:
        return self.connections.add(peer, lambda: self.ended.append(name))


def test_the_oldest_of_a_peer_makes_room_and_others_are_left_alone() -> None:
    book = Book()
    book.add("of another", peer="b")
    for name in ("first", "second", "third"):
        book.add(name)
    assert (book.ended, book.full) == (["first"], ["a"])


def test_there_is_a_bound_for_all_peers_together() -> None:
    book = Book()
    for number in range(5):
        book.add(str(number), peer=f"peer-{number}")
    assert book.ended == ["0", "1"]
    assert len(book.connections) == 3


def test_who_has_shown_a_token_is_not_ended_for_others() -> None:
    book = Book()
    book.add("watch").forget()
    for number in range(4):
        book.add(str(number))
    assert book.ended == ["0", "1"]


def test_what_has_ended_is_forgotten() -> None:
    book = Book()
    for number in range(100):
        connection = book.add(str(number))
        connection.forget()
        connection.forget()
    assert (book.ended, len(book.connections)) == ([], 0)
