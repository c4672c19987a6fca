"""Why a container ended, out of its log."""

from __future__ import annotations

from dockermesh.client.mesh.last_error import find_error

LOG = """2026-11-29T15:30:47Z [info     ] control plane stopping
Error: /state/ca/sealing.key: the key that seals the CA cannot be read
  -> restore the file from a backup
"""


def test_the_last_error_and_its_fix_are_found() -> None:
    found = find_error(LOG)
    assert found is not None
    assert (
        found.what == "/state/ca/sealing.key: the key that seals the CA cannot be read"
    )
    assert found.fix == "restore the file from a backup"


def test_what_ran_on_has_got_over_it() -> None:
    assert find_error(LOG + "2026-11-29T15:31:47Z [info     ] started\n") is None
    assert find_error("") is None
