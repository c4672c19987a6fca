"""Which images are run, under which references, and which of them may be pulled."""

from __future__ import annotations

import pytest

from dockermesh.inject.images import (
    TAGS,
    Images,
    image_keys,
    is_ours,
    reference,
    variable,
)


def test_ours_have_our_names_and_are_never_pulled() -> None:
    for name, tag in TAGS.items():
        assert reference(name, {}) == f"dockermesh/{name}:{tag}"
        assert is_ours(reference(name, {}))
        assert image_keys(reference(name, {}))["pull_policy"] == "never"


@pytest.mark.parametrize("prefix", ["registry.example/mesh", "registry.example/mesh/"])
def test_a_registry_of_the_users_has_all_of_them_with_this_versions_tags(
    prefix: str,
) -> None:
    environ = {"DOCKERMESH_IMAGES_FROM": prefix}
    for name, tag in TAGS.items():
        image = reference(name, environ)
        assert image == f"registry.example/mesh/{name}:{tag}"
        assert "pull_policy" not in image_keys(image), (
            "Compose decides, as for any other image"
        )


def test_an_image_by_name_wins_over_the_registry() -> None:
    environ = {
        "DOCKERMESH_IMAGES_FROM": "registry.example/mesh",
        variable("pod"): "own/pod:1",
    }
    images = Images.from_environment(environ)
    assert images.pod == "own/pod:1"
    assert images.proxy == f"registry.example/mesh/proxy:{TAGS['proxy']}"


def test_a_name_that_only_begins_like_ours_is_not_ours() -> None:
    assert not is_ours("dockermesh.example/pod:1")
    assert not is_ours("dockermesh-pod:1")
