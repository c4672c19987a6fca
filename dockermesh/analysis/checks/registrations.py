"""Registrations that the running mesh does not take as they ask to be."""

from __future__ import annotations

from collections.abc import Iterator

from dockermesh.analysis.context import Context
from dockermesh.analysis.messages import REFUSED
from dockermesh.config.findings import Finding


def refused(context: Context) -> Iterator[Finding]:
    """Registrations that ask for a name or an id which is another's."""
    for refusal in context.refused:
        yield Finding(
            level=REFUSED.level,
            message=REFUSED.text.format(refusal.sentence, refusal.fix),
            code=REFUSED.code,
            resource=f"Service {refusal.namespace}/{refusal.service}",
        )
