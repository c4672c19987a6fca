"""Which signals end a container."""

from __future__ import annotations

import re
import signal

from dockermesh.registrar.container import Container

_STOP_SIGNALS = frozenset(
    {signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM}
)


def is_stop_signal(container: Container, sent: str) -> bool:
    """Whether a container that got this signal is about to end; HUP and the like only make it
    reload.
    """
    number = _signal_number(sent)
    return number in _STOP_SIGNALS or (
        number > 0 and number == _signal_number(container.stop_signal)
    )


def _signal_number(text: str) -> int:
    if text.isdigit():
        return int(text)
    if match := re.fullmatch(r"(?:SIG)?RTMIN(?:\+(\d+))?", text.upper()):
        return int(signal.SIGRTMIN) + int(
            match[1] or 0
        )  # systemd's containers stop on RTMIN+3
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    return int(signal.Signals[name]) if name in signal.Signals.__members__ else 0
