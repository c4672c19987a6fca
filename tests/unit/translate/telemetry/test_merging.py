"""Istio's merging of `accessLogging`: who logs what, by the levels of Telemetry."""

from __future__ import annotations

from typing import Any

import pytest
from meshes import edge

from dockermesh.config.api.telemetry import WorkloadMode
from dockermesh.translate.telemetry.merging import Logger, loggers

OFF = Logger(is_disabled=True)
ENVOY = {"providers": [{"name": "envoy"}]}
CASES: dict[str, tuple[list[Any], tuple[str, ...], dict[str, Logger]]] = {
    "nothing said": ([], (), {}),
    "defaults": ([], ("envoy",), {"envoy": Logger()}),
    "a provider": ([[ENVOY]], (), {"envoy": Logger()}),
    "a provider in place of the defaults": ([[ENVOY]], ("other",), {"envoy": Logger()}),
    "an entry without providers is about the defaults": (
        [[{"disabled": True}]],
        ("envoy",),
        {"envoy": OFF},
    ),
    "a lower level turns off what it does not name": (
        [[ENVOY], [{"disabled": True}]],
        (),
        {"envoy": OFF},
    ),
    "a lower level turns on again": (
        [[{**ENVOY, "disabled": True}], [ENVOY]],
        (),
        {"envoy": Logger()},
    ),
    "a lower level names others": (
        [[ENVOY], [{"providers": [{"name": "file"}]}]],
        (),
        {"file": Logger()},
    ),
    "several of one level": (
        [[ENVOY, {"providers": [{"name": "file"}], "filter": {"expression": "x"}}]],
        (),
        {"envoy": Logger(), "file": Logger("x")},
    ),
    "the lowest level's filter counts": (
        [
            [{**ENVOY, "filter": {"expression": "a"}}],
            [{**ENVOY, "filter": {"expression": "b"}}],
        ],
        (),
        {"envoy": Logger("b")},
    ),
    "what is for servers alone": (
        [[{**ENVOY, "match": {"mode": "SERVER"}}]],
        (),
        {},
    ),
    "off for servers alone": (
        [[ENVOY], [{"match": {"mode": "SERVER"}, "disabled": True}]],
        (),
        {"envoy": Logger()},
    ),
    "off for clients alone": (
        [[ENVOY], [{"match": {"mode": "CLIENT"}, "disabled": True}]],
        (),
        {"envoy": OFF},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_client_logs_as_in_istio(case: str) -> None:
    levels, defaults, expected = CASES[case]
    config = edge(
        "\n---\n".join(
            str(
                {
                    "apiVersion": "telemetry.istio.io/v1",
                    "kind": "Telemetry",
                    "metadata": {"name": f"t{number}"},
                    "spec": {"accessLogging": level},
                }
            )
            for number, level in enumerate(levels)
        )
    )
    given = [r.spec.access_logging for r in config.telemetries]
    assert loggers(given, defaults, WorkloadMode.CLIENT) == expected
