"""Which metrics follow from Telemetry resources, by Istio's rules of merging."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import MessageToDict
from meshes import as_dict, catalog, edge, service, sidecar, workload

from dockermesh.config.api.telemetry import (
    IstioMetric,
    Metrics,
    MetricSelector,
    MetricsOverrides,
    ProviderRef,
    TagOperation,
    TagOverride,
    WorkloadMode,
)
from dockermesh.translate.envoy.names import METRICS_LISTENER
from dockermesh.translate.mesh.state import build_mesh
from dockermesh.translate.telemetry.metric_labels import client_labels, server_labels
from dockermesh.translate.telemetry.metric_merging import NAMES, Change, changes
from dockermesh.translate.telemetry.peers import peer_filter
from dockermesh.translate.translator import Translator

COUNT = IstioMetric.REQUEST_COUNT
ALL_OFF = MetricsOverrides(disabled=True)
CLIENT = WorkloadMode.CLIENT


def of(*levels: tuple[Metrics, ...], mode: WorkloadMode = CLIENT) -> object:
    return changes(levels, ("prometheus",), {"prometheus", "mine"}, mode)


def label(name: str, value: str = "") -> MetricsOverrides:
    how = TagOperation.UPSERT if value else TagOperation.REMOVE
    match = MetricSelector(metric=COUNT)
    return MetricsOverrides(match, tag_overrides={name: TagOverride(how, value)})


def test_without_any_the_default_provider_makes_all() -> None:
    assert of() == {}
    assert changes([], (), {"prometheus"}, CLIENT) is None
    assert changes([], ("unknown",), {"prometheus"}, CLIENT) is None


def test_the_last_named_providers_alone_count() -> None:
    off = Metrics((ProviderRef("prometheus"),), (ALL_OFF,))
    assert of((off,)) == dict.fromkeys(NAMES, Change(is_off=True))
    mine = Metrics((ProviderRef("mine"),))
    assert of((off,), (mine,)) == {}
    assert of((mine,), (Metrics(overrides=(ALL_OFF,)),)) == dict.fromkeys(
        NAMES, Change(is_off=True)
    )
    assert of((Metrics((ProviderRef("nope"),)),)) is None


def test_a_lower_level_changes_what_it_speaks_of_label_by_label() -> None:
    wide = Metrics(overrides=(label("a", "x"), label("b", "y")))
    narrow = Metrics(overrides=(label("a"), label("c", "z")))
    assert of((wide,), (narrow,)) == {
        COUNT: Change(labels=(("a", None), ("b", "y"), ("c", "z")))
    }


EVERY = MetricSelector(metric=IstioMetric.ALL_METRICS)
NONE_LEFT = dict.fromkeys(NAMES, Change(is_off=True))
COUNT_OFF = MetricsOverrides(MetricSelector(metric=COUNT), disabled=True)


@pytest.mark.parametrize("off", [ALL_OFF, MetricsOverrides(EVERY, disabled=True)])
@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ((), NONE_LEFT),
        ((MetricsOverrides(EVERY),), dict.fromkeys(NAMES, Change())),
        ((label("a", "x"),), {COUNT: Change(labels=(("a", "x"),))}),
        ((COUNT_OFF,), {COUNT: Change(is_off=True)}),
        ((COUNT_OFF, ALL_OFF), NONE_LEFT),
        ((COUNT_OFF, label("a", "x")), {COUNT: Change(True, (("a", "x"),))}),
        (
            (MetricsOverrides(MetricSelector(mode=WorkloadMode.SERVER)),),
            NONE_LEFT,
        ),
    ],
)
def test_whatever_is_said_after_all_are_off_has_all_of_them_back(
    off: MetricsOverrides, later: tuple[MetricsOverrides, ...], expected: object
) -> None:
    wide = Metrics((ProviderRef("prometheus"),), (off,))
    assert of((wide,), (Metrics(overrides=later),)) == expected
    # What was said of one before that is still so.
    before = Metrics(overrides=(label("b", "y"),))
    found = of((before, wide), (Metrics(overrides=(label("a", "x"),)),))
    assert found == {COUNT: Change(labels=(("a", "x"), ("b", "y")))}


@pytest.mark.parametrize("is_first", [True, False])
def test_one_metric_and_all_are_changed_in_their_order(is_first: bool) -> None:
    def add(value: str, match: MetricSelector | None) -> MetricsOverrides:
        return MetricsOverrides(match, tag_overrides={"add": TagOverride(value=value)})

    wide, one = add("bar", None), add("own", MetricSelector(metric=COUNT))
    found = of((Metrics(overrides=(wide, one) if is_first else (one, wide)),))
    expected = {metric: Change(labels=(("add", "bar"),)) for metric in NAMES}
    if is_first:
        expected[COUNT] = Change(labels=(("add", "own"),))
    assert found == expected


@pytest.mark.parametrize("mode", [WorkloadMode.CLIENT, WorkloadMode.SERVER])
def test_a_mode_is_about_one_side(mode: WorkloadMode) -> None:
    match = MetricSelector(metric=COUNT, mode=WorkloadMode.SERVER)
    entry = Metrics(overrides=(MetricsOverrides(match, disabled=True),))
    assert bool(of((entry,), mode=mode)) is (mode is WorkloadMode.SERVER)


def test_both_reporters_have_the_same_labels() -> None:
    names = {*client_labels()}
    assert names == {*server_labels(is_mtls=True)} == {*server_labels(is_mtls=False)}
    assert len(names) == 21


def _proxies_listeners(spec: str = "") -> tuple[object, object]:
    document = (
        "{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: t, "
        f"namespace: istio-system}}, spec: {spec}}}"
    )
    translator = Translator()
    known = catalog([service("reviews", "172.28.0.9")], [workload("reviews-1", 9080)])
    translator.update(build_mesh(known, config=edge(document) if spec else None))
    snapshot = translator.snapshot(sidecar("reviews-1", 9080))
    assert METRICS_LISTENER in snapshot.listeners
    return snapshot, as_dict(snapshot)["listeners"]


def test_only_those_who_show_a_certificate_are_asked_for_theirs() -> None:
    _, listeners = _proxies_listeners()
    assert isinstance(listeners, list)
    (inbound,) = [made for made in listeners if made["name"] == "virtualInbound"]
    own = peer_filter().name
    for chain in inbound["filterChains"]:
        is_asked = chain["filters"][0]["name"] == own
        assert is_asked is ("transportSocket" in chain), chain.get("filterChainMatch")
    assert MessageToDict(peer_filter())["typedConfig"]["onDownstreamTlsHandshake"]


def test_a_telemetry_that_turns_all_off_leaves_nothing() -> None:
    _, listeners = _proxies_listeners("{metrics: [{overrides: [{disabled: true}]}]}")
    text = str(listeners)
    assert "istio_" not in text
    assert "dockermesh.telemetry.peer" not in text
    assert "upstreamConnectMode" not in text
