"""The Consul client of all parts: py-consul's asyncio API over connections that we control, typed.

py-consul's own transport knows neither unix sockets, CA and client certificates, token files,
namespaces nor the limit of connections per client address. Ours adds them.

A stock Consul allows 200 connections per client address and resets the others without an answer. A
blocking query holds one, and (measured with 1.8.7) holds it until its `wait` is over, even when the
client has long gone: a control plane that is killed and started again meets the connections of its
predecessor. So against a stock Consul elsewhere we use less than half of the limit and let queries
block for a minute; when Consul is on this machine's loopback, we come from several random addresses
of 127.0.0.0/8, each with a quota of its own, and need not care.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import random
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import consul.aio
import consul.base
from consul.callback import CB
from yarl import URL

from dockermesh.consul.api import (
    Agent,
    Catalog,
    Health,
    KeyValues,
    Sessions,
    Transactions,
)
from dockermesh.consul.settings import ConsulSettings
from dockermesh.errors import InputError

# Less than half of 200: a killed predecessor's connections count until they end.
_STOCK_QUOTA = 90
_SOURCES = 16
_SOURCE_QUOTA = 150
# Seconds that a query may block: as long as nothing depends on its end.
_LONG_WAIT = 300.0
_SHORT_WAIT = 60.0
_READ_TIMEOUT = 30.0
_Params = list[tuple[str, Any]] | None
_Headers = dict[str, str] | None
_Callback = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    params: list[tuple[str, Any]]
    headers: _Headers
    data: str | bytes
    seconds: float | None
    raw: bool = False


class ConsulClient(consul.aio.Consul):  # type: ignore[misc]  # py-consul is untyped
    """`consul.aio.Consul` for our settings. Make it inside a running event loop; close it with
    `await close()`.
    """

    agent: Agent
    catalog: Catalog
    health: Health
    http: HTTPClient
    kv: KeyValues
    session: Sessions
    txn: Transactions

    def __init__(self, settings: ConsulSettings) -> None:
        self.settings = settings
        super().__init__(
            host=settings.host,
            port=settings.port,
            scheme=settings.scheme,
            verify=settings.verify,
            dc=settings.datacenter or None,
            # A restarted server leads before it has replayed its log: by default it would answer
            # with an old state.
            consistency="consistent",
        )
        # Set afterwards, because py-consul prefers its own reading of the environment to its
        # argument.
        self.token = read_token(settings) or None

    def http_connect(
        self,
        host: str,
        port: int,
        scheme: str,
        verify: bool | str = True,
        cert: object = None,
    ) -> Any:
        """The transport; called by py-consul's constructor."""
        return HTTPClient(self.settings)

    async def put(
        self,
        path: str,
        body: Any = None,
        params: list[tuple[str, str]] | None = None,
        *,
        seconds: float | None = None,
    ) -> bool:
        """A PUT of a JSON body, for what py-consul has no method for; False on 404.

        `seconds` is how long it may take.
        """
        done = await self.http.put(
            CB.boolean(),
            path,
            params,
            data="" if body is None else json.dumps(body),
            headers=self.prepare_headers(),
            connections_timeout=seconds,
        )
        return bool(done)

    @property
    def capacity(self) -> int:
        """How many requests may be in flight at once."""
        return self.http.capacity

    @property
    def wait(self) -> str:
        """How long a blocking query may block, as Consul wants it written."""
        return f"{self.http.wait:g}s"


class HTTPClient(consul.base.HTTPClient):  # type: ignore[misc]  # py-consul is untyped
    """aiohttp sessions, one per source address, filled one after another up to their quota."""

    def __init__(self, settings: ConsulSettings) -> None:
        super().__init__(settings.host, settings.port, settings.scheme, settings.verify)
        self.base_uri = "http://localhost" if settings.unix_socket else settings.address
        sources = _source_addresses(settings)
        self._quota = settings.max_connections or (
            _SOURCE_QUOTA if len(sources) > 1 else _STOCK_QUOTA
        )
        self.wait = settings.wait or (
            _SHORT_WAIT if self._quota == _STOCK_QUOTA else _LONG_WAIT
        )
        self._scope = [
            (k, v)
            for k, v in (("ns", settings.namespace), ("partition", settings.partition))
            if v
        ]
        self._server_name = settings.tls_server_name or None
        self._sessions = [_session(settings, source) for source in sources]
        self._in_flight = [0] * len(self._sessions)

    @property
    def capacity(self) -> int:
        """Connections that may be open at once, over all source addresses."""
        return self._quota * len(self._sessions)

    async def get(
        self,
        callback: _Callback,
        path: str,
        params: _Params = None,
        *,
        headers: _Headers = None,
        raw: bool = False,
        connections_timeout: float | None = None,
    ) -> Any:
        """A GET; one with an index may block as long as its `wait` allows."""
        # py-consul leaves the consistency out where it asks for health, which is what endpoints are
        # made of.
        present = [("consistent", "1")] if path.startswith("/v1/health/") else []
        request = _Request(
            "GET",
            path,
            [*(params or []), *present],
            headers,
            b"",
            connections_timeout,
            raw,
        )

        return callback(await self._send(request))

    async def put(
        self,
        callback: _Callback,
        path: str,
        params: _Params = None,
        *,
        data: str | bytes = "",
        headers: _Headers = None,
        connections_timeout: float | None = None,
    ) -> Any:
        """A PUT."""
        request = _Request(
            "PUT", path, params or [], headers, data, connections_timeout
        )
        return callback(await self._send(request))

    async def delete(
        self,
        callback: _Callback,
        path: str,
        params: _Params = None,
        *,
        data: str | bytes = "",
        headers: _Headers = None,
        connections_timeout: float | None = None,
    ) -> Any:
        """A DELETE."""
        request = _Request(
            "DELETE", path, params or [], headers, data, connections_timeout
        )
        return callback(await self._send(request))

    async def post(
        self,
        callback: _Callback,
        path: str,
        params: _Params = None,
        *,
        data: str | bytes = "",
        headers: _Headers = None,
        connections_timeout: float | None = None,
    ) -> Any:
        """A POST."""
        request = _Request(
            "POST", path, params or [], headers, data, connections_timeout
        )
        return callback(await self._send(request))

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions:
            await session.close()

    async def _send(self, request: _Request) -> Any:
        # `encoded`: py-consul has quoted the path, and a second quoting would change names that
        # hold a percent sign.
        url = URL(self.uri(request.path, [*request.params, *self._scope]), encoded=True)
        source = self._pick()
        self._in_flight[source] += 1

        try:
            async with self._sessions[source].request(
                request.method,
                url,
                headers=request.headers,
                data=request.data or None,
                server_hostname=self._server_name,
                timeout=_timeout(request),
                allow_redirects=False,
            ) as response:
                body: str | bytes = await response.read()
                if not request.raw and isinstance(body, bytes):
                    body = body.decode("utf-8", "replace")
                return consul.base.Response(response.status, response.headers, body)
        finally:
            self._in_flight[source] -= 1

    def _pick(self) -> int:
        for source, used in enumerate(self._in_flight):
            if used < self._quota:
                return source
        return 0


def read_token(settings: ConsulSettings) -> str:
    """The ACL token, from the settings or their file; empty without one.

    Raises InputError if the file cannot be read.
    """
    if settings.token or not settings.token_file:
        return settings.token

    try:
        return Path(settings.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the token file cannot be read: {error}",
            where=f"CONSUL_HTTP_TOKEN_FILE={settings.token_file}",
            fix="give the file's right path, and let this user read it",
        ) from error


def _session(settings: ConsulSettings, source: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=_connector(settings, source), headers=_auth(settings)
    )


def _connector(settings: ConsulSettings, source: str) -> aiohttp.BaseConnector:
    # No limit here: a request that queued behind blocking queries would wait for minutes. The
    # budget is kept by who starts the queries.
    if settings.unix_socket:
        return aiohttp.UnixConnector(settings.unix_socket, limit=0)
    return aiohttp.TCPConnector(
        limit=0,
        ssl=_tls(settings) if settings.scheme == "https" else True,
        local_addr=(source, 0) if source else None,
        socket_factory=_open_socket,
        keepalive_timeout=60,
    )


def _open_socket(address: tuple[Any, ...]) -> socket.socket:
    # A blocking query is silent for minutes; keepalive probes are what notices that the other
    # machine is gone.
    family, kind, proto, *_ = address
    sock = socket.socket(family, kind, proto)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 10),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return sock


def _tls(settings: ConsulSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=settings.ca_file or None, capath=settings.ca_path or None
        )
        if settings.client_cert:
            context.load_cert_chain(settings.client_cert, settings.client_key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"the TLS files for Consul cannot be used: {error}",
            where="CONSUL_CACERT, CONSUL_CAPATH, CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY",
            fix="give paths of PEM files that this user may read",
        ) from error

    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

    return context


def _auth(settings: ConsulSettings) -> Mapping[str, str]:
    if not settings.auth:
        return {}
    credentials = settings.auth if ":" in settings.auth else f"{settings.auth}:"
    return {"Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}


def _timeout(request: _Request) -> aiohttp.ClientTimeout:
    asked = dict(request.params)
    total = request.seconds or _READ_TIMEOUT
    if "index" in asked and "wait" in asked:
        # Consul adds up to a sixteenth of `wait` at random.
        total = float(str(asked["wait"]).removesuffix("s")) * 1.07 + 10.0
    return aiohttp.ClientTimeout(total=total, sock_connect=10.0)


def _source_addresses(settings: ConsulSettings) -> list[str]:
    if settings.max_connections or settings.unix_socket:
        return [""]
    with contextlib.suppress(ValueError):
        target = ipaddress.ip_address(
            "127.0.0.1" if settings.host == "localhost" else settings.host
        )
        if target.version == 4 and target.is_loopback:
            addresses = [_random_loopback() for _ in range(_SOURCES)]
            return addresses if all(map(_can_bind, addresses)) else [""]
    return [""]


def _random_loopback() -> str:
    return f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"


def _can_bind(address: str) -> bool:
    # Linux owns all of 127.0.0.0/8; macOS only 127.0.0.1.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
