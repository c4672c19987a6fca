"""Writes the tables of docs/shared-names.md and ARCHITECTURE.md from
`dockermesh/model/contract.py`.

Run `python scripts/contract.py`; a unit test fails while the two differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dockermesh.model.contract import ENTRIES, Section

BEGIN = "<!-- made by scripts/contract.py: begin -->\n"
END = "<!-- made by scripts/contract.py: end -->\n"


DOCUMENTS = {
    "docs/shared-names.md": tuple(Section),
    "ARCHITECTURE.md": (Section.PORTS,),
}
"""The sections that each has."""


def tables(sections: Iterable[Section]) -> str:
    """Sections in markdown, each with its names and what they mean."""
    return "\n".join(_table(section) for section in sections)


def _table(section: Section) -> str:
    own = [entry for entry in ENTRIES if entry.section is section]
    lines = [f"| `{entry.value}` | {entry.meaning} |" for entry in own]
    return "\n".join([f"| {section.value} | |", "|---|---|", *lines]) + "\n"


def with_tables(text: str, sections: Iterable[Section]) -> str:
    """The document with the tables of today. Raises ValueError where it has no place for them."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(
            f"the document has no lines {BEGIN.strip()!r} and {END.strip()!r}"
        )
    return f"{before}{BEGIN}\n{tables(sections)}\n{END}{after}"


if __name__ == "__main__":
    for name, sections in DOCUMENTS.items():
        file = Path(__file__).parents[1] / name
        file.write_text(with_tables(file.read_text(), sections))
