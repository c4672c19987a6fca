"""The command line's connection to a running control plane: its HTTP ports on this host, and the
token for them.

The token is read out of the control plane's container, which only those can do who may use the
engine; it is on no disk of the user and in no environment.
"""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlencode

from dockermesh.engine.local import LocalEngine
from dockermesh.errors import DockermeshError, NotReadyError
from dockermesh.model import API_PORT, DEBUG_PORT

CONTAINER = "dockermesh-control-plane"
TOKEN_FILE = "/var/lib/dockermesh/api.token"
_PROBE_S = 3.0
"""Whoever asks whether it is ready asks again; a control plane that hangs must not hold them up."""
_UP = "run `dockermesh up`"


class ApiError(DockermeshError):
    """The control plane answered with an error; `code` is HTTP's."""

    def __init__(self, what: str, *, code: int, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.code = code


class MeshClient:
    """Talks to the control plane of this host. Raises NotReadyError when there is none."""

    def __init__(self, engine: LocalEngine) -> None:
        found = engine.inspect(CONTAINER)
        if found is None or not found["State"]["Running"]:
            raise NotReadyError("the mesh is not running on this host", where=CONTAINER, fix=_UP)
        self._engine = engine
        self._ports: dict[str, list[dict[str, str]] | None] = (
            found["NetworkSettings"]["Ports"] or {}
        )
        self._token = ""

    def is_ready(self) -> bool:
        """Whether the control plane says that it is."""
        try:
            return self._raw(DEBUG_PORT, "GET", "/readyz")[0] == 200
        except OSError:
            return False

    def readiness(self) -> str:
        """What the control plane still waits for, in its own words; empty when it is ready."""
        try:
            code, body = self._raw(DEBUG_PORT, "GET", "/readyz", timeout=_PROBE_S)
        except OSError as error:
            return f"it does not answer yet ({error})"
        return "" if code == 200 else body.decode().strip()

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

    def put(self, path: str, document: dict[str, Any]) -> None:
        """Create or replace a resource."""
        try:
            self._json(API_PORT, "PUT", path, document)
        except ApiError as error:
            if error.code != 404:
                raise
            self._json(API_PORT, "POST", path.rpartition("/")[0], document)

    def _json(
        self, port: int, method: str, path: str, document: dict[str, Any] | None = None
    ) -> Any:
        try:
            code, body = self._raw(port, method, path, document)
        except OSError as error:
            raise NotReadyError(
                f"the control plane does not answer: {error}",
                where=CONTAINER,
                fix=f"see `docker logs {CONTAINER}`",
            ) from error
        if code >= 400:
            raise ApiError(_message(body) or f"HTTP {code}", code=code, where=f"{method} {path}")
        return json.loads(body) if body else None

    def _raw(
        self, port: int, method: str, path: str, document: Any = None, *, timeout: float = 10.0
    ) -> tuple[int, bytes]:
        bindings = self._ports.get(f"{port}/tcp") or []
        if not bindings:
            raise NotReadyError(
                f"port {port} of the control plane is not published", where=CONTAINER, fix=_UP
            )
        host = bindings[0]["HostIp"] or "127.0.0.1"
        connection = http.client.HTTPConnection(
            "127.0.0.1" if host == "0.0.0.0" else host,
            int(bindings[0]["HostPort"]),
            timeout=timeout,
        )
        try:
            body = None if document is None else json.dumps(document)
            headers = {
                "Authorization": f"Bearer {self._bearer()}",
                "Content-Type": "application/json",
            }
            headers["User-Agent"] = "dockermesh"
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error) or type(error).__name__) from error
        finally:
            connection.close()

    def _bearer(self) -> str:
        if not self._token:
            content = self._engine.read_file(CONTAINER, TOKEN_FILE)
            self._token = content.decode().strip() if content else ""
        return self._token


def _message(body: bytes) -> str:
    try:
        found = json.loads(body)
        return str(found.get("message", "")) if isinstance(found, dict) else ""
    except ValueError:
        return body.decode("utf-8", "replace")[:200]
