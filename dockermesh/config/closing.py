"""What stays in force of a stored policy that today's rules refuse. Pure.

It was accepted once: by an older version with laxer rules, by a newer one with more fields, or its
content is lost. Without it, what it guarded would be open. So the parts that cannot be read are
replaced by what lets nothing through.

Invariant: what is made here is valid, and lets nothing through that the policy did not. That holds
for policies that say who may come in, and for the settings that say where apps may go out; of other
kinds nothing is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from dockermesh.config.documents import read_document
from dockermesh.config.findings import Finding
from dockermesh.config.kinds import SECURITY, kind_named
from dockermesh.config.resource import Resource

Document = Mapping[str, Any]
_POLICY, _PEERS, _TOKENS = (
    "AuthorizationPolicy",
    "PeerAuthentication",
    "RequestAuthentication",
)
_DENY_ALL: Document = {"action": "DENY", "rules": [{}]}
_STRICT: Document = {"mtls": {"mode": "STRICT"}}
_SELECTION = ("selector", "targetRef", "targetRefs")
_NEED_RULES = ("DENY", "CUSTOM")
_SETTINGS = ("MeshConfig", "Sidecar")
_WAY_OUT = "outboundTrafficPolicy"
_NO_WAY_OUT: Document = {"mode": "REGISTRY_ONLY"}
_DRY_RUN = "istio.io/dry-run"
_OLDEST = "0"
"""As a creation time: of two PeerAuthentications for the same workloads the oldest counts."""


def closes(kind: str) -> bool:
    """Whether something has to stay in force of a resource of this kind."""
    found = kind_named(kind)
    return found is not None and found.group == SECURITY


def closed(
    kind: str, namespace: str, name: str, document: Document | None
) -> Resource[Any] | None:
    """What stays in force of a policy that is not valid; None if it never kept anybody out.

    Without a document, because its content is lost, it may have selected all of its namespace.
    """
    is_kept_in_part = kind in _SETTINGS and document is not None
    if not closes(kind) and not is_kept_in_part:
        return None
    spec = document.get("spec") if document is not None else None
    if kind == _POLICY and document is not None and _decides_nothing(document):
        return None
    metadata = {"name": name, "namespace": namespace}
    if kind == _PEERS:
        metadata["creationTimestamp"] = _OLDEST
    made_of = _POLICY if kind == _TOKENS else kind
    found = kind_named(made_of)
    assert found is not None

    for candidate in _candidates(kind, spec, _errors(document)):
        envelope = {"apiVersion": found.api_version, "kind": made_of}
        reading = read_document({**envelope, "metadata": metadata, "spec": candidate})
        for resource in reading.resources:
            # No policy of the user's can have this name.
            return (
                replace(resource, name=f"{kind} {name}")
                if kind == _TOKENS
                else resource
            )
    return None


def _errors(document: Document | None) -> list[Finding]:
    if document is None:
        return []
    return [f for f in read_document(document).findings if f.is_error]


def _decides_nothing(document: Document) -> bool:
    """Whether it only reports, or has no rules for an action that needs some."""
    spec, metadata = document.get("spec"), document.get("metadata")
    if not isinstance(spec, Mapping):
        return False
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    is_dry = isinstance(annotations, Mapping) and annotations.get(_DRY_RUN) == "true"
    action, has_rules = spec.get("action", "ALLOW"), spec.get("rules") not in (None, [])
    return is_dry or action == "AUDIT" or (action in _NEED_RULES and not has_rules)


def _candidates(kind: str, spec: Any, errors: Iterable[Finding]) -> Iterator[Document]:
    """Specs, each tighter than the one before; the first that is valid counts."""
    if kind in _SETTINGS:
        yield from _valid_parts(spec, errors)
        return
    tight = _STRICT if kind == _PEERS else _DENY_ALL
    if isinstance(spec, Mapping):
        if kind == _POLICY:
            yield from _with_closed_rules(spec, errors)
        yield {**{name: spec[name] for name in _SELECTION if name in spec}, **tight}
    yield tight


def _with_closed_rules(spec: Document, errors: Iterable[Finding]) -> Iterator[Document]:
    """The policy with what is wrong in single rules replaced, if nothing else is wrong."""
    places = [f.path for f in errors if f.path[:1] == ("spec",)]
    if not all(p[:2] == ("spec", "rules") and len(p) > 2 for p in places):
        return
    wrong = {p[2] for p in places}
    if spec.get("action", "ALLOW") == "ALLOW":
        rules = [r for n, r in enumerate(spec.get("rules", ())) if n not in wrong]
    else:
        rules = [{} if n in wrong else r for n, r in enumerate(spec.get("rules", ()))]
    yield {**spec, "rules": rules}


def _valid_parts(spec: Any, errors: Iterable[Finding]) -> Iterator[Document]:
    """The settings without those that are wrong. Where apps may go out is never more than it was:
    what cannot be read of that leads to the mesh alone.
    """
    if not isinstance(spec, Mapping):
        return
    wrong = {f.path[1] for f in errors if len(f.path) > 1}
    kept = {name: value for name, value in spec.items() if name not in wrong}
    yield kept | ({_WAY_OUT: _NO_WAY_OUT} if _WAY_OUT in wrong else {})
    # What is wrong with them together cannot be told apart.
    yield {_WAY_OUT: spec[_WAY_OUT]} if _WAY_OUT in kept else {_WAY_OUT: _NO_WAY_OUT}
