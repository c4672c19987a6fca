"""The command line's way to the config API: of the mesh on the engine, or of the one that the
environment names.

`DOCKERMESH_API` (a URL), `DOCKERMESH_TOKEN` and `DOCKERMESH_CA` (a file) name another control
plane; without them it is the one that the engine runs. Invariant: a token leaves this host over TLS
or through the engine only.
"""

from __future__ import annotations

import json
import socket
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from dockermesh.client.mesh.mesh_client import ApiError
from dockermesh.client.mesh.route import SERVER_NAME, Channel, Dial, Route
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import InputError, NotReadyError, UsageError
from dockermesh.kubeapi.served import Served
from dockermesh.model import API_PORT
from dockermesh.model.contract import ENV_API, ENV_CA, ENV_TOKEN

MANAGER = "dockermesh"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_WAIT_S = 30.0
# Our only PATCH is a server-side apply, which is announced as YAML; JSON is YAML.
_CONTENT_TYPES = {"PATCH": "application/apply-patch+yaml"}
_UP = "run `dockermesh up`, or name another control plane in DOCKERMESH_API"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the config API is, and what it takes to use it.

    `dial` connects to the API of the engine's mesh, `where` names that; `url` is empty if it is
    reached in no other way from here.
    """

    url: str
    token: str = ""
    root_pem: str = ""
    dial: Dial | None = None
    where: str = ""


def find_endpoint(environment: Mapping[str, str]) -> Endpoint:
    """The config API to use. Raises NotReadyError if there is none."""
    url = environment.get(ENV_API, "")
    if not url:
        return _of_engine()

    parts = urlsplit(url)
    token, ca = environment.get(ENV_TOKEN, ""), environment.get(ENV_CA, "")

    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(
            f"DOCKERMESH_API is no URL: {url}",
            fix="for example DOCKERMESH_API=https://127.0.0.1:8080",
        )

    if token and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise UsageError(
            "the token would be sent in plaintext",
            where=url,
            fix="use https:// in DOCKERMESH_API",
        )

    try:
        return Endpoint(url.rstrip("/"), token, Path(ca).read_text() if ca else "")
    except OSError as error:
        raise InputError(
            f"the CA's certificate cannot be read: {error.strerror}", where=ca
        ) from error


def _of_engine() -> Endpoint:
    route = Route(LocalEngine())
    known = route.credentials()
    return Endpoint(
        route.url(),
        known.token,
        known.root_pem,
        partial(route.dial, API_PORT),
        route.where,
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
            {"Kubectl-Command": command, "Kubectl-Session": uuid.uuid4().hex}
            if command
            else {}
        )
        self._channel = Channel(endpoint.dial or _dialer(endpoint))

    def trusting(self, roots_pem: str) -> ApiClient:
        """The same, verifying the server by these roots."""
        return ApiClient(replace(self._endpoint, root_pem=roots_pem))

    def apply(
        self, served: Served, document: Mapping[str, Any], *, dry_run: bool = False
    ) -> Reply:
        """Apply on the server, as our own field manager; it takes over what others manage."""
        metadata = document["metadata"]
        version = str(document["apiVersion"]).rpartition("/")[2]
        path = path_of(
            served, metadata.get("namespace") or "default", metadata["name"], version
        )
        query = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}
        return self.request(
            "PATCH", path, query | ({"dryRun": "All"} if dry_run else {}), document
        )

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
        headers, body = self._headers(accept), None
        if document is not None:
            headers["Content-Type"] = _CONTENT_TYPES.get(method, "application/json")
            body = json.dumps(document)

        target = f"{path}?{urlencode(query)}" if query else path
        return self._reply(method, target, body, headers)

    def send(self, path: str, content: bytes) -> Reply:
        """Put content of any kind at a path."""
        headers = self._headers("application/json")
        headers["Content-Type"] = "application/octet-stream"
        return self._reply("PUT", path, content, headers)

    def _reply(
        self,
        method: str,
        target: str,
        body: str | bytes | None,
        headers: Mapping[str, str],
    ) -> Reply:
        status, found, data = self._exchange(method, target, body, headers)

        if status >= 400:
            # An error of the API is a Status object; one of a proxy in between may be anything.
            text = data.get("message") if isinstance(data, dict) else ""
            raise ApiError(
                text or f"HTTP {status}",
                code=status,
                where=f"{method} {target.partition('?')[0]}",
            )

        warnings = found.get_all("Warning") or []
        return Reply(status, data, tuple(_unquoted(w) for w in warnings))

    def _exchange(
        self,
        method: str,
        target: str,
        body: str | bytes | None,
        headers: Mapping[str, str],
    ) -> tuple[int, HTTPMessage, Any]:
        """Status, headers and parsed body of the answer. Raises NotReadyError if none comes that is
        JSON.
        """
        try:
            status, found, content = self._channel.request(
                method, target, body, headers, timeout=_WAIT_S
            )
            return status, found, json.loads(content or b"null")
        except (OSError, ValueError) as error:
            raise NotReadyError(
                f"the config API does not answer: {error or type(error).__name__}",
                where=self._endpoint.where or self._endpoint.url,
                fix=_UP,
            ) from error

    def _headers(self, accept: str) -> dict[str, str]:
        headers = {"Accept": accept, "User-Agent": MANAGER, **self._own}
        if self._endpoint.token:
            headers["Authorization"] = f"Bearer {self._endpoint.token}"
        return headers


def _dialer(endpoint: Endpoint) -> Dial:
    parts = urlsplit(endpoint.url)
    host, port = (
        parts.hostname or "",
        parts.port or (443 if parts.scheme == "https" else 80),
    )
    tls = (
        ssl.create_default_context(cadata=endpoint.root_pem or None)
        if parts.scheme == "https"
        else None
    )

    def dial() -> socket.socket:
        connection = socket.create_connection((host, port), timeout=_WAIT_S)
        if tls is None:
            return connection
        try:
            # By the name that its certificate has everywhere, whatever the URL calls the host.
            return tls.wrap_socket(connection, server_hostname=SERVER_NAME)
        except BaseException:
            # Ctrl-C in the middle of a handshake, too.
            connection.close()
            raise

    return dial


def path_of(served: Served, namespace: str, name: str = "", version: str = "") -> str:
    """The path of an object, or of a collection; an empty namespace is all of them."""
    root = f"/apis/{served.group}" if served.group else "/api"
    scope = (
        f"/namespaces/{quote(namespace, safe='')}"
        if namespace and served.namespaced
        else ""
    )
    end = f"/{quote(name, safe='')}" if name else ""
    return f"{root}/{version or served.versions[0]}{scope}/{served.plural}{end}"


def _unquoted(header: str) -> str:
    text = header.partition('"')[2].rpartition('"')[0]
    return text.replace('\\"', '"').replace("\\\\", "\\")
