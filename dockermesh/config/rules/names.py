"""Names, hosts, ports, addresses and protocols: each check returns what is wrong with a text, or
nothing.

Sources: Istio `pkg/config/labels`, `pkg/config/protocol`, `pkg/config/validation/agent`. Labels may
have capitals, as there.
"""

from __future__ import annotations

import ipaddress
import re

_LABEL = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")
_WILDCARD_LABEL = re.compile(r"\*|(?:\*|\*-)?[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")
_TAG_NAME = r"(?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_KEY = re.compile(rf"(?:{_LABEL.pattern}(?:\.{_LABEL.pattern})*/)?{_TAG_NAME}")
_LABEL_VALUE = re.compile(rf"(?:{_TAG_NAME})?")
_SNI_DNAT = re.compile(r"outbound_\.[0-9]+_.*")

UNIX_PREFIX = "unix://"
HTTP_PROTOCOLS = frozenset({"http", "http2", "http_proxy", "grpc", "grpc-web"})
TLS_PROTOCOLS = frozenset({"https", "tls"})
_TCP_PROTOCOLS = frozenset({"tcp", "mongo", "redis", "mysql"}) | TLS_PROTOCOLS
_PROTOCOLS = HTTP_PROTOCOLS | _TCP_PROTOCOLS | {"udp", "hbone"}


def is_label(text: str) -> bool:
    """Whether it is one label of a domain name."""
    return len(text) <= 63 and _LABEL.fullmatch(text) is not None


def check_label(text: str, what: str) -> str:
    """A name that must be one label of a domain name."""
    if not text:
        return f"{what} must not be empty"
    return (
        ""
        if is_label(text)
        else f"{what} {text[:80]!r} must be a DNS label: letters, digits and '-', at most 63"
    )


def check_fqdn(host: str) -> str:
    """A domain name without wildcard; one label will do."""
    return _check_length(host) or _check_labels(host, host)


def check_host(host: str) -> str:
    """A domain name whose first label may be, or start with, `*`."""
    wrong = _check_length(host)
    if wrong:
        return wrong
    first, dot, rest = host.partition(".")
    if len(first) > 63 or not _WILDCARD_LABEL.fullmatch(first):
        return f"host {host!r} is not valid: label {first!r}"
    return _check_labels(rest, host) if dot else ""


def check_gateway_bound_host(host: str, *, sni: bool) -> str:
    """As `check_host`; with SNI routing also the generated `outbound_.80_._.host`."""
    # How Istio calls services between gateways of two networks.
    if sni and host.startswith("outbound_."):
        return (
            ""
            if _SNI_DNAT.fullmatch(host)
            else f"host {host!r} is not of the form outbound_.<port>_.<subset>_.<host>"
        )
    return check_host(host)


def _check_length(host: str) -> str:
    if not host:
        return "host must not be empty"
    return "host is longer than 255 characters" if len(host) > 255 else ""


def _check_labels(domain: str, host: str) -> str:
    labels = domain.split(".")
    # Else `1.2.3.4` would be a name.
    if labels[-1].isascii() and labels[-1].isdecimal():
        return f"host {host!r} is not valid: its last label must not be a number"
    # A dot at the end only says that the name is complete.
    if labels[-1] == "" and len(labels) > 1:
        labels.pop()
    for label in labels:
        if not is_label(label):
            return f"host {host!r} is not valid: label {label!r}"
    return ""


def is_partial_wildcard(host: str) -> bool:
    """Whether `*` stands for less than whole labels (`*example.com`)."""
    return "*" in host and host != "*" and not host.startswith("*.")


def is_ip_address(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def check_ip_address(text: str) -> str:
    """An IPv4 or IPv6 address."""
    return "" if is_ip_address(text) else f"{text[:80]!r} is not a valid IP address"


def check_subnet(text: str) -> str:
    """An IP address, or a range of them in CIDR notation."""
    address, slash, bits = text.partition("/")
    if not slash:
        return check_ip_address(text)

    try:
        # Bits beyond the length may be set, as Go takes them: 10.1.2.3/8.
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"{text[:80]!r} is not a valid CIDR block"
    return (
        ""
        if bits.isdecimal() and "%" not in address
        else f"{text[:80]!r} is not a valid CIDR block"
    )


def check_port(number: int, what: str = "port") -> str:
    """A port number."""
    return (
        ""
        if 1 <= number <= 65535
        else f"{what} must be in the range 1..65535, not {number}"
    )


def check_unix_path(path: str) -> str:
    """The path of a Unix domain socket, without its scheme."""
    if not path:
        return "unix address must not be empty"
    # A socket in the abstract namespace of Linux, which is in no folder.
    if path.startswith("@"):
        return ""
    if not path.startswith("/") or path.endswith("/"):
        return f"{path[:80]!r} is not an absolute path to a file"
    return ""


def check_protocol(name: str) -> str:
    """A protocol's name, in any case."""
    if name.lower() in _PROTOCOLS:
        return ""
    return (
        f"invalid protocol {name[:40]!r}, use HTTP, HTTP2, GRPC, GRPC-WEB, HTTPS, TLS, TCP, MONGO,"
        " REDIS or MYSQL"
    )


def is_http(protocol: str) -> bool:
    """Whether requests are routed one by one."""
    return protocol.lower() in HTTP_PROTOCOLS


def is_tls(protocol: str) -> bool:
    """Whether the port speaks TLS."""
    return protocol.lower() in TLS_PROTOCOLS


def is_tcp(protocol: str) -> bool:
    """Whether connections are forwarded as they are."""
    return protocol.lower() in _TCP_PROTOCOLS


def check_workload_label(key: str, value: str) -> str:
    """A label of a workload, as Kubernetes allows it."""
    name = key.rpartition("/")[2]
    if not _LABEL_KEY.fullmatch(key) or len(name) > 63:
        return f"label key {key[:80]!r} is not valid"
    if not _LABEL_VALUE.fullmatch(value) or len(value) > 63:
        return f"label value {value[:80]!r} is not valid"
    return ""
