"""Which images `up --telemetry` takes: the user's, else their makers' where they can be had, else
of Prometheus one of ours.
"""

from __future__ import annotations

from collections.abc import Collection

import pytest

from dockermesh.client.compose.telemetry import Telemetry, spans_setting
from dockermesh.client.images.mesh_images import State
from dockermesh.client.images.sources import SOURCES_LABEL, fingerprint
from dockermesh.client.images.telemetry import MAKERS, telemetry_images
from dockermesh.docker.image_store import ImageStore

OURS = "dockermesh/prometheus:2.42.0"


class Store(ImageStore):
    """An engine that has some images, and whose registry has some; the engine is what cannot be
    started with and without a registry here.
    """

    def __init__(
        self, has: Collection[str] = (), registry: Collection[str] = ()
    ) -> None:
        self.has, self.registry = has, registry
        self.asked: list[str] = []

    def labels(self, reference: str) -> dict[str, str] | None:
        label = {SOURCES_LABEL: fingerprint("prometheus")} if reference == OURS else {}
        return label if reference in self.has else None

    def can_pull(self, reference: str) -> bool:
        self.asked.append(reference)
        return reference in self.registry


def chosen(store: Store, environ: dict[str, str] | None = None) -> dict[str, str]:
    found = telemetry_images(store, environ or {})
    return {name: image.reference for name, image in found.items()}


def test_with_a_registry_all_come_from_their_makers() -> None:
    assert chosen(Store(registry=MAKERS.values())) == dict(MAKERS)


def test_without_a_registry_there_is_prometheus_of_ours_alone() -> None:
    assert chosen(Store()) == {"prometheus": OURS}


def test_what_is_there_is_taken_and_nobody_is_asked_for_it() -> None:
    store = Store(has=[OURS, MAKERS["grafana"]], registry=MAKERS.values())
    assert chosen(store) == {**MAKERS, "prometheus": OURS}
    assert store.asked == [MAKERS["zipkin"]]
    assert telemetry_images(store, {})["prometheus"].state is State.PRESENT


def test_who_may_not_ask_takes_what_is_there() -> None:
    store = Store(has=[MAKERS["zipkin"]], registry=MAKERS.values())
    found = telemetry_images(store, {}, may_ask=False)
    assert {name: i.reference for name, i in found.items()} == {
        "prometheus": OURS,
        "zipkin": MAKERS["zipkin"],
    }
    assert store.asked == []


def test_the_users_word_wins() -> None:
    environ = {
        "DOCKERMESH_IMAGES_FROM": "registry.example/mesh",
        "DOCKERMESH_GRAFANA_IMAGE": "own/grafana:1",
    }
    assert chosen(Store(), environ) == {
        "prometheus": "registry.example/mesh/prometheus:2.42.0",
        "grafana": "own/grafana:1",
    }


def test_what_is_left_out_is_said_with_what_helps() -> None:
    said = Telemetry({"prometheus": OURS}).lacking
    assert said.startswith("without Grafana and Zipkin: ")
    assert "DOCKERMESH_GRAFANA_IMAGE" in said and MAKERS["zipkin"] in said
    assert Telemetry(MAKERS).lacking == ""


NAME = "DOCKERMESH_SPANS_TO"
ZIPKIN = "http://dockermesh-zipkin:9411"


@pytest.mark.parametrize(
    ("images", "env", "present", "wanted"),
    [
        (None, {}, "", {}),
        (None, {}, ZIPKIN, {NAME: ZIPKIN}),
        (MAKERS, {}, "", {NAME: ZIPKIN}),
        ({"prometheus": OURS}, {}, "", {}),
        (MAKERS, {NAME: "http://jaeger:9411"}, "", {}),
    ],
)
def test_spans_go_to_zipkin_once_it_was_started(
    images: dict[str, str] | None,
    env: dict[str, str],
    present: str,
    wanted: dict[str, str],
) -> None:
    known = {"Config": {"Env": [f"{NAME}={present}"]}}
    telemetry = None if images is None else Telemetry(images)
    assert spans_setting(telemetry, env, known) == wanted
