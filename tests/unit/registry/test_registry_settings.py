"""Consul's environment: every variable is honoured, every bad value named."""

import pytest

from dockermesh.consul.settings import ConsulSettings
from dockermesh.errors import InputError


def from_env(**env: str) -> ConsulSettings:
    return ConsulSettings.from_environment(env)


@pytest.mark.parametrize(
    ("address", "scheme", "host", "port", "shown"),
    [
        ("", "http", "127.0.0.1", 8500, "http://127.0.0.1:8500"),
        ("consul:8500", "http", "consul", 8500, "http://consul:8500"),
        ("consul", "http", "consul", 8500, "http://consul:8500"),
        ("http://10.0.0.1:80", "http", "10.0.0.1", 80, "http://10.0.0.1:80"),
        (
            "https://consul.example",
            "https",
            "consul.example",
            8501,
            "https://consul.example:8501",
        ),
        ("[::1]:8500", "http", "::1", 8500, "http://[::1]:8500"),
    ],
)
def test_address(address: str, scheme: str, host: str, port: int, shown: str) -> None:
    settings = from_env(CONSUL_HTTP_ADDR=address)
    assert (settings.scheme, settings.host, settings.port, settings.address) == (
        scheme,
        host,
        port,
        shown,
    )


def test_unix_socket() -> None:
    settings = from_env(CONSUL_HTTP_ADDR="unix:///run/consul.sock")
    assert settings.unix_socket == "/run/consul.sock"
    assert settings.address == "unix:///run/consul.sock"


def test_everything_else() -> None:
    settings = from_env(
        CONSUL_HTTP_ADDR="consul:8501",
        CONSUL_HTTP_SSL="true",
        CONSUL_HTTP_SSL_VERIFY="0",
        CONSUL_HTTP_TOKEN="t",
        CONSUL_HTTP_TOKEN_FILE="/t",
        CONSUL_HTTP_AUTH="u:p",
        CONSUL_CACERT="/ca.pem",
        CONSUL_CAPATH="/cas",
        CONSUL_CLIENT_CERT="/c.pem",
        CONSUL_CLIENT_KEY="/k.pem",
        CONSUL_TLS_SERVER_NAME="server.dc1.consul",
        CONSUL_NAMESPACE="team",
        CONSUL_PARTITION="part",
        CONSUL_DATACENTER="dc2",
        DOCKERMESH_CONSUL_DOMAIN="mesh.",
        DOCKERMESH_CONSUL_MAX_CONNECTIONS="5000",
        DOCKERMESH_ALLOW_LOOPBACK="1",
    )
    assert settings == ConsulSettings(
        host="consul",
        port=8501,
        scheme="https",
        verify=False,
        token="t",
        token_file="/t",
        auth="u:p",
        ca_file="/ca.pem",
        ca_path="/cas",
        client_cert="/c.pem",
        client_key="/k.pem",
        tls_server_name="server.dc1.consul",
        namespace="team",
        partition="part",
        datacenter="dc2",
        domain="mesh",
        max_connections=5000,
        allow_loopback=True,
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CONSUL_HTTP_ADDR", "consul:port"),
        ("CONSUL_HTTP_ADDR", "ftp://consul"),
        ("CONSUL_HTTP_ADDR", "consul:70000"),
        ("CONSUL_HTTP_ADDR", "http://consul:8500/v1"),
        ("CONSUL_HTTP_ADDR", "unix://relative"),
        ("CONSUL_HTTP_SSL", "maybe"),
        ("CONSUL_HTTP_SSL_VERIFY", "2"),
        ("CONSUL_CLIENT_CERT", "/only-the-certificate.pem"),
        ("DOCKERMESH_CONSUL_MAX_CONNECTIONS", "-1"),
        ("DOCKERMESH_CONSUL_MAX_CONNECTIONS", "3"),
    ],
)
def test_bad_values_name_their_variable(variable: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        ConsulSettings.from_environment({variable: value})
    assert variable in caught.value.where
    assert caught.value.fix
