"""Path templates: Envoy's (`/a/*/**`, `/a/{id}`), and Istio's in policies (`/a/{*}/{**}`).

Invariant: what `check_template` lets pass, Envoy takes; it takes a little more (a wildcard within a
segment). That is the safe side: in a rule of RBAC, Envoy 1.40 crashes at a template that it cannot
read.

Sources: Envoy's `source/extensions/path/uri_template_lib`, Istio's `pkg/config/security`.
"""

from __future__ import annotations

import re

_LONGEST = 256
_MOST_VARIABLES = 5
_LITERAL = r"[A-Za-z0-9\-._~%!$&'()+,;:@]+"
_WILDCARD = r"\*\*?"
_PART = rf"(?:{_WILDCARD}|{_LITERAL})"
_VARIABLE = rf"\{{[A-Za-z][A-Za-z0-9_]{{0,15}}(?:={_PART}(?:/{_PART})*)?\}}"
_SEGMENT = rf"(?:{_VARIABLE}|{_PART})"
# Text right after a wildcard or a variable is its suffix, with which a template ends.
_TEMPLATE = re.compile(rf"/(?:{_SEGMENT}(?:/{_SEGMENT})*(?:/|(?<=[*}}]){_LITERAL})?)?")
_OPERATORS = frozenset({"{*}", "{**}"})
_PLAIN = re.compile(r"[A-Za-z0-9\-._~%!$&'()+,;:@=]+")
_NAMES = re.compile(r"\{(\w+)")
_WILDCARDS = re.compile(rf"\{{\w+\}}|{_WILDCARD}")


def check_template(template: str) -> str:
    """What Envoy could have against a path template, or nothing."""
    if not 1 <= len(template.encode("utf-8", "surrogatepass")) <= _LONGEST:
        return f"must have 1 to {_LONGEST} characters"
    if not _TEMPLATE.fullmatch(template):
        return f"{template[:80]!r} is no path template"

    names = _NAMES.findall(template)
    if len(names) > _MOST_VARIABLES or len(set(names)) != len(names):
        return f"must have at most {_MOST_VARIABLES} variables, of different names"
    if "**" in _WILDCARDS.findall(template)[:-1]:
        return "must have no wildcard after **"
    return ""


def check_policy_path(path: str) -> str:
    """What Istio has against a path of an AuthorizationPolicy, or nothing."""
    segments = path.strip("/").split("/")
    if any("{" in s or "}" in s for s in segments if s not in _OPERATORS):
        return f"path {path[:80]!r}: braces are for the segments {{*}} and {{**}} alone"
    if not _OPERATORS & set(segments):
        return ""

    operators = [s for s in segments if s in _OPERATORS]
    if "{**}" in operators[:-1]:
        return f"path template {path[:80]!r} must have no operator after {{**}}"

    wrong = (s for s in segments if s not in _OPERATORS and not _PLAIN.fullmatch(s))
    segment = next(wrong, None)
    return (
        ""
        if segment is None
        else f"path template {path[:80]!r}: {segment[:40]!r} is no plain segment of a path"
    )
