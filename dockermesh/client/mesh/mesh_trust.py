"""The command line's requests about trust: the CA, its roots and their rotation, and tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dockermesh.client.mesh.api_client import ApiClient
from dockermesh.errors import DockermeshError

CA, TOKENS = "/mesh/ca", "/mesh/tokens"
_LOOK_S = 0.5


def ca_status(client: ApiClient) -> dict[str, Any]:
    """The report of the CA. Raises ApiError, NotReadyError."""
    report: dict[str, Any] = client.request("GET", CA).body
    return report


def ca_roots(client: ApiClient) -> str:
    """All trusted roots in PEM."""
    return str(client.request("GET", f"{CA}/roots").body["roots"])


def rotate(
    client: ApiClient,
    step: str,
    *,
    force: bool,
    timeout: float,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Take one step, or with an empty `step` all that are left, each as soon as it is safe.

    `timeout` is in seconds, for each step. Raises DockermeshError when a step is not safe by then.
    """
    report = ca_status(client)
    while True:
        report = _take(
            client, step or report["next_step"], force=force, timeout=timeout, tell=tell
        )
        # The server's own certificate follows the steps.
        client = client.trusting(ca_roots(client))
        if step or report["phase"] == "stable":
            return report


def _take(
    client: ApiClient,
    step: str,
    *,
    force: bool,
    timeout: float,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    deadline = time.monotonic() + timeout
    told: list[str] = []

    while True:
        report: dict[str, Any] = client.request(
            "POST", f"{CA}/rotate", document={"step": step, "force": force}
        ).body
        if report["taken"]:
            tell(f"{step}: done; {len(report['roots'])} trusted root(s)")
            return report

        if time.monotonic() > deadline:
            raise DockermeshError(
                f"{step} is not safe yet: {'; '.join(report['blocked'])}",
                fix=(
                    f"run `dockermesh ca rotate --step {step}` later, or with --force to break what"
                    " is named"
                ),
            )

        if report["blocked"] != told:
            told = report["blocked"]
            tell(f"{step}: waiting: {'; '.join(told)}")

        time.sleep(_LOOK_S)


def tokens(client: ApiClient) -> list[dict[str, Any]]:
    """All tokens, by id."""
    found: list[dict[str, Any]] = client.request("GET", TOKENS).body
    return found


def revoke(client: ApiClient, token: str) -> str:
    """Revoke the token of a workload, or the one with this id; whose it was."""
    return str(
        client.request("POST", f"{TOKENS}/revoke", document={"token": token}).body[
            "revoked"
        ]
    )


def create_token(
    client: ApiClient, *, service: str, namespace: str, account: str, seconds: int
) -> dict[str, Any]:
    """A new join token and what it is good for."""
    asked = {
        "service": service,
        "namespace": namespace,
        "account": account,
        "ttl_seconds": seconds,
    }
    made: dict[str, Any] = client.request("POST", TOKENS, document=asked).body
    return made
