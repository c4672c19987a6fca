"""Capture rules of services that do not want the default ones.

Invariant: services with the same settings share one Compose config, named by the hash of its
content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from dockermesh.errors import InputError
from dockermesh.inject.capture import pod_capture, pod_capture_config
from dockermesh.model import READINESS_PORT, contract
from dockermesh.model.contract import ENV_CAPTURE, ENV_HOLD_PORTS


def rules(service: str, capture: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The Compose config (its name and definition) with the rules for these settings of
    `service`.
    """
    try:
        text = _rendered(tuple(sorted(capture.items())))
    except InputError as error:
        raise InputError(
            error.what, where=f"services.{service}", fix=error.fix
        ) from error
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"dockermesh-capture-{digest}", {"content": text.replace("$", "$$")}


@lru_cache(maxsize=64)
def _rendered(capture: tuple[tuple[str, str], ...]) -> str:
    return pod_capture(pod_capture_config(**dict(capture)))


def tune(pod: dict[str, Any], config: str) -> None:
    """Put the rules `config` in place of those in the pod's image."""
    # Compose copies inline configs into the container, which Docker refuses on a read-only root
    # (docker/compose#12031); a sidecar's pod has none.
    pod["configs"] = [{"source": config, "target": contract.CAPTURE_PATH}]


def switch_off(pod: dict[str, Any]) -> None:
    """No rules at all, and no port of the app held back while there is no proxy."""
    pod["environment"] |= {
        ENV_CAPTURE: "none",
        ENV_HOLD_PORTS: str(READINESS_PORT),
    }
