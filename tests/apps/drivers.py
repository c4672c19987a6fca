"""What is done with each app, and seen: a function per app, named like its directory.

Invariant: a driver's observations are the same in two runs of plain Compose. What is random,
or depends on the time, is not observed.
"""

from __future__ import annotations

import http.client
import json
import smtplib
import socket
import ssl
from collections.abc import Callable

from worlds import APPS, App, finish

Seen = dict[str, object]
DRIVERS: dict[str, Callable[[App], Seen]] = {}


def drives(driver: Callable[[App], Seen]) -> Callable[[App], Seen]:
    DRIVERS[driver.__name__] = driver
    return driver


def _status(app: App, port: int, path: str = "/") -> int:
    return app.get(port, path).status


def _answered(app: App, port: int) -> bool:
    """Whether somebody who is no proxy answers at a published port."""
    try:
        return _status(app, port) < 500
    except (OSError, http.client.HTTPException):
        return False


@drives
def proxied_flask(app: App) -> Seen:
    ready = app.until(lambda: _status(app, 18101, "/visits") == 200)
    seen = [
        app.get(18101, "/seen?q=1", Host=host).body
        for host in (
            "localhost:18101",
            "10.1.2.3",
            "shop.example.com",
            "web",
            "a_b.test",
        )
    ]
    big = "x" * 300_000
    return {
        "comes up": ready,
        "every visit counts once": json.loads(app.get(18101, "/visits").body)["visits"]
        > 1,
        "any Host": seen,
        "redirect": app.get(18101, "/away").location,
        "an app's error": app.get(18101, "/fails").status,
        "not found": app.get(18101, "/nowhere").status,
        "a large body": app.get(18101, "/echo", "POST", body=big).body == big,
        "the port": app.compose("port", "proxy", "80").stdout.strip(),
        "the port by our name": app.port("proxy", 80),
        "redis by hand": app.run("redis", "redis-cli", "-h", "redis", "ping"),
    }


@drives
def balanced(app: App) -> Seen:
    def both_up() -> bool:
        rows = app.get(18103, "/;csv").body.splitlines()
        return sum(",UP," in row and row.startswith("servers,") for row in rows) == 3

    def answers() -> set[str]:
        return {app.get(18102, "/x").body for _ in range(10)}

    return {
        "both are healthy": app.until(both_up),
        "both answer": sorted(answers()),
        "a stopped one": (
            app.compose("stop", "-t", "1", "one").returncode,
            app.until(lambda: answers() == {"two /x\n"}),
        ),
        "and back": (
            app.compose("start", "one").returncode,
            app.until(lambda: len(answers()) == 2),
        ),
    }


@drives
def php_mariadb(app: App) -> Seen:
    ready = app.until(lambda: "visits" in app.get(18104).body)
    query = ("mysql", "-h", "db", "-u", "app", "-psecret", "-N", "-e", "select 1+1")
    return {
        "comes up": ready,
        "page": app.get(18104, "/", Host="shop.test").body.split(" visits ")[0],
        "server-first protocol": app.run("web", *query),
        "a job": "42" in app.compose("logs", "--no-log-prefix", "adminer").stdout,
    }


@drives
def voting(app: App) -> Seen:
    ready = app.until(lambda: _status(app, 18106) == 200)
    voted = app.until(
        lambda: (
            app.get(
                18105,
                "/",
                "POST",
                body="vote=cats",
                Content_Type="application/x-www-form-urlencoded",
            ).status
            == 200
        )
    )
    running = app.compose("ps", "--services", "--status", "running").stdout.split()
    return {
        "comes up": ready,
        "takes a vote": voted,
        "counts it": app.until(lambda: '"cats":1' in app.get(18106).body),
        "the debugger's port": app.until(lambda: app.get(18107).body == "debugger"),
        "wait script": app.run("vote", "nc", "-z", "-w", "2", "db", "5432"),
        "a closed port": app.run("vote", "nc", "-z", "-w", "2", "db", "5433"),
        "running": sorted({"vote", "result", "worker", "redis", "db"} & set(running)),
    }


@drives
def rabbit_worker(app: App) -> Seen:
    return {
        "works": app.until(lambda: app.get(18108, "/double/21").body == "42"),
        "the page beside it": app.until(lambda: _status(app, 18109) == 200),
        "the host's name": app.run("rabbitmq", "hostname"),
    }


@drives
def forward_proxy(app: App) -> Seen:
    def through(*options: str) -> str:
        url = "http://web:8088/page.txt"
        proxy = ("-x", "http://squid:3128")
        return app.run("client", "curl", "-s", "-m", "10", *proxy, *options, url)

    return {
        "comes up": app.until(lambda: through() == "through the proxy"),
        "plain": through(),
        "connect": through("-p"),
        "not there": through("-o", "/dev/null", "-w", "%{http_code}", "-G", "-d", "x"),
        "a name that is not": app.run(
            "client", "curl", "-s", "-m", "10", "http://absent.test/"
        ),
    }


@drives
def mail(app: App) -> Seen:
    def send(subject: str, host: str, port: int) -> bool:
        with smtplib.SMTP(host, port, timeout=4) as server:
            server.sendmail("a@x.test", ["b@x.test"], f"Subject: {subject}\n\nhello")
        return True

    script = (
        "import smtplib; s = smtplib.SMTP('mailcatcher', 1025, timeout=4);"
        "s.sendmail('a@x.test', ['b@x.test'], 'Subject: inside\\n\\nhello'); print('sent')"
    )
    return {
        "from outside": app.until(lambda: send("outside", "127.0.0.1", 18110)),
        "from inside": app.until(
            lambda: app.run("app", "python3", "-c", script) == "sent"
        ),
        "caught": app.until(
            lambda: (
                {"Subject: inside", "Subject: outside"}
                <= set(json.loads(app.get(18111).body))
            )
        ),
    }


@drives
def shell(app: App) -> Seen:
    scan = ("ssh-keyscan", "-T", "4", "-p")

    def keys(*where: str) -> bool:
        return "ssh-ed25519" in app.run("client", *scan, *where)

    def banner() -> str:
        with socket.create_connection(("127.0.0.1", 18112), 4) as connection:
            return connection.recv(7).decode()

    return {
        "from inside": app.until(lambda: keys("2222", "git")),
        "from outside": app.until(lambda: banner() == "SSH-2.0"),
    }


@drives
def mqtt(app: App) -> Seen:
    def publish() -> bool:
        app.run(
            "publisher", "mosquitto_pub", "-h", "broker", "-t", "news", "-m", "hello"
        )
        return app.run("subscriber", "cat", "/tmp/news") == "hello"

    def subscribed() -> bool:
        news = app.compose("ps", "-a", "--format", "json", "subscriber").stdout
        return '"exited"' in news and '"ExitCode":0' in news

    return {"delivered": app.until(lambda: publish() or subscribed())}


@drives
def name_server(app: App) -> Seen:
    def ask(*how: str) -> str:
        question = ("dig", "+short", "+time=3", "+tries=1", "www.example.test")
        return app.run("client", *question, *how)

    def connects() -> bool:
        with socket.create_connection(("127.0.0.1", 18114), 3) as connection:
            return _dns_over_tcp(connection)

    return {
        "TCP from outside": app.until(connects),
        "UDP from outside": app.until(_dns_over_udp),
        "TCP from inside": app.until(lambda: ask("@dns", "+tcp"))
        and ask("@dns", "+tcp"),
        "UDP from inside": ask("@dns"),
    }


QUESTION = (
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    b"\x03www\x07example\x04test\x00\x00\x01\x00\x01"
)


def _dns_over_tcp(connection: socket.socket) -> bool:
    connection.settimeout(3)
    connection.sendall(len(QUESTION).to_bytes(2, "big") + QUESTION)
    return bytes([192, 0, 2, 7]) in connection.recv(4096)


def _dns_over_udp() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(3)
        connection.sendto(QUESTION, ("127.0.0.1", 18114))
        return bytes([192, 0, 2, 7]) in connection.recv(4096)


@drives
def tls_site(app: App) -> Seen:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def encrypted() -> str:
        with (
            socket.create_connection(("127.0.0.1", 18115), 5) as plain,
            context.wrap_socket(plain, server_hostname="site.test") as secured,
        ):
            secured.sendall(b"GET / HTTP/1.0\r\nHost: site.test\r\n\r\n")
            certificate = secured.getpeercert(binary_form=True) or b""
            answer = secured.recv(4096) + secured.recv(4096)
        return answer.decode().rpartition("\r\n")[2] + str(b"site.test" in certificate)

    return {
        "the app's certificate": app.until(lambda: "encrypted site.test" in encrypted())
        and encrypted(),
        "its redirect": app.get(18116, "/x?y=z", Host="site.test:18115").location,
    }


@drives
def monitored(app: App) -> Seen:
    def healthy() -> list[str]:
        found = json.loads(app.get(18117, "/api/v1/targets").body)["data"]
        return sorted(
            target["labels"]["job"]
            for target in found["activeTargets"]
            if target["health"] == "up"
        )

    both = ["by-dns", "by-name"]
    return {
        "page": app.until(lambda: app.get(18118).body == "page\n"),
        "targets": (app.until(lambda: healthy() == both), healthy()),
    }


@drives
def compose_keys(app: App) -> Seen:
    def ask(*command: str) -> str:
        return app.run("app", *command)

    curl = ("curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}")
    names = ("app", "other-name", "keys-app", "linked")
    return {
        "comes up": app.until(lambda: _status(app, 18120, "/app.env") == 200),
        "names": [
            app.run("peer", *curl, f"http://{name}:8000/app.env") for name in names
        ],
        "user": ask("id", "-u"),
        "hostname": ask("hostname"),
        "one address": len(ask("hostname", "-i").split()),
        "environment": ask("sh", "-c", "echo $SET $FROM_FILE"),
        "read-only": ask("sh", "-c", "touch /etc/x 2>/dev/null || echo refused"),
        "temporary": ask("sh", "-c", "touch /tmp/x && echo written"),
        "init": ask("cat", "/proc/1/comm"),
        "directory": ask("pwd"),
        "secret": ask("cat", "/run/secrets/password"),
        "config": ask("cat", "/etc/settings"),
        "volume": ask("cat", "/data/prepared"),
        "extra host": ask("getent", "hosts", "outside.test"),
        "search": ask("grep", "^search", "/etc/resolv.conf"),
        "sysctl": ask("cat", "/proc/sys/net/ipv4/tcp_keepalive_time"),
        "limit": ask("sh", "-c", "ulimit -n"),
        "a closed port": ask("nc", "-z", "-w", "2", "peer", "4242"),
        "a port nobody serves": _answered(app, 18121),
        "the chosen port": app.compose("port", "app", "8000").stdout.count("1812"),
        "the chosen port by our name": app.port("app", 8000).count("1812"),
        "ping": app.run("peer", "ping", "-c", "1", "-W", "2", "app").count(
            "1 received"
        ),
        "no such name": ask("getent", "hosts", "nobody"),
        "healthy": app.until(
            lambda: (
                "healthy" in finish("docker", "ps", "--filter", "name=keys-app").stdout
            )
        ),
        "logs": "GET /app.env"
        in (logs := app.compose("logs", "app")).stdout + logs.stderr,
        "restart": app.compose("restart", "-t", "1", "app").returncode,
        "back": app.until(lambda: _status(app, 18120, "/app.env") == 200),
        "replicas": len(app.compose("ps", "-q", "many").stdout.split()),
    }


def _without_host(answer: str) -> str:
    # Envoy speaks HTTP/1.1 to the app, which needs one: docs/limits.md.
    return answer.replace('"host": "localhost"', '"host": null')


@drives
def spoken(app: App) -> Seen:
    ready = app.until(lambda: _status(app, 18125) == 200)

    def inside(request: str) -> str:
        return _without_host(
            app.run("client", "python3", "/app/raw.py", "server", "8080", stdin=request)
        )

    def outside(request: str) -> str:
        raw = str(APPS / "spoken" / "raw.py")
        done = finish("python3", raw, "127.0.0.1", "18125", stdin=request)
        return _without_host(done.stdout.strip())

    requests = {name: text.replace("\n", "\r\n") for name, text in SPOKEN.items()}
    curl = ("curl", "-s", "-m", "10")
    return {
        "comes up": ready,
        "inside": {name: inside(text) for name, text in requests.items()},
        "outside": {name: outside(text) for name, text in requests.items()},
        "continue": app.run(
            "client",
            *curl,
            "-H",
            "Expect: 100-continue",
            "-d",
            "abc",
            "http://server:8080/",
        ),
        "by address": app.run(
            "client",
            "sh",
            "-c",
            "curl -s http://$(getent hosts server | cut -d' ' -f1):8080/",
        ).count('"method"'),
        "websocket": app.run(
            "client", "python3", "/app/socket_client.py", "server", "8081"
        ),
    }


MANY = "".join(f"X-Test-{number}: v\n" for number in range(150))
SPOKEN = {
    "1.0 without Host": "GET /a HTTP/1.0\n\n",
    "1.0 with Host": "GET /a HTTP/1.0\nHost: server:8080\n\n",
    "a Host that is an address": "GET / HTTP/1.1\nHost: 10.1.2.3\n\n",
    "a Host of nobody": "GET / HTTP/1.1\nHost: shop.example.com\n\n",
    "a Host with an underscore": "GET / HTTP/1.1\nHost: my_shop\n\n",
    "a Host with a final dot": "GET / HTTP/1.1\nHost: server.\n\n",
    "dots": "GET /a/../b HTTP/1.1\nHost: server\n\n",
    "an escaped tilde": "GET /%7euser HTTP/1.1\nHost: server\n\n",
    "a bar": "GET /a|b HTTP/1.1\nHost: server\n\n",
    "a backslash": "GET /a\\b HTTP/1.1\nHost: server\n\n",
    "two slashes": "GET //a//b HTTP/1.1\nHost: server\n\n",
    "an escaped slash": "GET /a%2Fb HTTP/1.1\nHost: server\n\n",
    "PROPFIND": "PROPFIND /dav HTTP/1.1\nHost: server\nContent-Length: 0\n\n",
    "PURGE": "PURGE /x HTTP/1.1\nHost: server\n\n",
    "BREW": "BREW /pot HTTP/1.1\nHost: server\n\n",
    "chunks": "POST / HTTP/1.1\nHost: server\nTransfer-Encoding: chunked\n\n3\nabc\n2\nde\n0\n\n",
    "many headers": f"GET / HTTP/1.1\nHost: server\n{MANY}\n",
    "DELETE with a body": "DELETE /x HTTP/1.1\nHost: server\nContent-Length: 3\n\nabc",
}


@drives
def caches(app: App) -> Seen:
    def say(what: str, host: str, port: str) -> str:
        # Who has nothing more to say stays on the line until the answer is there.
        words = f"(printf '{what}'; sleep 1) | timeout 4 nc {host} {port} | head -c 20"
        return app.run("client", "sh", "-c", words)

    def memcached() -> str:
        return say(
            "set k 0 60 2\\r\\nhi\\r\\nget k\\r\\nquit\\r\\n", "memcached", "11211"
        )

    def nats() -> str:
        return say("", "nats", "14222")[:6]

    def redis() -> str:
        return app.run("client", "redis-cli", "-h", "redis", "-p", "16379", "ping")

    return {
        "memcached": app.until(lambda: "STORED" in memcached()),
        "the server speaks first": app.until(lambda: nats() == "INFO {"),
        "redis on another port": app.until(lambda: redis() == "PONG"),
        "the monitor's page": app.run(
            "client",
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "http://nats:8222/",
        ),
    }
