"""The command line's own calls, to a real engine."""

from __future__ import annotations

import os

import pytest
from registrar_rig import IMAGE, Host, host

from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError

__all__ = ["host"]
pytestmark = pytest.mark.docker


def test_files_are_read_whole_and_one_that_is_missing_is_none(host: Host) -> None:
    app = host.run("files", "exec sleep 300")
    app.exec_run(["sh", "-c", "printf '\\001two\\nlines' >/tmp/a; : >/tmp/empty"])
    paths = ["/tmp/a", "/tmp/none", "/tmp/empty"]
    content = {"/tmp/a": b"\x01two\nlines", "/tmp/none": None, "/tmp/empty": b""}
    assert LocalEngine().read_files(app.id, paths) == content
    assert LocalEngine().read_file(app.id, "/tmp/a") == content["/tmp/a"]


def test_files_are_read_where_something_is_mounted_below_a_symlink(host: Host) -> None:
    # Docker 28 and later refuse every call of the archive API on such a container.
    app = host.run(
        "linked", "exec sleep 300", volumes=[f"{os.devnull}:/var/run/deep/file"]
    )
    assert (
        LocalEngine().read_file(app.id, "/etc/hostname") == f"{app.id[:12]}\n".encode()
    )


def test_a_file_that_cannot_be_read_is_an_error(host: Host) -> None:
    app = host.run("directory", "exec sleep 300")
    with pytest.raises(EngineError, match="/tmp"):
        LocalEngine().read_file(app.id, "/tmp")


def test_an_image_is_found_by_its_name_and_by_its_id(host: Host) -> None:
    identity = host.api.images.get(IMAGE).id
    names = (
        IMAGE,
        f"docker.io/library/{IMAGE}",
        identity,
        identity.partition(":")[2][:12],
    )
    assert [name for name in names if not LocalEngine().has_image(name)] == []
    assert not LocalEngine().has_image("dockermesh-base:none")
