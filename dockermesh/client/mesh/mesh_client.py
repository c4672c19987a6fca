"""The command line's connection to a running control plane: what it knows of workloads, services
and proxies.

The token is read out of the control plane's container, which only those can do who may use the
engine; it is on no disk of the user and in no environment. How it gets there is `route`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlencode

from dockermesh.client.mesh.last_error import last_error
from dockermesh.client.mesh.route import SEE_LOGS, Channel, Route
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import DockermeshError, EngineError, NotReadyError
from dockermesh.model import API_PORT, DEBUG_PORT
from dockermesh.model.contract import CONTROL_PLANE_CONTAINER

_PROBE_S = 3.0
"""Whoever asks whether it is ready asks again; a control plane that hangs must not hold them up."""


class ApiError(DockermeshError):
    """The control plane answered with an error; `code` is HTTP's."""

    def __init__(self, what: str, *, code: int, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.code = code


class MeshClient:
    """Talks to the control plane of an engine. Raises NotReadyError when there is none."""

    def __init__(self, engine: LocalEngine) -> None:
        self.route = Route(engine)
        self._engine = engine
        self._channels = {
            port: Channel(partial(self.route.dial, port))
            for port in (API_PORT, DEBUG_PORT)
        }

    def readiness(self) -> str:
        """What the control plane still waits for, in its own words; empty when it is ready."""
        try:
            # Everybody may ask this, and it has to be asked before there is a token.
            code, body = self._raw(
                DEBUG_PORT, "GET", "/readyz", timeout=_PROBE_S, token=""
            )
        except (OSError, EngineError) as error:
            ended = self.last_error()
            return ended.what if ended else f"it does not answer yet ({error})"
        return "" if code == 200 else body.decode().strip()

    def last_error(self) -> DockermeshError | None:
        """Why the control plane ended, if it does so again and again."""
        return last_error(self._engine, CONTROL_PLANE_CONTAINER)

    def workloads(self) -> dict[str, Any]:
        """The report of `/debug/workloads`."""
        report: dict[str, Any] = self._json(DEBUG_PORT, "GET", "/debug/workloads")
        return report

    def config_dump(self, workload: str) -> bytes:
        """What the control plane would send to a workload's proxy, as JSON in the form of Envoy's
        config dump.
        """
        path = f"/debug/config_dump?{urlencode({'proxyID': workload})}"
        return json.dumps(self._json(DEBUG_PORT, "GET", path)).encode()

    def services(self) -> list[dict[str, Any]]:
        """The report of `/debug/registryz`."""
        report: list[dict[str, Any]] = self._json(DEBUG_PORT, "GET", "/debug/registryz")
        return report

    def mtls(self) -> dict[str, Any]:
        """The report of `/debug/mtls`."""
        report: dict[str, Any] = self._json(DEBUG_PORT, "GET", "/debug/mtls")
        return report

    def traces(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """The report of `/debug/traces`."""
        path = f"/debug/traces?{urlencode(wanted)}"
        report: dict[str, Any] = self._json(DEBUG_PORT, "GET", path)
        return report

    def traffic(self) -> dict[str, Any]:
        """The report of `/debug/traffic`."""
        report: dict[str, Any] = self._json(DEBUG_PORT, "GET", "/debug/traffic")
        return report

    def resources(self, path: str) -> list[dict[str, Any]]:
        """The stored resources of a collection."""
        answer = self._json(API_PORT, "GET", path)
        found: list[dict[str, Any]] = answer.get("items") or []
        return found

    def put(self, path: str, document: dict[str, Any]) -> None:
        """Create or replace a resource."""
        try:
            self._json(API_PORT, "PUT", path, document)
        except ApiError as error:
            # The API's PUT replaces what is there and makes nothing, as Kubernetes' does.
            if error.code != 404:
                raise
            self._json(API_PORT, "POST", path.rpartition("/")[0], document)

    def _json(
        self, port: int, method: str, path: str, document: dict[str, Any] | None = None
    ) -> Any:
        try:
            code, body = self._raw(port, method, path, document)
        except OSError as error:
            ended = self.last_error()
            raise NotReadyError(
                f"the control plane does not answer: {ended.what if ended else error}",
                where=self.route.where,
                fix=ended.fix if ended and ended.fix else SEE_LOGS,
            ) from error

        if code >= 400:
            raise ApiError(
                _message(body) or f"HTTP {code}", code=code, where=f"{method} {path}"
            )
        return json.loads(body) if body else None

    def _raw(
        self,
        port: int,
        method: str,
        path: str,
        document: Any = None,
        *,
        timeout: float = 10.0,
        token: str | None = None,
    ) -> tuple[int, bytes]:
        body = None if document is None else json.dumps(document)
        bearer = self.route.credentials().token if token is None else token
        headers = {"Content-Type": "application/json", "User-Agent": "dockermesh"}
        if bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        channel = self._channels[port]
        code, _, answer = channel.request(method, path, body, headers, timeout=timeout)

        return code, answer


def _message(body: bytes) -> str:
    try:
        found = json.loads(body)
        return str(found.get("message", "")) if isinstance(found, dict) else ""
    except ValueError:
        return body.decode("utf-8", "replace")[:200]
