"""How Consul is reached, as a pure value read from the environment that every Consul tool honours.

Names and meanings are those of Consul's own CLI (`CONSUL_HTTP_ADDR` and its kin); a value that
cannot be used is an InputError that names the variable. Files (tokens, certificates) are only named
here: the client reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from dockermesh.errors import InputError
from dockermesh.model.contract import CONSUL_DOMAIN, consul_domain_of
from dockermesh.model.hosts import bracketed

_PORTS = {"http": 8500, "https": 8501}
_TRUE = frozenset({"1", "t", "true", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class ConsulSettings:
    """Address, credentials and limits of one Consul agent.

    `max_connections` is what Consul's `limits.http_max_conns_per_client` allows us; 0 means a stock
    Consul. `wait` is how long a blocking query may block, in seconds; 0 leaves it to the client.
    `allow_loopback` accepts endpoints on 127.0.0.0/8 and ::1, which are otherwise skipped: to a
    proxy they would be its own network namespace.
    """

    host: str = "127.0.0.1"
    port: int = 8500
    scheme: str = "http"
    unix_socket: str = ""
    token: str = ""
    token_file: str = ""
    auth: str = ""
    verify: bool = True
    ca_file: str = ""
    ca_path: str = ""
    client_cert: str = ""
    client_key: str = ""
    tls_server_name: str = ""
    namespace: str = ""
    partition: str = ""
    datacenter: str = ""
    domain: str = CONSUL_DOMAIN
    max_connections: int = 0
    wait: float = 0.0
    allow_loopback: bool = False

    @property
    def address(self) -> str:
        """Where Consul is, for messages."""
        return (
            f"unix://{self.unix_socket}"
            if self.unix_socket
            else f"{self.scheme}://{bracketed(self.host)}:{self.port}"
        )

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> ConsulSettings:
        """The settings that Consul's CLI would use in this environment.

        Raises InputError if a variable's value makes no sense.
        """
        use_tls = _boolean(env, "CONSUL_HTTP_SSL", False)
        scheme, host, port, unix_socket = _parse_address(
            env.get("CONSUL_HTTP_ADDR", "").strip(), use_tls
        )
        settings = cls(
            host=host,
            port=port,
            scheme=scheme,
            unix_socket=unix_socket,
            token=env.get("CONSUL_HTTP_TOKEN", "").strip(),
            token_file=env.get("CONSUL_HTTP_TOKEN_FILE", ""),
            auth=env.get("CONSUL_HTTP_AUTH", ""),
            verify=_boolean(env, "CONSUL_HTTP_SSL_VERIFY", True),
            ca_file=env.get("CONSUL_CACERT", ""),
            ca_path=env.get("CONSUL_CAPATH", ""),
            client_cert=env.get("CONSUL_CLIENT_CERT", ""),
            client_key=env.get("CONSUL_CLIENT_KEY", ""),
            tls_server_name=env.get("CONSUL_TLS_SERVER_NAME", ""),
            namespace=env.get("CONSUL_NAMESPACE", ""),
            partition=env.get("CONSUL_PARTITION", ""),
            datacenter=env.get("CONSUL_DATACENTER", ""),
            domain=consul_domain_of(env),
            max_connections=_count(env, "DOCKERMESH_CONSUL_MAX_CONNECTIONS"),
            allow_loopback=_boolean(env, "DOCKERMESH_ALLOW_LOOPBACK", False),
        )
        if bool(settings.client_cert) != bool(settings.client_key):
            raise InputError(
                "a client certificate needs both the certificate and its key",
                where="CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY",
                fix="set both variables, or neither",
            )

        return settings


def _parse_address(text: str, use_tls: bool) -> tuple[str, str, int, str]:
    """Scheme, host, port, and the path of a unix socket in place of the last two."""
    if text.startswith("unix://"):
        return _parse_socket(text)

    scheme = "https" if use_tls else "http"
    if not text:
        return scheme, "127.0.0.1", 8500, ""

    try:
        parts = urlsplit(text if "://" in text else f"{scheme}://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _bad_address(text) from error
    if not host or not _is_plain(parts):
        raise _bad_address(text)

    scheme = "https" if use_tls else parts.scheme
    return scheme, host, port or _PORTS[scheme], ""


def _is_plain(parts: SplitResult) -> bool:
    """Whether it is an address and no more: Consul's tools know of no path below it."""
    more = (parts.path.strip("/"), parts.query, parts.fragment)
    return parts.scheme in _PORTS and not any(more)


def _parse_socket(text: str) -> tuple[str, str, int, str]:
    path = text.removeprefix("unix://")
    if not path.startswith("/"):
        raise _bad_address(text)
    return "http", "localhost", 80, path


def _bad_address(text: str) -> InputError:
    return InputError(
        f"{text!r} is not an address of Consul",
        where="CONSUL_HTTP_ADDR",
        fix="write host:port, http://host:port, https://host:port or unix:///path/of/socket",
    )


def _boolean(env: Mapping[str, str], name: str, default: bool) -> bool:
    text = env.get(name, "").strip().lower()
    if not text:
        return default
    if text not in _TRUE | _FALSE:
        raise InputError(
            f"{text!r} is neither true nor false",
            where=name,
            fix="set it to true or false",
        )
    return text in _TRUE


def _count(env: Mapping[str, str], name: str) -> int:
    text = env.get(name, "").strip()
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or int(text) < 16:
        raise InputError(
            f"{text!r} is not a number of connections",
            where=name,
            fix="set it to 16 or more, or unset it",
        )
    return int(text)
