"""Whatever becomes of a resource, it is refused with a message, or what it is translated to is
taken by Envoy.
"""

from __future__ import annotations

import copy
import datetime
import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy_binary import envoy_binary
from hypothesis import given, note, settings
from hypothesis import strategies as st
from mangling import DOCUMENTS, accepted, mangle, messages, part, places, told

from dockermesh.app.render import snapshot_parts
from dockermesh.app.static_bootstrap import static_bootstrap
from dockermesh.config.resource import Resource
from dockermesh.translate.patches.soundness import cluster_fault, listener_fault, table_fault
from dockermesh.xds import Snapshot

FAULTS = {"Cluster": cluster_fault, "Listener": listener_fault, "RouteConfiguration": table_fault}
ROUNDS = 3
"""Each starts Envoy once per proxy. For a campaign: MANGLE_SEED=100 MANGLE_ROUNDS=500."""


def test_all_resources_are_valid_as_they_are() -> None:
    for document in DOCUMENTS:
        assert accepted(document), document["metadata"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_what_a_mangled_resource_becomes_breaks_no_rule_of_envoy(seed: int, is_alone: bool) -> None:
    chance, documents = random.Random(seed), copy.deepcopy(DOCUMENTS)
    spoiled = chance.choice(documents)
    for _ in range(chance.randint(1, 3)):
        mangle(chance, spoiled)
    note(json.dumps(spoiled, default=repr))
    for snapshot in told(r for d in ([spoiled] if is_alone else documents) for r in accepted(d)):
        for message in messages(snapshot):
            fault = FAULTS.get(message.DESCRIPTOR.name)
            assert fault is None or not fault(message)


@pytest.mark.parametrize("kind", sorted({document["kind"] for document in DOCUMENTS}))
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(kind: str) -> None:
    for document in (d for d in DOCUMENTS if d["kind"] == kind):
        for path in [p for p in places(document) if len(p) > 1 and p[0] == "spec"]:
            spoiled = copy.deepcopy(document)
            part(spoiled, path[:-1])[path[-1]] = "\ud800"
            assert not accepted(spoiled), path


def certificate() -> tuple[str, str]:
    """A certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "any")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), 1, start, start + datetime.timedelta(days=36500)
        )
    ).sign(key, hashes.SHA256())
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    return made.public_bytes(encoding).decode(), private.decode()


def bootstrap(snapshot: Snapshot, pair: tuple[str, str]) -> dict[str, Any]:
    """A bootstrap with everything in it, and certificates in the place of files that do not
    exist.
    """
    parts = snapshot_parts(snapshot)
    chain, key = {"inlineString": pair[0]}, {"inlineString": pair[1]}
    known = {secret["name"]: secret for secret in parts["secrets"]}
    parts["secrets"] = [
        {"name": name, "validationContext": {"trustedCa": chain}}
        if name == "ROOTCA" or "validationContext" in known.get(name, {})
        else {"name": name, "tlsCertificate": {"certificateChain": chain, "privateKey": key}}
        for name in {*known, "default", "ROOTCA"}
    ]
    layer = {"name": "static", "staticLayer": {"re2.max_program_size.error_level": 32768}}
    return static_bootstrap(parts, "any") | {"layeredRuntime": {"layers": [layer]}}


def mangled_mesh(seed: int) -> list[Resource[Any]]:
    """Every resource mangled in a way that validation accepts, where one of a few tries gives such
    a way.
    """
    chance, resources = random.Random(seed), []
    for document in DOCUMENTS:
        for _ in range(4):
            tried = copy.deepcopy(document)
            mangle(chance, tried)
            found = accepted(tried)
            if found:
                resources.extend(found)
                break
    return resources


@pytest.mark.binary
def test_envoy_takes_what_mangled_resources_become(tmp_path: Path) -> None:
    pair, first = certificate(), int(os.environ.get("MANGLE_SEED", "1"))
    for seed in range(first, first + int(os.environ.get("MANGLE_ROUNDS", ROUNDS))):
        resources = mangled_mesh(seed)
        for number, snapshot in enumerate(told(resources)):
            file = tmp_path / f"{seed}-{number}.json"
            file.write_text(json.dumps(bootstrap(snapshot, pair)))
            done = subprocess.run(
                [
                    envoy_binary(),
                    "--mode",
                    "validate",
                    "-c",
                    str(file),
                    "-l",
                    "error",
                    "--disable-hot-restart",
                ],
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert done.returncode == 0, f"seed {seed}, proxy {number}: {done.stdout}{done.stderr}"
