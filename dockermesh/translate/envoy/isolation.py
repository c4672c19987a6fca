"""One bad resource costs only itself: what translation may fail with, and the check of what it
made.

A resource that validates can still become something that Envoy refuses, and Envoy would then refuse
all that comes with it. So whatever users' rules had a part in is checked against Envoy's own rules
before it is used.
"""

from __future__ import annotations

from typing import Any

from dockermesh.translate.envoy.constraints import violation

TRANSLATION_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What making or filling a message can raise when a value does not fit; anything else is a fault of
ours.
"""


class Unsound(ValueError):
    """A message that Envoy would refuse."""


def sound(message: Any) -> Any:
    """The message itself. Raises Unsound if Envoy would refuse it."""
    broken = violation(message)
    if broken:
        raise Unsound(broken)
    return message
