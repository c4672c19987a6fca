"""`up --registry docker`: the same mesh without Consul, read from the engine alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mesh_rig import CONSUL, Mesh, docker, get, inspect, whole_page
from patience import until

pytestmark = pytest.mark.docker

PAGE = "http://127.0.0.1:30080/productpage"


@pytest.fixture
def without_consul(bookinfo: Mesh) -> Iterator[Mesh]:
    """Bookinfo's mesh with Docker as its registry and Consul stopped; put back afterwards."""
    try:
        docker("stop", CONSUL)
        bookinfo.up("samples/bookinfo/compose.yaml", "--registry", "docker")
        yield bookinfo
    finally:
        docker("start", CONSUL)
        bookinfo.up("samples/bookinfo/compose.yaml")
        bookinfo.until_synced(30)


def test_bookinfo_works_without_consul(without_consul: Mesh) -> None:
    mesh = without_consul
    assert not inspect(CONSUL)["State"]["Running"], (
        "`up --registry docker` must not need Consul"
    )
    assert len(until(mesh.workloads, "workloads are listed")) == 7
    versions: set[str] = set()

    def is_complete() -> bool:
        body = whole_page()
        versions.update(
            v for v in ("reviews-v1", "reviews-v2", "reviews-v3") if v in body
        )
        return len(versions) == 3

    until(is_complete, "all three versions", 20)
    docker("stop", "-t", "2", "bookinfo-reviews-v3-1")
    until(
        lambda: all("reviews-v3" not in get(PAGE)[1] for _ in range(6)),
        "no request to a stopped replica",
        5,
    )
    docker("start", "bookinfo-reviews-v3-1")
    until(lambda: "reviews-v3" in get(PAGE)[1], "it is back", 10)
