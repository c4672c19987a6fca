"""The publisher without any proxy: what becomes of changes that could not be translated."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dockermesh.controlplane import publisher as module
from dockermesh.controlplane.publisher import Publisher
from dockermesh.model import Catalog, Workload
from dockermesh.translate.mesh.modules import Module, ModuleSource
from dockermesh.translate.mesh.settings import MeshSettings

WEB = Workload(id="web", name="shop/web-1", service="web")
CATALOG = Catalog({}, {WEB.name: WEB})


class Modules:
    """Those of plugins, which are not there yet."""

    known: Mapping[str, Module] = {}
    is_settled = False

    def want(self, sources: Mapping[str, ModuleSource]) -> None:
        """Nothing is fetched."""


async def _nobody(*_: object) -> str:
    raise AssertionError


def publisher(modules: Modules | None = None) -> Publisher:
    return Publisher(MeshSettings(), _nobody, lambda _: None, modules=modules)


async def test_a_change_that_waits_for_modules_is_timed_from_when_it_was_known() -> (
    None
):
    modules = Modules()
    made = publisher(modules)
    made.take_catalog(CATALOG)
    made.take_config({})
    await made.settled()
    assert not made.mesh.workloads and made.updates.gathered.count == 0

    modules.is_settled = True
    made.take_modules()
    await made.settled()
    assert made.mesh.workloads == CATALOG.workloads
    # Of the first config, and for as long as it takes until the next look at least.
    assert made.updates.gathered.count == 1
    assert made.updates.gathered.total >= 0.1


async def test_a_change_that_could_not_be_translated_is_timed_from_when_it_was_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = publisher()

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as broken:
        broken.setattr(module, "build_mesh", fails)
        made.take_catalog(CATALOG)
        made.take_config({})
        await made.settled()
    assert made.updates.gathered.count == 0

    made.take_modules()
    await made.settled()
    assert made.updates.gathered.count == 1
    assert made.updates.gathered.total >= 0.1
