"""What clients send that is no HTTP: counted by peer, without a trace.

aiohttp logs every broken request with its stack, so that one client could push everything else out
of the log. A mistake of ours keeps its stack.
"""

from __future__ import annotations

import logging
import ssl

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from dockermesh.runtime.repeats import Repeats

log = structlog.get_logger(__name__)

CLIENT_ERRORS = (
    HttpProcessingError,
    web.RequestPayloadError,
    ConnectionError,
    ssl.SSLError,
)
"""What can only come of what a client sent, or of its leaving."""
BROKEN = "a client sent what cannot be read"


def quiet_logger(repeats: Repeats) -> logging.Logger:
    """A logger for aiohttp's server."""
    # Not one of the tree's: nobody else's handlers get its records.
    logger = logging.Logger("dockermesh.http", logging.WARNING)
    logger.addHandler(_Handler(repeats))
    return logger


class _Handler(logging.Handler):
    def __init__(self, repeats: Repeats) -> None:
        super().__init__()
        self._repeats = repeats

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record of aiohttp's."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, CLIENT_ERRORS) or _is_of_a_closed_transport(error):
            # aiohttp names the peer where it has a request, and nothing else in this place.
            args = record.args if isinstance(record.args, tuple) else ()
            peer = str(args[0]) if args else ""
            self._repeats.note(BROKEN, peer, type(error).__name__)
        else:
            log.error("serving HTTP failed", what=record.getMessage(), exc_info=error)


def _is_of_a_closed_transport(error: BaseException | None) -> bool:
    # uvloop's word for a client that left while it was answered; asyncio has a ConnectionError.
    return isinstance(error, RuntimeError) and "the handler is closed" in str(error)
