"""The mesh's images: their references, and the environment variables that replace them.

Invariants: the environment is read by the caller, the generator only sees an `Images`; a reference
below `dockermesh/`, a name that we own on no registry, is never pulled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dockermesh import __version__

ENVOY_VERSION = "1.40.0"
CONSUL_VERSION = "1.8.7"
REGISTRY_VARIABLE = "DOCKERMESH_IMAGES_FROM"
OUR_PREFIX = "dockermesh"
TAGS = {
    "consul": CONSUL_VERSION,
    "control-plane": __version__,
    "pod": __version__,
    "proxy": ENVOY_VERSION,
}
"""Every image by name, with the tag of this version."""
ADDON_TAGS = {"prometheus": "2.42.0"}
"""The same of what no mesh needs, and `up --telemetry` starts beside it."""


def variable(name: str) -> str:
    """The variable that names another image in place of ours: `DOCKERMESH_POD_IMAGE` for `pod`."""
    return f"DOCKERMESH_{name.replace('-', '_').upper()}_IMAGE"


def reference(name: str, environ: Mapping[str, str]) -> str:
    """What an image is called: the user's own word, else our name in the registry that the user
    named, else our name.
    """
    prefix = environ.get(REGISTRY_VARIABLE, "").rstrip("/") or OUR_PREFIX
    return environ.get(variable(name)) or f"{prefix}/{name}:{(TAGS | ADDON_TAGS)[name]}"


def is_ours(image: str) -> bool:
    """Whether the image can only have been built or loaded: no registry may be asked for it."""
    return image.startswith(f"{OUR_PREFIX}/")


@dataclass(frozen=True, slots=True)
class Images:
    """Image references of the pod and of the proxy."""

    pod: str = reference("pod", {})
    proxy: str = reference("proxy", {})

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Images:
        """The images named in `environ`, else the defaults."""
        return cls(pod=reference("pod", environ), proxy=reference("proxy", environ))


def image_keys(image: str) -> dict[str, str]:
    """What a Compose service says about its image; for one that the user named, Compose decides
    when to pull.
    """
    return {"image": image} | ({"pull_policy": "never"} if is_ours(image) else {})
