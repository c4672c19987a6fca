"""What is spoken on a port, and which rule says so."""

from __future__ import annotations

import pytest

from dockermesh.model import Protocol
from dockermesh.model.protocol_selection import (
    ProtocolRule,
    Selection,
    infer_protocol,
    select_protocol,
)
from dockermesh.model.well_known import of_image, of_port

TCP, HTTP, AUTO = Protocol.TCP, Protocol.HTTP, Protocol.AUTO


@pytest.mark.parametrize(
    ("given", "protocol", "rule"),
    [
        ({"declared": "grpc", "port_name": "tcp-x"}, Protocol.GRPC, "declared"),
        ({"port_name": "tcp-x", "image": "nginx"}, TCP, "port name"),
        ({"port_name": "http-web"}, HTTP, "port name"),
        ({"image": "mysql:8", "number": 3399}, Protocol.MYSQL, "image"),
        ({"image": "maildev/maildev", "number": 1080}, HTTP, "image"),
        ({"number": 1080}, TCP, "well-known port"),
        ({"image": "me/app", "number": 2222}, TCP, "well-known port"),
        ({"image": "me/app", "number": 9999}, AUTO, "sniffed"),
        ({"declared": "nonsense", "number": 5432}, TCP, "well-known port"),
        ({"declared": "auto", "number": 5432}, AUTO, "declared"),
    ],
)
def test_the_first_rule_that_says_something_decides(
    given: dict[str, str | int], protocol: Protocol, rule: str
) -> None:
    assert select_protocol(**given) == Selection(protocol, ProtocolRule(rule))  # type: ignore[arg-type]


def test_http_that_nobody_declared_is_sniffed_in_the_mesh() -> None:
    """An `elasticsearch` may well speak TLS at 9200."""
    usual = select_protocol(image="elasticsearch", number=9200)
    assert usual.protocol is HTTP
    assert usual.in_mesh == Selection(AUTO, ProtocolRule.SNIFFED)
    declared = select_protocol(declared="http", number=9200)
    assert declared.in_mesh is declared
    assert infer_protocol(number=8080) is AUTO
    assert infer_protocol(number=5432) is TCP


@pytest.mark.parametrize(
    ("image", "number", "protocol"),
    [
        ("registry:5000/team/mysql:8.0@sha256:00", 1, Protocol.MYSQL),
        ("localhost:5000/redis", 7000, Protocol.REDIS),
        ("bitnami/postgresql", 5439, TCP),
        ("mcr.microsoft.com/mssql/server:2022-latest", 1444, TCP),
        ("rabbitmq:3-management", 5672, TCP),
        ("rabbitmq:3-management", 15672, HTTP),
        ("nats:2-alpine", 4333, TCP),
        ("nats", 8222, HTTP),
        ("mailhog/mailhog", 1025, TCP),
        ("mailhog/mailhog", 8025, HTTP),
        ("axllent/mailpit:latest", 8025, HTTP),
        ("linuxserver/openssh-server", 2022, TCP),
        ("docker.elastic.co/elasticsearch/elasticsearch:8.1", 9300, TCP),
        ("minio/minio", 9000, HTTP),
        ("clickhouse/clickhouse-server", 9000, TCP),
        ("eclipse-mosquitto", 1883, TCP),
        ("eclipse-mosquitto", 9001, HTTP),
        ("confluentinc/cp-kafka:7.0", 29093, TCP),
        ("quay.io/coreos/etcd", 2379, HTTP),
        ("hashicorp/vault", 8200, HTTP),
        ("neo4j", 7687, TCP),
        ("ubuntu/squid", 3129, TCP),
        # Nothing is known of these, whatever their names contain.
        ("redis-commander", 8081, None),
        ("mongo-express", 8081, None),
        ("phpmyadmin", 80, None),
        ("prom/mysqld-exporter", 9104, None),
        ("sha256:0123", 5432, None),
        ("", 5432, None),
    ],
)
def test_images(image: str, number: int, protocol: Protocol | None) -> None:
    assert of_image(image, number) is protocol


def test_servers_that_speak_first_are_known_by_their_usual_ports() -> None:
    """FTP, SSH, SMTP, POP3, IMAP, MySQL, NATS, RFB: nobody waits for a client's first bytes."""
    for number in (21, 22, 2222, 25, 587, 1025, 2525, 110, 143, 3306, 3307, 4222, 5900):
        found = of_port(number)
        assert found is not None
        assert not found.is_http
    assert of_port(8443) is Protocol.HTTPS
    assert of_port(8883) is Protocol.TLS
