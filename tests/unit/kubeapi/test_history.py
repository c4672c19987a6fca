"""What was before: entries of changes, kept in a bounded number, and undone from the newest on."""

from __future__ import annotations

from pathlib import Path

from dockermesh.kubeapi.history import KEPT, Actor, History, undone
from dockermesh.registry.folder.history_store import FolderDocuments

KEY = "networking.istio.io/VirtualService/default/{}"


def document(text: str) -> dict[str, object]:
    return {"kind": "VirtualService", "spec": {"hosts": [text]}}


async def test_the_state_of_a_number_is_the_present_one_with_later_changes_undone(
    tmp_path: Path,
) -> None:
    history = History(FolderDocuments(tmp_path))
    one, two = document("one"), document("two")
    by = Actor("kubectl", "kubectl apply")
    await history.record(by, KEY.format("a"), None, one)
    await history.record(by, KEY.format("a"), one, two)
    await history.record(by, KEY.format("b"), None, one)
    await history.record(by, KEY.format("a"), two, None)
    entries = await history.entries()
    assert [(e.number, e.changes[0].action) for e in entries] == [
        (1, "created"),
        (2, "configured"),
        (3, "created"),
        (4, "deleted"),
    ]
    assert undone(entries, 4) == {}
    assert undone(entries, 2) == {KEY.format("a"): two, KEY.format("b"): None}
    assert undone(entries, 1) == {KEY.format("a"): one, KEY.format("b"): None}
    assert undone(entries, 0) == {KEY.format("a"): None, KEY.format("b"): None}


async def test_requests_of_one_command_are_one_change(tmp_path: Path) -> None:
    history = History(FolderDocuments(tmp_path))
    one, two = document("one"), document("two")
    for number in range(3):
        await history.record(
            Actor("kubectl", "kubectl apply", "s1"), KEY.format(number), None, one
        )
    await history.record(
        Actor("kubectl", "kubectl apply", "s1"), KEY.format(0), one, two
    )
    await history.record(
        Actor("kubectl", "kubectl edit", "s2"), KEY.format(0), two, one
    )
    first, second = await history.entries()
    assert first.to_dict()["counts"] == {"created": 3, "configured": 0, "deleted": 0}
    assert (second.number, second.command) == (2, "kubectl edit")
    # Of an object that one command changed twice, what was there before all of it counts.
    assert undone([first], 0)[KEY.format(0)] is None


async def test_only_the_latest_entries_are_kept_and_numbers_go_on_after_a_restart(
    tmp_path: Path,
) -> None:
    for number in range(KEPT + 5):
        # Each time another process.
        await History(FolderDocuments(tmp_path)).record(
            Actor("a", "b"), KEY.format(number), None, document("x")
        )
    entries = await History(FolderDocuments(tmp_path)).entries()
    assert [e.number for e in entries] == list(range(6, KEPT + 6))


async def test_a_history_that_cannot_be_written_loses_no_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    await History(FolderDocuments(tmp_path / "file")).record(
        Actor("a", "b"), KEY.format("a"), None, document("x")
    )
