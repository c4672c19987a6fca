"""How much of a stream's body may be on its way over HTTP/2 before somebody takes it.

A window that is too narrow slows one large body down: it carries a window per round trip. One that
is too wide lets whoever does not read fill memory, and, as all streams of a connection share its
window, keeps the others waiting. So the connection's has room for what all streams together may
have unread: however many of them nobody reads, the others go on.
"""

from __future__ import annotations

from envoy.config.core.v3 import protocol_pb2

from dockermesh.translate.envoy.packing import boolean, uint32

STREAM_WINDOW = 4 * 2**20
"""Bytes; about what Linux lets a TCP connection grow to."""
_CONNECTION_WINDOW = 2**31 - 1
"""HTTP/2 has no greater one. It is a number that is counted down, no memory."""
MOST_STREAMS = _CONNECTION_WINDOW // STREAM_WINDOW // 2
"""Of one connection: another one is opened for more."""


def set_windows(options: protocol_pb2.Http2ProtocolOptions) -> None:
    """Set the windows of a stream and of its connection."""
    options.initial_stream_window_size.CopyFrom(uint32(STREAM_WINDOW))
    options.initial_connection_window_size.CopyFrom(uint32(_CONNECTION_WINDOW))
    # Else one message that HTTP/2 does not allow would end all requests of its connection.
    options.override_stream_error_on_invalid_http_message.CopyFrom(boolean(True))
