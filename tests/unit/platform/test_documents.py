"""What strangers read first is short, and every link in it leads somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def _documents() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]


def _anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", _FENCE.sub("", text), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
    }


@pytest.mark.parametrize(
    "document", _documents(), ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(
    document: Path,
) -> None:
    for link in _LINK.findall(_FENCE.sub("", document.read_text())):
        if link.startswith(("http://", "https://", "mailto:")):
            continue

        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in _anchors(target.read_text()), f"{link}: no such heading"


@pytest.mark.parametrize(
    ("name", "most"), [("README.md", 900), ("ARCHITECTURE.md", 1500)]
)
def test_what_strangers_read_first_is_short(name: str, most: int) -> None:
    assert len((ROOT / name).read_text().split()) <= most


def test_readme_begins_with_the_two_commands() -> None:
    commands = (ROOT / "README.md").read_text().partition("```sh\n")[2].splitlines()[:2]
    assert [line.partition("#")[0].strip() for line in commands] == [
        "make demo",
        "make test",
    ]
