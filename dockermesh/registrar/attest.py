"""Attestation: the digest of a pod's token, read from the log that only Docker can vouch for.

Invariant: a line counts only if it names the workload of the pod's label, so that a pod cannot
speak for another.
"""

from __future__ import annotations

import json
import re

_DIGEST = re.compile(r"[0-9a-f]{64}")


def find_token(log: str, workload: str) -> str:
    """The digest in the last line of `log` that attests `workload`; empty when there is none."""
    for line in reversed(log.splitlines()):
        if '"attest"' not in line:
            continue
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if (
            not isinstance(said, dict)
            or said.get("dockermesh") != "attest"
            or said.get("workload") != workload
        ):
            continue
        digest = said.get("token_sha256")
        if isinstance(digest, str) and _DIGEST.fullmatch(digest):
            return digest
    return ""
