"""Documents to typed resources: the envelope (`apiVersion`, `kind`, `metadata`), then the spec.

`read_text` is the way in for files, `read_document` for documents that come as data (the API,
Consul). Both return what could be read together with all findings; a resource is only there if no
finding is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from dockermesh.config.decode import (
    NOT_UNICODE,
    decode,
    describe,
    is_unicode,
    unknown_field,
)
from dockermesh.config.findings import (
    UNKNOWN_FIELD,
    Cursor,
    Finding,
    Findings,
    Level,
    Touched,
)
from dockermesh.config.kinds import (
    KINDS,
    MESH_CONFIG,
    Kind,
    is_mesh_group,
    is_mixers,
    kind_named,
    replacement_of,
)
from dockermesh.config.loading import Mistake, RawDocument, line_of, load_documents
from dockermesh.config.resource import DEFAULT_NAMESPACE, Location, Resource
from dockermesh.model.contract import SYSTEM_NAMESPACE

_SUBDOMAIN = re.compile(
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DRY_RUN = "istio.io/dry-run"
_ALWAYS_REJECT = "internal.istio.io/webhook-always-reject"
LIMITS_CONFIG_MAP = "ratelimit-config"
_ENVELOPE = ("apiVersion", "kind", "metadata", "spec", "status")


@dataclass(frozen=True, slots=True)
class Reading:
    """The valid resources of a text, and what was found in all of it.

    `rejected` are resources with errors, as far as they could be read: for analysis only, never to
    be used.
    """

    resources: tuple[Resource[Any], ...]
    findings: tuple[Finding, ...]
    rejected: tuple[Resource[Any], ...] = ()

    @property
    def is_valid(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.is_error for finding in self.findings)


def read_text(
    text: str | bytes, file: str = "", namespace: str = DEFAULT_NAMESPACE
) -> Reading:
    """Every resource in YAML or JSON; `namespace` is for those that name none."""
    loaded = load_documents(text)
    resources: list[Resource[Any]] = []
    findings: list[Finding] = []
    for document in loaded.documents:
        reading = _read_raw(document, file, namespace)
        resources.extend(reading.resources)
        findings.extend(reading.findings)
    if loaded.error is not None:
        findings.append(finding_of(loaded.error, file))
    return Reading(tuple(resources), tuple(findings))


def read_document(
    data: Any, file: str = "", namespace: str = DEFAULT_NAMESPACE
) -> Reading:
    """The resource in one document; a `List` may hold several."""
    return _read_raw(RawDocument(data, int(getattr(data, "line", 0))), file, namespace)


def _read_raw(document: RawDocument, file: str, namespace: str) -> Reading:
    resources: list[Resource[Any]] = []
    rejected: list[Resource[Any]] = []
    findings: list[Finding] = []
    for path, data in listed(document.data):
        own = Findings()
        line = line_of(document.data, path)
        resource = _read_resource(data, Location(file, line), namespace, own)

        title = str(resource) if resource is not None else _title(data, namespace)
        found = [
            replace(
                finding,
                path=(*path, *finding.path),
                resource=title,
                file=file,
                line=line_of(data, finding.path) or line,
            )
            for finding in own.found
        ]
        # In the order of the file, which is how people repair it.
        findings.extend(sorted(found, key=lambda finding: finding.line))

        if resource is not None:
            is_valid = not _has_errors(found) and not document.mistakes
            (resources if is_valid else rejected).append(resource)

    title = _title(document.data, namespace) if document.mistakes else ""
    findings.extend(finding_of(mistake, file, title) for mistake in document.mistakes)
    return Reading(tuple(resources), tuple(findings), tuple(rejected))


def _has_errors(findings: Iterable[Finding]) -> bool:
    return any(finding.is_error for finding in findings)


def finding_of(mistake: Mistake, file: str, resource: str = "") -> Finding:
    """What is said about a mistake in a file."""
    return Finding(
        Level.ERROR, mistake.message, resource=resource, file=file, line=mistake.line
    )


def listed(data: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The objects of a document, each with its place: those of a `List`, else the document
    itself.
    """
    # `kubectl get -o yaml` writes a List as soon as there are several objects.
    items = (
        data.get("items")
        if isinstance(data, dict) and str(data.get("kind", "")).endswith("List")
        else None
    )
    if isinstance(items, list):
        for index, item in enumerate(items):
            yield ("items", index), item
    else:
        yield (), data


def _title(data: Any, namespace: str) -> str:
    """`Kind namespace/name` as far as the document tells."""
    if not isinstance(data, dict):
        return ""
    metadata = data.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = metadata.get("name") or metadata.get("generateName") or "?"
    return f"{data.get('kind') or '?'} {metadata.get('namespace') or namespace}/{name}"


def _read_resource(
    data: Any, location: Location, namespace: str, findings: Findings
) -> Resource[Any] | None:
    root = findings.at()
    if not isinstance(data, dict):
        root.error(
            "a resource must be a mapping with apiVersion, kind, metadata and spec, not"
            f" {describe(data)}"
        )
        return None

    if _is_limiter_file(data):
        data = _as_limit_config(data)
    kind = _kind(data, root)
    if kind is None:
        return None

    if kind is MESH_CONFIG:
        data = _as_resource(data, kind)
    for key in data:
        if key not in _ENVELOPE:
            (root / key).error(unknown_field(key, _ENVELOPE), UNKNOWN_FIELD)

    envelope = _metadata(data.get("metadata"), root / "metadata", namespace)
    spec = data.get("spec")
    resource = Resource(
        kind=kind.name,
        api_version=data["apiVersion"],
        spec=decode(kind.spec_class(), {} if spec is None else spec, root / "spec"),
        location=location,
        document=data,
        **envelope,
    )
    _check(resource, kind, findings)
    return resource


def _check(resource: Resource[Any], kind: Kind, findings: Findings) -> None:
    """Apply the kind's rules; what they say about a field that could not be decoded is a
    consequence, so left out.
    """
    _check_annotations(resource, findings)
    before = len(findings.found)
    undecoded = Touched(findings.found)
    kind.check()(resource, findings.at("spec"))
    # A field that could not be decoded has its default now, about which rules complain.
    findings.found[before:] = [
        f for f in findings.found[before:] if f.path not in undecoded
    ]


def _check_annotations(resource: Resource[Any], findings: Findings) -> None:
    """Annotations that change how a resource is understood."""
    if _DRY_RUN in resource.annotations and resource.kind != "AuthorizationPolicy":
        findings.at("metadata", "annotations", _DRY_RUN).error(
            "is only supported for AuthorizationPolicy"
        )
    if _ALWAYS_REJECT in resource.annotations:
        findings.at("metadata", "annotations", _ALWAYS_REJECT).error(
            "asks for the resource to be rejected"
        )


def _is_limiter_file(data: dict[str, Any]) -> bool:
    """Whether it is the ConfigMap from which `envoyproxy/ratelimit` has its limits in a cluster."""
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return (data.get("apiVersion"), data.get("kind"), name) == (
        "v1",
        "ConfigMap",
        LIMITS_CONFIG_MAP,
    )


def _as_limit_config(data: dict[str, Any]) -> dict[str, Any]:
    """The ConfigMap as the kind of ours that says the same."""
    kind = kind_named("RateLimitConfig")
    assert kind is not None
    rest = {key: value for key, value in data.items() if key != "data"}
    names = {"apiVersion": kind.api_version, "kind": kind.name}
    return {**rest, **names, "spec": {"files": data.get("data")}}


def _as_resource(data: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """A MeshConfig with the envelope of a resource: in Istio's ConfigMap it has none, and its
    settings at the top.
    """
    if "spec" not in data:
        spec = {key: value for key, value in data.items() if key not in _ENVELOPE}
        data = {key: value for key, value in data.items() if key in _ENVELOPE} | {
            "spec": spec
        }
    metadata = data.get("metadata")
    named = (
        {"name": "default", "namespace": SYSTEM_NAMESPACE}
        if metadata is None
        else metadata
    )
    return {**data, "apiVersion": kind.api_version, "metadata": named}


def _kind(data: dict[str, Any], root: Cursor) -> Kind | None:
    api_version, name = data.get("apiVersion"), data.get("kind")
    if not isinstance(name, str) or not name:
        (root / "kind").missing("is required, for example VirtualService")
        return None
    kind = kind_named(name)
    if kind is MESH_CONFIG:
        return kind
    if not isinstance(api_version, str) or not api_version:
        example = kind.api_version if kind is not None else "networking.istio.io/v1"
        (root / "apiVersion").missing(f"is required, for example {example}")
        return None
    if kind is not None and kind.accepts(api_version):
        return kind

    _refuse(api_version, name, kind, root)
    return None


def _refuse(api_version: str, name: str, kind: Kind | None, root: Cursor) -> None:
    group = api_version.partition("/")[0]
    replacement = replacement_of(group, name)
    # Whoever follows an old page should be told what the page means today.
    if replacement:
        way = "; `dockermesh convert` translates it" if is_mixers(group, name) else ""
        (root / "kind").error(
            f"{name} of {group} is no longer part of Istio; use {replacement}{way}"
        )
    elif kind is not None and kind.group == group:
        versions = ", ".join(f"{kind.group}/{version}" for version in kind.versions)
        (root / "apiVersion").error(
            f"{name} has no version {api_version!r}; use one of {versions}"
        )
    elif is_mesh_group(group):
        if kind is not None:
            (root / "apiVersion").error(
                f"{name} is in {kind.group}, not in {group}; use {kind.api_version}"
            )
        else:
            (root / "kind").error(
                unknown_field(name, [k.name for k in KINDS]).replace("field", "kind")
            )
    else:
        (root / "kind").warn(
            f"{name} of {api_version} is not a resource of the mesh; it is ignored"
        )


def _metadata(raw: Any, at: Cursor, namespace: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        at.missing("is required: a mapping with at least a name")
        raw = {"name": "?"}
    return {
        "name": _name(raw, at / "name"),
        "namespace": _namespace(raw.get("namespace"), at / "namespace", namespace),
        "labels": _texts(raw.get("labels"), at / "labels"),
        "annotations": _texts(raw.get("annotations"), at / "annotations"),
        "resource_version": str(raw.get("resourceVersion") or ""),
        "created": str(raw.get("creationTimestamp") or ""),
    }


def _name(raw: dict[str, Any], at: Cursor) -> str:
    # The server makes a valid name of `generateName`, which may end with a dash.
    name = raw.get("name") or raw.get("generateName")
    if not isinstance(name, str):
        at.missing()
        return "?"
    if raw.get("name") and not (_SUBDOMAIN.fullmatch(name) and len(name) <= 253):
        at.error(
            f"{name[:80]!r} is not a valid name: lower-case letters, digits, '-' and '.'"
        )
    return name


def _namespace(raw: Any, at: Cursor, default: str) -> str:
    space = default if raw in (None, "") else raw
    if not isinstance(space, str) or not _LABEL.fullmatch(space) or len(space) > 63:
        at.error(
            f"{describe(space)} is not a valid namespace: lower-case letters, digits and '-'"
        )
        return default
    return space


def _texts(raw: Any, at: Cursor) -> dict[str, str]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        at.error(f"must be a mapping, not {describe(raw)}")
        return {}
    for key, value in raw.items():
        if not isinstance(value, str):
            (at / key).error(f"must be a text, not {describe(value)}; quote it")
        elif not is_unicode(value) or not is_unicode(str(key)):
            (at / key).error(NOT_UNICODE)
    return {key: value for key, value in raw.items() if isinstance(value, str)}
