"""A Compose project to its meshed form, and the capture rules of its pods.

Invariant: everything here is pure; loading projects is `engine/`'s, files and the terminal are
`cli/`'s.
"""

from dockermesh.inject.images import ENVOY_VERSION, TAGS, Images, is_ours, reference, variable
from dockermesh.inject.options import Injection, InjectOptions, Notice, PortMapping
from dockermesh.inject.project import inject_project

__all__ = [
    "ENVOY_VERSION",
    "TAGS",
    "Images",
    "InjectOptions",
    "Injection",
    "Notice",
    "PortMapping",
    "inject_project",
    "is_ours",
    "reference",
    "variable",
]
