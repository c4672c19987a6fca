"""Files of envoyproxy/ratelimit: what may stand in them, and where mistakes are."""

from __future__ import annotations

import pytest

from dockermesh.config.documents import read_text

CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata: {name: ratelimit-config, namespace: shop}
data:
  config.yaml: |
"""


def findings(*lines: str) -> list[str]:
    text = CONFIG_MAP + "".join(f"    {line}\n" for line in lines)
    return [str(f.message) for f in read_text(text).findings]


def test_the_config_map_of_istios_guide_is_a_kind_of_ours() -> None:
    text = CONFIG_MAP + "    domain: ratelimit\n"
    (resource,) = read_text(text).resources
    assert str(resource) == "RateLimitConfig shop/ratelimit-config"
    assert resource.document["kind"] == "RateLimitConfig"
    assert resource.document["spec"] == {
        "files": {"config.yaml": "domain: ratelimit\n"}
    }
    # Any other is not the mesh's.
    other = read_text(text.replace("ratelimit-config", "other"))
    assert not other.resources
    assert "not a resource of the mesh" in other.findings[0].message


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("domain: ''",), "line 1: domain: must not be empty"),
        (("descriptors: []",), "domain: is required"),
        (("a: [",), "line 2"),
        (("domain: a", "---", "domain: b"), "must be one document"),
        (
            (
                "domain: a",
                "descriptors:",
                "- {key: a, value: b}",
                "- {key: a, value: b}",
            ),
            "line 4: descriptors[1]: is there already",
        ),
        (
            (
                "domain: a",
                "descriptors:",
                "- key: a",
                "  rate_limit: {unit: fortnight}",
            ),
            "line 4: descriptors[0].rate_limit.unit: 'fortnight' is none of second,",
        ),
        (
            (
                "domain: a",
                "descriptors:",
                "- key: a",
                "  rate_limit: {unlimited: true, unit: day}",
            ),
            "must not say a unit or requests beside unlimited",
        ),
        (("domain: a", "descriptors:", "- value: a"), "key: is required"),
        (("domain: a", "descriptors:", "- {key: a, colour: red}"), "colour"),
    ],
)
def test_a_mistake_is_named_with_its_line(
    lines: tuple[str, ...], expected: str
) -> None:
    (found,) = findings(*lines)
    assert expected in found


def test_two_files_of_one_domain_are_refused() -> None:
    text = CONFIG_MAP + "    domain: a\n  other.yaml: 'domain: a'\n"
    (found,) = read_text(text).findings
    assert found.path == ("spec", "files", "other.yaml")
