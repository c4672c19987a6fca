"""What a real Envoy says about configuration, without running it."""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy_binary import envoy_binary

from dockermesh.client.offline.render import snapshot_parts
from dockermesh.client.offline.static_bootstrap import static_bootstrap
from dockermesh.config.rules.regex import MAX_PROGRAM_SIZE
from dockermesh.xds import Snapshot

RUNTIME = {
    "layers": [
        {
            "name": "pod",
            "staticLayer": {"re2.max_program_size.error_level": MAX_PROGRAM_SIZE},
        }
    ]
}


def refusal(configuration: Mapping[str, Any], file: Path) -> str:
    """Why Envoy does not start with a bootstrap, which is written to `file`; empty if it would."""
    file.write_text(json.dumps(configuration))
    command = [envoy_binary(), "--mode", "validate", "-c", str(file)]
    done = subprocess.run(
        [*command, "-l", "error", "--disable-hot-restart"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    said = done.stdout + done.stderr
    # Envoy 1.40 crashes at the end of a validation that went well, where scopes of metrics are
    # shared by name.
    is_taken = done.returncode == 0 or f"configuration '{file}' OK" in said
    return "" if is_taken else said


def certificate() -> tuple[str, str]:
    """A certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "any")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder(
            name,
            name,
            key.public_key(),
            1,
            start,
            start + datetime.timedelta(days=36500),
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
        else {
            "name": name,
            "tlsCertificate": {"certificateChain": chain, "privateKey": key},
        }
        for name in {*known, "default", "ROOTCA"}
    ]
    return static_bootstrap(parts, "any") | {"layeredRuntime": RUNTIME}
