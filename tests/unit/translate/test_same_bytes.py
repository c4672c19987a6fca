"""Replicas of the control plane, and the same one after a restart, make the same bytes of a mesh.

Every process has its own order for the entries of protobuf's maps and of Python's sets, so only
other processes can tell.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import yaml
from meshes import mesh, service, sidecar
from test_translate_golden import NAMES, PROXIES, snapshot_of

from dockermesh.translate.translator import Translator
from dockermesh.xds import Snapshot
from dockermesh.xds.snapshot import FIELDS

MANY = {f"key-{number}": {"of": str(number)} for number in range(12)}
STRUCT = {
    "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
    "type_url": "example.com/a.plugin.Config",
    "value": MANY | {"nested": MANY},
}
FILTER = {"name": "example", "typed_config": STRUCT}
PATCHES: dict[str, dict[str, Any]] = {
    "HTTP_FILTER": {"operation": "INSERT_FIRST", "value": FILTER},
    # Packed within something that is packed itself, as the value of a map.
    "NETWORK_FILTER": {
        "operation": "MERGE",
        "value": {
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network"
                ".http_connection_manager.v3.HttpConnectionManager",
                "original_ip_detection_extensions": [FILTER],
                "route_config": {
                    "virtual_hosts": [
                        {
                            "name": "extra",
                            "domains": ["extra.example"],
                            "typed_per_filter_config": dict.fromkeys(MANY, STRUCT),
                        }
                    ]
                },
            }
        },
    },
    "VIRTUAL_HOST": {
        "operation": "MERGE",
        "value": {"typed_per_filter_config": dict.fromkeys(MANY, STRUCT)},
    },
    "CLUSTER": {
        "operation": "MERGE",
        "value": {
            "metadata": {
                "filter_metadata": {"one": MANY},
                "typed_filter_metadata": {"one": STRUCT},
            }
        },
    },
    "EXTENSION_CONFIG": {"operation": "ADD", "value": FILTER},
}
MANAGER = {"name": "envoy.filters.network.http_connection_manager"}
MATCHES = {"NETWORK_FILTER": {"listener": {"filterChain": {"filter": MANAGER}}}}


def patched() -> Snapshot:
    config = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "structs", "namespace": "default"},
        "spec": {
            "configPatches": [
                {"applyTo": kind, "patch": patch, "match": MATCHES.get(kind, {})}
                for kind, patch in PATCHES.items()
            ]
        },
    }
    translator = Translator()
    services = (service("reviews", "10.0.0.2"), service("ratings", "10.0.0.3"))
    translator.update(mesh(*services, config=yaml.safe_dump(config)))
    snapshot = translator.snapshot(sidecar("reviews-1", 9080))
    assert not translator.problems()
    return snapshot


def bodies(snapshot: Snapshot) -> dict[str, dict[str, str]]:
    return {
        field: {r.name: r.any_bytes.hex() for r in getattr(snapshot, field).values()}
        for field in FIELDS.values()
    }


def print_bodies() -> None:
    """What each of the other processes does."""
    cases = {f"{n} {p}": bodies(snapshot_of(n, p)) for n in NAMES for p in PROXIES}
    print(json.dumps(cases | {"structs": bodies(patched())}))


def test_every_process_makes_the_same_bytes() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", "import test_same_bytes as t; t.print_bodies()"],
            env=os.environ
            | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2", "3")
    ]
    first, *others = [json.loads(process.communicate()[0]) for process in processes]

    assert first["structs"]["extensions"]
    for other in others:
        assert list(other) == list(first)
        for case in first:
            assert other[case] == first[case], case


def test_what_is_packed_in_a_patch_is_applied() -> None:
    found = bodies(patched())
    marker = b"key-11".hex()
    assert all(
        any(marker in body for body in found[field].values())
        for field in ("clusters", "listeners", "routes", "extensions")
    )
