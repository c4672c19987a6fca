"""What our long-running processes have in common: logs on stderr, and an end by SIGTERM or
SIGINT.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import structlog

TEXT, JSON = "text", "json"


def configure_logging(form: str = TEXT, level: int = logging.INFO) -> None:
    """Send structlog's events to stderr, one line each; colour only on a terminal."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _renderer(form),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def default_form() -> str:
    """Text for people, JSON for machines: it escapes what containers put into names, so no line can
    be forged.
    """
    return TEXT if sys.stderr.isatty() else JSON


def on_stop(stop: Callable[[], object]) -> None:
    """Have `stop` called by the running loop when the process is told to end."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def _renderer(form: str) -> Any:
    if form == JSON:
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
