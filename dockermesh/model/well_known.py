"""What is usually spoken on a port, by the image that serves it and by its number.

The numbers are those of Compose files in the wild: IANA's, defaults of the images, and habits
(`3307` beside a MySQL of the host). Taking a port for TCP by mistake costs the features of HTTP;
taking it for HTTP by mistake breaks it. So what could be either is not listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dockermesh.model.protocol import Protocol

_TCP, _TLS, _HTTP, _HTTPS = Protocol.TCP, Protocol.TLS, Protocol.HTTP, Protocol.HTTPS


@dataclass(frozen=True, slots=True)
class Image:
    """What an image speaks: on these ports, and on all others (None: that is not known)."""

    others: Protocol | None = None
    ports: Mapping[int, Protocol] = field(default_factory=dict)


def of_port(number: int) -> Protocol | None:
    """What is usually spoken on a port of this number; None where nothing is usual."""
    return _PORTS.get(number)


def of_image(image: str, number: int) -> Protocol | None:
    """What an image speaks on a port; None for images and ports of which nothing is known."""
    known = _known_image(image)
    return known.ports.get(number, known.others) if known is not None else None


def _known_image(image: str) -> Image | None:
    """The entry of an image by the end of its repository: `bitnami/redis:7` is `redis`."""
    repository = image.partition("@")[0]
    # A colon before a slash is that of the registry's port.
    if ":" in repository.rpartition("/")[2]:
        repository = repository.rpartition(":")[0]

    parts = repository.lower().split("/")
    endings = ("/".join(parts[-length:]) for length in (2, 1))
    return next((_IMAGES[end] for end in endings if end in _IMAGES), None)


def _all(protocol: Protocol, *numbers: int) -> dict[int, Protocol]:
    return dict.fromkeys(numbers, protocol)


_PORTS: Mapping[int, Protocol] = {
    # Mail, files, shells, names and directories.
    **_all(_TCP, 21, 22, 23, 25, 53, 110, 119, 139, 143, 389, 445, 514, 587, 873),
    **_all(_TCP, 1025, 1389, 2049, 2121, 2222, 2525, 3268, 3389, 9418),
    **_all(_TCP, 5060, 5222, 5269, 5900, 5901, 5902, 6667, 25565),
    **_all(_TLS, 465, 636, 853, 990, 993, 995, 1636, 3269, 6514, 6697),
    # Databases and caches.
    **_all(Protocol.MYSQL, 3306, 3307, 3308),
    **_all(Protocol.MONGO, 27017, 27018, 27019),
    **_all(Protocol.REDIS, 6379, 6380, 26379),
    **_all(_TCP, 1433, 1521, 5432, 5433, 6432, 7687, 9042, 9160, 9300, 11211),
    **_all(_TCP, 16379, 26257, 28015, 29015, 33060, 50000),
    # Queues and logs.
    **_all(_TCP, 1414, 1883, 2181, 4222, 4369, 4730, 5044, 5672, 6222, 6650),
    **_all(_TCP, 9092, 9093, 9094, 11300, 12201, 19092, 24224, 25672, 29092),
    **_all(_TCP, 61613, 61614, 61616),
    **_all(_TLS, 5671, 8883),
    # Proxies, whose clients name somebody else's host; CONNECT is no request for a route.
    **_all(_TCP, 1080, 3128, 8118),
    # Consul's own, beside its API.
    **_all(_TCP, 8300, 8301, 8302, 8600),
    **_all(_HTTPS, 443, 2376, 6443, 8443, 9443),
    **_all(_HTTP, 80, 3000, 4200, 5000, 5601, 5984, 7474, 8000, 8008, 8025, 8080, 8081),
    **_all(_HTTP, 8086, 8123, 8200, 8222, 8500, 8888, 9090, 9200, 15672, 16686),
}

_MYSQL = Image(Protocol.MYSQL, {33060: _TCP})
_POSTGRES = Image(_TCP)
_REDIS = Image(Protocol.REDIS, {8001: _HTTP})
_MONGO = Image(Protocol.MONGO)
_BYTES = Image(_TCP)
_WEB = Image(_HTTP, _all(_HTTPS, 443, 8443, 9443))
_KAFKA = Image(_TCP, _all(_HTTP, 8080, 8081, 8082, 8083, 9644))
_MAIL = Image(_TCP, _all(_HTTP, 80, 1080, 8025, 8080))
_SEARCH = Image(None, {9200: _HTTP, 9300: _TCP})
_MQTT = Image(_TCP, {**_all(_HTTP, 8081, 8083, 9001, 18083), 8084: _HTTPS})

_IMAGES: Mapping[str, Image] = {
    **dict.fromkeys(
        ("mysql", "mysql-server", "mariadb", "mariadb-galera", "percona"), _MYSQL
    ),
    **dict.fromkeys(("percona-server", "percona-xtradb-cluster"), _MYSQL),
    **dict.fromkeys(
        ("postgres", "postgresql", "postgis", "pgvector", "timescaledb", "pgbouncer"),
        _POSTGRES,
    ),
    **dict.fromkeys(("cockroach", "cockroachdb"), Image(_TCP, {8080: _HTTP})),
    **dict.fromkeys(
        ("redis", "valkey", "keydb", "dragonfly", "redis-sentinel", "redis-cluster"),
        _REDIS,
    ),
    **dict.fromkeys(("redis-stack", "redis-stack-server"), _REDIS),
    **dict.fromkeys(
        ("mongo", "mongodb", "mongodb-community-server", "percona-server-mongodb"),
        _MONGO,
    ),
    **dict.fromkeys(("memcached", "beanstalkd", "gearmand", "zeromq"), _BYTES),
    **dict.fromkeys(("mssql/server", "azure-sql-edge", "db2"), _BYTES),
    **dict.fromkeys(
        ("oracle-free", "oracle-xe", "database/free", "database/express"),
        Image(_TCP, {5500: _HTTPS, 8080: _HTTP}),
    ),
    "cassandra": _BYTES,
    "scylla": Image(_TCP, _all(_HTTP, 9180, 10000)),
    "neo4j": Image(None, {7473: _HTTPS, 7474: _HTTP, 7687: _TCP}),
    **dict.fromkeys(
        ("clickhouse", "clickhouse-server"),
        Image(_TCP, {**_all(_HTTP, 8123, 9363), 8443: _HTTPS, 9440: _TLS}),
    ),
    "rethinkdb": Image(_TCP, {8080: _HTTP}),
    **dict.fromkeys(("elasticsearch", "opensearch"), _SEARCH),
    **dict.fromkeys(("couchdb", "influxdb", "arangodb", "minio", "etcd"), _WEB),
    "rabbitmq": Image(_TCP, {15671: _HTTPS, **_all(_HTTP, 15672, 15692)}),
    **dict.fromkeys(("nats", "nats-streaming"), Image(_TCP, {8222: _HTTP})),
    **dict.fromkeys(("kafka", "cp-kafka", "cp-server", "redpanda"), _KAFKA),
    **dict.fromkeys(("zookeeper", "cp-zookeeper"), Image(_TCP, {8080: _HTTP})),
    **dict.fromkeys(
        ("activemq", "activemq-classic", "activemq-artemis"),
        Image(_TCP, {8161: _HTTP}),
    ),
    "pulsar": Image(_TCP, {8080: _HTTP}),
    **dict.fromkeys(("eclipse-mosquitto", "mosquitto", "emqx", "vernemq"), _MQTT),
    **dict.fromkeys(
        ("mailhog", "mailpit", "mailcatcher", "maildev", "smtp4dev", "greenmail"), _MAIL
    ),
    "inbucket": Image(_TCP, {9000: _HTTP}),
    **dict.fromkeys(("postfix", "smtp", "exim", "docker-mailserver"), _BYTES),
    **dict.fromkeys(("openssh-server", "sshd", "sftp", "rsync", "samba"), _BYTES),
    **dict.fromkeys(("vsftpd", "pure-ftpd", "ftpserver", "docker-pure-ftpd"), _BYTES),
    **dict.fromkeys(("openldap", "glauth"), _BYTES),
    **dict.fromkeys(("squid", "tinyproxy", "privoxy", "dante"), _BYTES),
    **dict.fromkeys(
        ("fluentd", "fluent-bit"), Image(None, {24224: _TCP, **_all(_HTTP, 2020, 9880)})
    ),
    "logstash": Image(_TCP, _all(_HTTP, 8080, 9600)),
    "consul": Image(_TCP, {8500: _HTTP, 8501: _HTTPS, 8502: Protocol.GRPC}),
    "vault": Image(None, {8200: _HTTP, 8201: _TLS}),
    "jenkins/jenkins": Image(None, {8080: _HTTP, 50000: _TCP}),
    "minecraft-server": _BYTES,
}
