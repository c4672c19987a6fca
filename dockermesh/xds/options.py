"""How gRPC serves xDS: what a peer may cost, and when it is taken for gone."""

from __future__ import annotations

MAX_REQUEST_BYTES = 12 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),
    # Istio's figures: a peer that vanished without a word is missed within 40 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # No limit: a quiet mesh has nothing to send but pings.
    ("grpc.http2.max_pings_without_data", 0),
    # Proxies ping, too; more often than this gRPC takes it for abuse and hangs up.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Two control planes must not share a port by accident.
    ("grpc.so_reuseport", 0),
    # Who connects has to speak: by default a handshake may take two minutes, and a connection
    # without a stream may stay for ever.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 60_000),
    # A proxy has one.
    ("grpc.max_concurrent_streams", 8),
    # Measuring bandwidth costs a ping for every read; ACKs are small.
    ("grpc.http2.bdp_probe", 0),
)
