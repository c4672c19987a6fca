"""How answers of Envoy's admin are read, and what of it the pod's bootstrap leaves on the
network.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dockermesh.docker.admin import body_of
from dockermesh.errors import EngineError
from dockermesh.model.contract import ADMIN_SOCKET, RUN_PATH

BOOTSTRAP = Path(__file__).parents[3] / "compose/images/pod/bootstrap.json"


def test_a_chunked_answer_of_many_megabytes_is_read_whole() -> None:
    part = b"x" * 65536
    chunks = b"".join(b"10000\r\n" + part + b"\r\n" for _ in range(200))
    answer = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    )
    assert body_of(answer, "test") == part * 200


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 7\r\n\r\ninvalid", "404: invalid"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "IncompleteRead"),
        (b"", "RemoteDisconnected"),
    ],
)
def test_an_error_or_half_an_answer_is_refused(answer: bytes, reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        body_of(answer, "test")


def test_the_admin_is_no_port_and_the_port_has_harmless_pages_for_get_alone() -> None:
    bootstrap = json.loads(
        BOOTSTRAP.read_text()
        .replace("@CONTROL_PLANE_PORT@", "1")
        .replace("@RUN@", RUN_PATH)
    )
    assert bootstrap["admin"]["address"] == {
        "pipe": {"path": ADMIN_SOCKET, "mode": 0o600}
    }
    listeners = {
        listener["name"]: listener
        for listener in bootstrap["static_resources"]["listeners"]
    }
    assert listeners["admin"]["address"]["socket_address"] == {
        "address": "127.0.0.1",
        "port_value": 15000,
    }
    manager = listeners["admin"]["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["normalize_path"] and manager["merge_slashes"]
    *pages, last = manager["route_config"]["virtual_hosts"][0]["routes"]
    only_get = [{"name": ":method", "string_match": {"exact": "GET"}}]
    assert all(page["match"]["headers"] == only_get for page in pages)
    paths = {
        page["match"].get("path") or page["match"]["path_separated_prefix"]
        for page in pages
    }
    assert paths == {
        "/ready",
        "/stats",
        "/clusters",
        "/listeners",
        "/server_info",
        "/certs",
        "/memory",
    }
    assert last["match"] == {"prefix": "/"} and last["direct_response"]["status"] == 403
