"""Key sets: what is fetched, from where never, and what a bad server changes (nothing)."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from dockermesh.controlplane import fetching
from dockermesh.controlplane.trust.jwks import KeySets, fetch_keys
from dockermesh.errors import DockermeshError
from dockermesh.translate.security.jwt import DISCOVERY_PATH
from dockermesh.translate.security.key_sets import REJECTING_KEYS, usable_keys

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEYS = usable_keys(REJECTING_KEYS)


@asynccontextmanager
async def server(
    context: ssl.SSLContext | None = None, **handlers: Handler
) -> AsyncIterator[str]:
    """A server on loopback with a handler for each path."""
    app = web.Application()
    for path, handler in handlers.items():
        app.router.add_get(f"/{path.replace('__', '/.well-known/')}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def good(_request: web.Request) -> web.Response:
    return web.Response(text=REJECTING_KEYS)


async def fetched(url: str, limit: float = 30.0) -> str:
    async with fetching.session({}) as session:
        return await fetch_keys(session, url, limit)


async def refused(url: str, reason: str, limit: float = 30.0) -> None:
    with pytest.raises(DockermeshError, match=reason):
        await fetched(url, limit)


async def test_a_key_set_is_fetched() -> None:
    async with server(keys=good) as url:
        assert await fetched(f"{url}/keys") == KEYS


async def test_an_issuer_is_asked_where_its_keys_are() -> None:
    places: list[str] = []

    async def discovery(_request: web.Request) -> web.Response:
        return web.json_response(
            {"issuer": f"{places[0]}/tenant", "jwks_uri": f"{places[0]}/keys"}
        )

    async def other(_request: web.Request) -> web.Response:
        return web.json_response(
            {"issuer": "https://somebody.else", "jwks_uri": f"{places[0]}/keys"}
        )

    name = "openid-configuration"
    async with server(
        keys=good, **{f"tenant__{name}": discovery, f"evil__{name}": other}
    ) as base:
        places.append(base)
        assert await fetched(f"{base}/tenant{DISCOVERY_PATH}") == KEYS
        await refused(f"{base}/evil{DISCOVERY_PATH}", "another issuer")


async def test_a_server_that_hangs_is_given_up_in_time() -> None:
    released = asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    async with server(keys=hang) as url:
        started = time.monotonic()
        await refused(f"{url}/keys", "did not answer within", limit=0.2)
        assert time.monotonic() - started < 20
        released.set()


async def test_an_endless_answer_is_cut_off() -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse()
        await answer.prepare(request)
        while sent < 1 << 30:
            await answer.write(b" " * (1 << 16))
            sent += 1 << 16
        return answer

    async with server(keys=endless) as url:
        await refused(f"{url}/keys", "larger than 1 MiB")
    assert sent < 1 << 28


async def test_a_redirect_is_not_followed() -> None:
    async def away(_request: web.Request) -> web.Response:
        raise web.HTTPFound("http://169.254.169.254/latest/meta-data")

    async with server(keys=away) as url:
        await refused(f"{url}/keys", "answered 302")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "0.0.0.0",
        "2852039166",
        "0xA9FEA9FE",
    ],
)
async def test_metadata_services_are_never_asked(host: str) -> None:
    await refused(f"http://{host}/keys", "never fetched from|not a canonical")


async def test_a_name_of_a_metadata_service_is_never_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolve(*_args: Any, **_more: Any) -> list[dict[str, Any]]:
        return [
            {
                "hostname": "innocent",
                "host": "169.254.169.254",
                "port": 80,
                "family": 2,
                "proto": 0,
                "flags": 0,
            }
        ]

    monkeypatch.setattr(fetching.ThreadedResolver, "resolve", resolve)
    await refused("http://innocent.example/keys", "never fetched from")


async def test_tls_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    async with server(context=self_signed(tmp_path), keys=good) as url:
        await refused(f"{url}/keys", "CERTIFICATE_VERIFY_FAILED")


def self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    address = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), 1, start, start + datetime.timedelta(days=9)
    )
    certificate = builder.add_extension(address, critical=False).sign(
        key, hashes.SHA256()
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "pair.pem").write_bytes(certificate.public_bytes(Encoding.PEM) + private)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "pair.pem")
    return context


async def test_the_last_good_set_stays_while_the_server_is_down_and_changes_when_it_is_back() -> (
    None
):
    answers: list[Any] = [
        REJECTING_KEYS,
        None,
        "[]",
        json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}),
    ]
    asked = 0

    async def changing(_request: web.Request) -> web.Response:
        nonlocal asked
        answer = answers[min(asked, len(answers) - 1)]
        asked += 1
        return web.Response(status=500) if answer is None else web.Response(text=answer)

    seen: list[Mapping[str, str]] = []
    arrived = asyncio.Event()

    def changed(keys: Mapping[str, str]) -> None:
        seen.append(keys)
        if len(seen) == 2:
            arrived.set()

    sets = KeySets(changed, refresh=0.01, retry=0.01)
    async with server(keys=changing) as url:
        source = f"{url}/keys"
        sets.want({source: 5.0, "http://127.0.0.1:1/nobody": 5.0})
        running = asyncio.create_task(sets.run())
        async with asyncio.timeout(60):
            await arrived.wait()
        running.cancel()
    assert [list(keys) for keys in seen] == [[source], [source]]
    assert (seen[0][source], json.loads(seen[1][source])["keys"][0]["kty"]) == (
        KEYS,
        "oct",
    )
    assert "http://127.0.0.1:1/nobody" in sets.failing
