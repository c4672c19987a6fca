"""A process joins with an IPv4 address: its proxy takes connections over IPv4 alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockermesh.client.mesh.api_client import Endpoint
from dockermesh.client.mesh.joining import Join, join
from dockermesh.errors import UsageError

NOWHERE = Endpoint("http://127.0.0.1:1", "")


@pytest.mark.parametrize(
    ("control_plane", "address"),
    [("[fd00::1]:15012", ""), ("10.0.0.1:15012", "fd00::2")],
)
def test_ipv6_is_refused_before_anything_is_asked_or_written(
    control_plane: str, address: str, tmp_path: Path
) -> None:
    folder = tmp_path / "joined"
    what = Join(
        {80: "http"}, control_plane=control_plane, address=address, folder=folder
    )
    with pytest.raises(UsageError, match="IPv6") as error:
        join(NOWHERE, "token", what)
    assert "--address" in error.value.fix
    assert not folder.exists()
