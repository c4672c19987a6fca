"""HTTP/2 between two proxies changes nothing that an app or its client sees, of whatever they say
to each other.

Each case is asked over both versions, of a port that is declared as HTTP and of one that is not;
what comes out has to be the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from carried_rig import KINDS, World, plain, running, says

pytestmark = [pytest.mark.binary, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with running(tmp_path_factory.mktemp("carried")) as made:
        yield made


def request(
    *headers: str, line: str = "GET {} HTTP/1.1", body: str = "", host: str = "{host}"
) -> str:
    """A request whose path is filled in later."""
    hosts = [f"Host: {host}"] if host else []
    return "\r\n".join([line, *hosts, *headers, "", body])


def headers(count: int, length: int) -> list[str]:
    """So many headers of so many bytes."""
    return [f"x-{n:05}: {'v' * (length - 9)}" for n in range(count)]


CHUNKED = "Transfer-Encoding: chunked"
REQUESTS = {
    "get": request(),
    "get-with-length-0": request("Content-Length: 0"),
    "get-with-body": request("Content-Length: 3", body="abc"),
    "post": request("Content-Length: 3", line="POST {} HTTP/1.1", body="abc"),
    "post-without-body": request(line="POST {} HTTP/1.1"),
    "put-of-nothing": request("Content-Length: 0", line="PUT {} HTTP/1.1"),
    "delete": request(line="DELETE {} HTTP/1.1"),
    "head": request(line="HEAD {} HTTP/1.1"),
    "options": request(line="OPTIONS {} HTTP/1.1"),
    "options-of-all": request(line="OPTIONS * HTTP/1.1"),
    "trace": request(line="TRACE {} HTTP/1.1"),
    "brew": request(line="BREW {} HTTP/1.1"),
    "small": request(line="get {} HTTP/1.1"),
    "m-search": request(line="M-SEARCH {} HTTP/1.1"),
    "connect": request(line="CONNECT a.test:443 HTTP/1.1", host="a.test:443"),
    "chunked": request(
        CHUNKED, line="POST {} HTTP/1.1", body="3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    ),
    "chunked-nothing": request(CHUNKED, line="POST {} HTTP/1.1", body="0\r\n\r\n"),
    "chunked-get": request(CHUNKED, body="1\r\nx\r\n0\r\n\r\n"),
    "trailers": request(
        CHUNKED,
        "TE: trailers",
        "Trailer: x-sum",
        line="POST {} HTTP/1.1",
        body="3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n",
    ),
    "trailers-unasked": request(
        CHUNKED, line="POST {} HTTP/1.1", body="3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"
    ),
    "te-gzip": request("TE: gzip, trailers"),
    "two-lengths": request(
        "Content-Length: 3", CHUNKED, line="POST {} HTTP/1.1", body="0\r\n\r\n"
    ),
    "gzip-chunked": request(
        "Transfer-Encoding: gzip, chunked", line="POST {} HTTP/1.1", body="0\r\n\r\n"
    ),
    "expect": request(
        "Expect: 100-continue",
        "Content-Length: 3",
        line="POST {} HTTP/1.1",
        body="abc",
    ),
    "expect-else": request("Expect: something"),
    "http-1.0": request(line="GET {} HTTP/1.0"),
    "http-1.0-without-host": request(line="GET {} HTTP/1.0", host=""),
    "http-1.0-keep-alive": request("Connection: keep-alive", line="GET {} HTTP/1.0"),
    "http-1.0-post": request("Content-Length: 3", line="POST {} HTTP/1.0", body="abc"),
    "without-host": request(host=""),
    "absolute": request(line="GET http://www.example.com{} HTTP/1.1"),
    "absolute-https": request(line="GET https://www.example.com:8443{} HTTP/1.1"),
    "close": request("Connection: close"),
    "keep-alive": request("Connection: keep-alive", "Keep-Alive: timeout=5, max=10"),
    "proxy-connection": request("Proxy-Connection: keep-alive"),
    "nominated": request("Connection: x-hop, close", "X-Hop: 1"),
    "http2-settings": request("HTTP2-Settings: AAMAAABk"),
    "cookies": request("Cookie: b=2; c=3"),
    "repeated": request("X-A: 1", "X-A: 2", "Accept: a", "Accept: b"),
    "via": request("Via: 1.1 squid", "X-Forwarded-For: 192.0.2.1"),
    "forwarded": request("X-Forwarded-Proto: https", "X-Forwarded-Host: a"),
    "latin-1": request("X-A: caf\xe9 \xff"),
    "utf-8": request("X-A: caf\xc3\xa9"),
    "tab": request("X-A: a\tb"),
    "empty": request("X-A:", "X-B:  "),
    "padded": request("X-A:   a   "),
    "odd-names": request("X_A: 1", "X.B!#$%&'*+^`|~: 2", "1: 3"),
    "space-in-name": request("X A: 1"),
    "paren-in-name": request("X(A: 1"),
    "control-in-value": request("X-A: a\x01b"),
    "delete-in-value": request("X-A: a\x7fb"),
    "folded": request("X-A: a\r\n b"),
    "pseudo": request(":path: /b"),
    "mesh's-own": request("x-dockermesh-called: a", "x-envoy-retry-on: 5xx"),
    "accept-encoding": request("Accept-Encoding: gzip, br", "Range: bytes=0-1"),
    "500-headers": request(*headers(500, 20)),
    "950-headers": request(*headers(950, 20)),
    "998-headers": request(*headers(998, 20)),
    "1100-headers": request(*headers(1100, 20)),
    "50-kib": request(*headers(50, 1024)),
    "59-kib": request(*headers(59, 1024)),
    "one-of-59-kib": request(*headers(1, 59 * 1024)),
    "one-of-60-kib": request(*headers(1, 60 * 1024)),
    "60-kib": request(*headers(60, 1010)),
    "70-kib": request(*headers(70, 1024)),
    "upgrade-unknown": request("Connection: Upgrade", "Upgrade: chat/2"),
    "upgrade-h2c": request(
        "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"
    ),
    "upgrade-unnominated": request("Upgrade: websocket"),
    "upgrade-ignored": request("Connection: Upgrade", "Upgrade: websocket"),
    "garbage": "hello\r\n\r\n",
}
PATHS = {
    "odd": "/a/../b/%7e/a|b\\c/./d//e?x=%7e",
    "query": "/a?b=c&d=%20&e=?/",
    "semicolon": "/a;b=c,d:e@f",
    "quotes": "/a\"b'<c>{d}^`",
    "utf-8": "/caf\xc3\xa9",
    "latin-1": "/caf\xe9",
    "fragment": "/a#b",
    "long": "/" + "a" * 12_000,
    "empty-query": "/a?",
    "double": "//a//b",
    "null": "/a%00b",
    "delete": "/a\x7f",
}
HOSTS = {
    "port": "x:80",
    "address": "192.0.2.7:81",
    "v6": "[2001:db8::1]:80",
    "dot": "declared.",
    "underscore": "a_b",
    "capitals": "WWW.Example.COM",
    "odd": "a~b!c",
    "comma": "a,b",
    "slash": "a/b",
    "long": "a" * 300,
    "utf-8": "caf\xc3\xa9",
    "tab": "a\tb",
}


async def both(
    world: World, kind: str, text: str, *, has_body: bool = True
) -> dict[str, list[str]]:
    """What comes back for these bytes, by what carried them."""
    return {
        carried: plain(
            await asyncio.to_thread(
                world.ask,
                text.replace("{host}", kind),
                carried=carried,
                kind=kind,
                has_body=has_body,
            )
        )
        for carried in ("HTTP/1.1", "HTTP/2")
    }


def assert_same(answers: dict[str, list[str]]) -> list[str]:
    """Assert that all are; returns what they are."""
    assert answers["HTTP/2"] == answers["HTTP/1.1"]
    assert answers["HTTP/2"] != [""]
    return answers["HTTP/2"]


@pytest.mark.parametrize("kind", KINDS)
async def test_http_2_carries_them_unless_the_user_wished_otherwise(
    world: World, kind: str
) -> None:
    def http2() -> int:
        return world.counted("server", "downstream_rq_http2_total")

    for carried, more in (("HTTP/1.1", 0), ("HTTP/2", 1)):
        before = http2()
        answer = await asyncio.to_thread(
            world.ask,
            request().format("/carried", host=kind),
            carried=carried,
            kind=kind,
        )
        assert answer.startswith("HTTP/1.1 200") and "GET /carried HTTP/1.1" in answer
        # Other requests at that moment there are none.
        assert http2() == before + more


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", REQUESTS)
async def test_a_request_arrives_as_it_does_over_http_1(
    world: World, case: str, kind: str
) -> None:
    text = REQUESTS[case].replace("{}", f"/{case}")
    assert_same(await both(world, kind, text, has_body=case != "head"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", PATHS)
async def test_a_path_arrives_as_it_does_over_http_1(
    world: World, case: str, kind: str
) -> None:
    assert_same(await both(world, kind, request().replace("{}", PATHS[case])))


@pytest.mark.parametrize("case", HOSTS)
async def test_a_host_arrives_as_it_does_over_http_1(world: World, case: str) -> None:
    text = request(host=HOSTS[case]).replace("{}", f"/host-{case}")
    # Of the other kind it would say which service is meant.
    assert_same(await both(world, "sniffed", text))


OK = "HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "length": f"{OK}Content-Length: 3\r\n\r\nabc",
    "nothing": f"{OK}Content-Length: 0\r\n\r\n",
    "chunked": f"{OK}{CHUNKED}\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "chunked-nothing": f"{OK}{CHUNKED}\r\n\r\n0\r\n\r\n",
    "trailers": f"{OK}Trailer: x-sum\r\n{CHUNKED}\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n",
    "no-content": "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
    "no-content-with-length": "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    "reset-content": "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
    "not-modified": "HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n",
    "not-modified-with-length": "HTTP/1.1 304 X\r\nContent-Length: 7\r\n\r\n",
    "partial": "HTTP/1.1 206 P\r\nContent-Range: bytes 0-2/9\r\nContent-Length: 3\r\n\r\nabc",
    "other-reason": "HTTP/1.1 404 Nobody Home\r\nContent-Length: 0\r\n\r\n",
    "unknown-status": "HTTP/1.1 799 X\r\nContent-Length: 0\r\n\r\n",
    "unavailable": "HTTP/1.1 503 X\r\nContent-Length: 3\r\n\r\nabc",
    "early-hints": f"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n{OK}Content-Length: 0\r\n\r\n",
    "processing": f"HTTP/1.1 102 P\r\n\r\n{OK}Content-Length: 0\r\n\r\n",
    "continue": f"HTTP/1.1 100 Continue\r\n\r\n{OK}Content-Length: 0\r\n\r\n",
    "cookies": f"{OK}Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
    "repeated": f"{OK}X-A: 1\r\nX-A: 2\r\nVary: a\r\nVary: b\r\nContent-Length: 0\r\n\r\n",
    "keep-alive": f"{OK}Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n",
    "close": f"{OK}Connection: close\r\nContent-Length: 0\r\n\r\n",
    "nominated": f"{OK}Connection: x-hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n",
    "proxy-connection": f"{OK}Proxy-Connection: close\r\nContent-Length: 0\r\n\r\n",
    "upgrade-offered": f"{OK}Upgrade: h2,h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
    "upgrade-required": "HTTP/1.1 426 X\r\nUpgrade: a\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
    "server": f"{OK}Server: mine\r\nVia: 1.0 a\r\nDate: now\r\nContent-Length: 0\r\n\r\n",
    "latin-1": f"{OK}X-A: caf\xe9 \xff\r\nContent-Length: 0\r\n\r\n",
    "empty-header": f"{OK}X-A:\r\nContent-Length: 0\r\n\r\n",
    "odd-names": f"{OK}X_A: 1\r\nX.B!#$%&'*+^`|~: 2\r\nContent-Length: 0\r\n\r\n",
    "control-in-value": f"{OK}X-A: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "te": f"{OK}TE: trailers\r\nContent-Length: 0\r\n\r\n",
    "host": f"{OK}Host: me\r\nContent-Length: 0\r\n\r\n",
    "two-lengths": f"{OK}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "length-and-chunked": f"{OK}Content-Length: 3\r\n{CHUNKED}\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "500-headers": "\r\n".join(
        [OK.strip(), *headers(500, 20), "Content-Length: 0", "", ""]
    ),
    "950-headers": "\r\n".join(
        [OK.strip(), *headers(950, 20), "Content-Length: 0", "", ""]
    ),
    "1100-headers": "\r\n".join(
        [OK.strip(), *headers(1100, 20), "Content-Length: 0", "", ""]
    ),
    "59-kib": "\r\n".join(
        [OK.strip(), *headers(59, 1024), "Content-Length: 0", "", ""]
    ),
    "one-of-59-kib": "\r\n".join(
        [OK.strip(), *headers(1, 59 * 1024), "Content-Length: 0", "", ""]
    ),
    "70-kib": "\r\n".join(
        [OK.strip(), *headers(70, 1024), "Content-Length: 0", "", ""]
    ),
    "unreached": f"{OK}x-dockermesh-unreached: 1\r\nContent-Length: 0\r\n\r\n",
    "head": f"{OK}Content-Length: 7\r\n\r\n",
    "head-chunked": f"{OK}{CHUNKED}\r\n\r\n",
}
ENDINGS = {
    "until-closed": f"{OK}\r\nabc",
    "http-1.0": "HTTP/1.0 200 OK\r\n\r\nabc",
    "http-1.0-length": "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    "identity": f"{OK}Transfer-Encoding: identity\r\n\r\nabc",
    "cut-off": f"{OK}Content-Length: 9\r\n\r\nabc",
    "cut-off-chunked": f"{OK}{CHUNKED}\r\n\r\n3\r\nabc\r\n",
    "at-once": "",
    "within-head": f"{OK}Content-Le",
    "garbage": "hello\r\n\r\n",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ANSWERS)
async def test_an_answer_arrives_as_it_does_over_http_1(
    world: World, case: str, kind: str
) -> None:
    path = f"/answer-{case}"
    world.app.scripts[path] = says(ANSWERS[case])
    method = "HEAD" if case.startswith("head") else "GET"
    text = request(line=f"{method} {path} HTTP/1.1")
    assert_same(await both(world, kind, text, has_body=method == "GET"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("case", ENDINGS)
async def test_an_answer_that_ends_with_its_connection_arrives_as_it_does_over_http_1(
    world: World, case: str, method: str, kind: str
) -> None:
    path = f"/ending-{case}"
    world.app.scripts[path] = says(ENDINGS[case], then_close=True)
    text = request("Content-Length: 0", line=f"{method} {path} HTTP/1.1")
    before = len(world.app.seen[path])
    answers = await both(world, kind, text)
    assert_same(answers)
    # Whatever became of them, the app saw each as often as over HTTP/1.1: once.
    assert len(world.app.seen[path]) == before + 2
