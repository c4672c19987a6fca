"""Logs of the daemons: one line per event on stderr, as text or JSON."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure_logging(form: str = "text", level: int = logging.INFO) -> None:
    """Send structlog's events to stderr; colour only on a terminal."""
    if form == "json":
        renderer: Any = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
