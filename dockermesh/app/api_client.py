"""The command line's way to the config API: of this host's mesh, or of the one that the environment
names.

`DOCKERMESH_API` (a URL), `DOCKERMESH_TOKEN` and `DOCKERMESH_CA` (a file) name another control
plane; without them the container of this host is asked, and its token read through the engine.
Invariant: a token leaves this host over TLS only.
"""

from __future__ import annotations

import http.client
import json
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from dockermesh.app.mesh_client import CONTAINER, TOKEN_FILE, ApiError
from dockermesh.engine.local import LocalEngine
from dockermesh.errors import InputError, NotReadyError, UsageError
from dockermesh.kubeapi.served import Served
from dockermesh.model import API_PORT

MANAGER = "dockermesh"
SERVER_NAME = "localhost"
"""The name in the API's certificate: its address differs from host to host."""
_ROOT_FILE = "/etc/dockermesh/trust/root.pem"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_UP = "run `dockermesh up`, or name another control plane in DOCKERMESH_API"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the config API is, and what it takes to use it."""

    url: str
    token: str = ""
    root_pem: str = ""


def find_endpoint(environment: Mapping[str, str]) -> Endpoint:
    """The config API to use. Raises NotReadyError if there is none."""
    url = environment.get("DOCKERMESH_API", "")
    if not url:
        return _of_this_host()
    parts = urlsplit(url)
    token, ca = environment.get("DOCKERMESH_TOKEN", ""), environment.get("DOCKERMESH_CA", "")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(
            f"DOCKERMESH_API is no URL: {url}",
            fix="for example DOCKERMESH_API=https://127.0.0.1:8080",
        )
    if token and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise UsageError(
            "the token would be sent in plaintext", where=url, fix="use https:// in DOCKERMESH_API"
        )
    try:
        return Endpoint(url.rstrip("/"), token, Path(ca).read_text() if ca else "")
    except OSError as error:
        raise InputError(
            f"the CA's certificate cannot be read: {error.strerror}", where=ca
        ) from error


def _of_this_host() -> Endpoint:
    engine = LocalEngine()
    found = engine.inspect(CONTAINER)
    if found is None or not found["State"]["Running"]:
        raise NotReadyError("the mesh is not running on this host", where=CONTAINER, fix=_UP)
    bindings = (found["NetworkSettings"]["Ports"] or {}).get(f"{API_PORT}/tcp") or []
    if not bindings:
        raise NotReadyError(
            f"port {API_PORT} of the control plane is not published", where=CONTAINER, fix=_UP
        )
    host = bindings[0]["HostIp"] or "127.0.0.1"
    host = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    found_files = engine.read_files(CONTAINER, [TOKEN_FILE, _ROOT_FILE])
    token, root = (found_files[path] or b"" for path in (TOKEN_FILE, _ROOT_FILE))
    return Endpoint(
        f"https://{host}:{bindings[0]['HostPort']}", token.decode().strip(), root.decode()
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is no error."""

    code: int
    body: Any
    warnings: tuple[str, ...] = ()


class ApiClient:
    """Requests to the config API. Raises ApiError for what it refuses, NotReadyError when it does
    not answer.
    """

    def __init__(self, endpoint: Endpoint, command: str = "") -> None:
        """`command` is what the history shows; all requests of one client are one change there."""
        self._endpoint = endpoint
        self._own = (
            {"Kubectl-Command": command, "Kubectl-Session": uuid.uuid4().hex} if command else {}
        )
        parts = urlsplit(endpoint.url)
        self._host, self._port = parts.hostname or "", parts.port
        self._tls = _context(endpoint) if parts.scheme == "https" else None

    def trusting(self, roots_pem: str) -> ApiClient:
        """The same, verifying the server by these roots."""
        return ApiClient(replace(self._endpoint, root_pem=roots_pem))

    def apply(self, served: Served, document: Mapping[str, Any], *, dry_run: bool = False) -> Reply:
        """Apply on the server, as our own field manager; it takes over what others manage."""
        metadata = document["metadata"]
        version = str(document["apiVersion"]).rpartition("/")[2]
        path = path_of(served, metadata.get("namespace") or "default", metadata["name"], version)
        query = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}
        return self.request("PATCH", path, query | ({"dryRun": "All"} if dry_run else {}), document)

    def find(self, path: str, *, table: bool = False) -> Any:
        """What is at a path; None if there is nothing."""
        accept = (
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
            if table
            else "application/json"
        )
        try:
            return self.request("GET", path, accept=accept).body
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        document: Any = None,
        accept: str = "application/json",
    ) -> Reply:
        """Any request."""
        headers = {"Accept": accept, "User-Agent": MANAGER, **self._own}
        if self._endpoint.token:
            headers["Authorization"] = f"Bearer {self._endpoint.token}"
        if document is not None:
            headers["Content-Type"] = (
                "application/apply-patch+yaml" if method == "PATCH" else "application/json"
            )
        body = None if document is None else json.dumps(document)
        target = f"{path}?{urlencode(query)}" if query else path
        connection = self._connection()
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            data = json.loads(answer.read() or b"null")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotReadyError(
                f"the config API does not answer: {error or type(error).__name__}",
                where=self._endpoint.url,
                fix=_UP,
            ) from error
        finally:
            connection.close()
        if answer.status >= 400:
            text = data.get("message") if isinstance(data, dict) else ""
            raise ApiError(
                text or f"HTTP {answer.status}", code=answer.status, where=f"{method} {path}"
            )
        warnings = answer.headers.get_all("Warning") or []
        return Reply(answer.status, data, tuple(_unquoted(w) for w in warnings))

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=30)
        return _TlsConnection(self._host, self._port, self._tls)


class _TlsConnection(http.client.HTTPConnection):
    """TLS to an address under the name that the certificate has."""

    def __init__(self, host: str, port: int | None, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=30)
        self._tls = context

    def connect(self) -> None:
        super().connect()
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=SERVER_NAME)


def _context(endpoint: Endpoint) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=endpoint.root_pem or None)


def path_of(served: Served, namespace: str, name: str = "", version: str = "") -> str:
    """The path of an object, or of a collection; an empty namespace is all of them."""
    root = f"/apis/{served.group}" if served.group else "/api"
    scope = f"/namespaces/{quote(namespace, safe='')}" if namespace and served.namespaced else ""
    end = f"/{quote(name, safe='')}" if name else ""
    return f"{root}/{version or served.versions[0]}{scope}/{served.plural}{end}"


def _unquoted(header: str) -> str:
    text = header.partition('"')[2].rpartition('"')[0]
    return text.replace('\\"', '"').replace("\\\\", "\\")
