"""The images that injected containers run, and the environment variables that replace them.

Invariant: the environment is read by the caller; the generator only sees an `Images`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dockermesh import __version__
from dockermesh.model.contract import ENV_POD_IMAGE, ENV_PROXY_IMAGE

ENVOY_VERSION = "1.40.0"


@dataclass(frozen=True, slots=True)
class Images:
    """Image references of the pod and of the proxy."""

    pod: str = f"dockermesh/pod:{__version__}"
    proxy: str = f"dockermesh/proxy:{ENVOY_VERSION}"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Images:
        """The images named in `environ`, else the defaults."""
        default = cls()
        return cls(
            pod=environ.get(ENV_POD_IMAGE) or default.pod,
            proxy=environ.get(ENV_PROXY_IMAGE) or default.proxy,
        )
