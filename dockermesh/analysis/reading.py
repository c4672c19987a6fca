"""Files to objects: Istio's resources as validation reads them, Kubernetes' as they are.

A resource that does not validate is still an object for the analyzers, as far as it could be read:
other resources may refer to it, and one mistake should not hide the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dockermesh.analysis.objects import CLUSTER_SCOPED, AnalyzedObject, texts
from dockermesh.config.documents import finding_of, listed, read_document
from dockermesh.config.findings import Finding
from dockermesh.config.kinds import MESH_CONFIG, is_mesh_group
from dockermesh.config.loading import line_of, load_documents
from dockermesh.config.resource import DEFAULT_NAMESPACE, Resource
from dockermesh.model.contract import SYSTEM_NAMESPACE

_IGNORED_NAMESPACES = frozenset(
    {"kube-system", "kube-public", "kube-node-lease", "local-path-storage"}
)
"""Where Istio looks at nothing of Kubernetes."""
_MESH_NETWORKS = ("MeshNetworks", "meshnetworks", SYSTEM_NAMESPACE)


def read_items(
    sources: Iterable[tuple[str, str | bytes]], namespace: str = DEFAULT_NAMESPACE
) -> tuple[tuple[AnalyzedObject, ...], tuple[Finding, ...]]:
    """The objects of files (pairs of name and text), and what validation says about them."""
    items: list[AnalyzedObject] = []
    findings: list[Finding] = []
    for file, text in sources:
        loaded = load_documents(text)
        for document in loaded.documents:
            for path, data in listed(document.data):
                line = line_of(document.data, path) or document.line
                items.extend(_object(data, file, line, namespace, findings))
            findings.extend(finding_of(mistake, file) for mistake in document.mistakes)
        if loaded.error is not None:
            findings.append(finding_of(loaded.error, file))

    return tuple(items), tuple(findings)


def item_of(resource: Resource[Any]) -> AnalyzedObject:
    """A resource that was read already."""
    return AnalyzedObject(
        kind=resource.kind,
        group=resource.api_version.partition("/")[0],
        name=resource.name,
        namespace=resource.namespace,
        labels=resource.labels,
        annotations=resource.annotations,
        body=resource.document,
        file=resource.location.file,
        line=resource.location.line,
        spec=resource.spec,
    )


def _object(
    data: Any, file: str, line: int, namespace: str, findings: list[Finding]
) -> Iterator[AnalyzedObject]:
    # Istio keeps mesh networks in a ConfigMap, so that their file has no kind.
    if isinstance(data, Mapping) and set(data) == {"networks"}:
        kind, name, space = _MESH_NETWORKS
        yield AnalyzedObject(kind, "", name, space, body=data, file=file, line=line)
        return
    if not _is_kubernetes(data):
        reading = read_document(data, file, namespace)
        findings.extend(reading.findings)
        for resource in (*reading.resources, *reading.rejected):
            yield item_of(resource)
        return

    item = _kubernetes_object(data, file, line, namespace)
    space = item.name if item.kind == "Namespace" else item.namespace
    if space not in _IGNORED_NAMESPACES:
        yield item


def _kubernetes_object(
    data: Mapping[str, Any], file: str, line: int, namespace: str
) -> AnalyzedObject:
    metadata = data.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    kind = str(data["kind"])
    space = (
        "" if kind in CLUSTER_SCOPED else str(metadata.get("namespace") or namespace)
    )
    return AnalyzedObject(
        kind=kind,
        group=_group(data),
        # An object that is to be created is judged as well; it has no name yet.
        name=str(metadata.get("name") or metadata.get("generateName") or "?"),
        namespace=space,
        labels=texts(metadata.get("labels")),
        annotations=texts(metadata.get("annotations")),
        body=data,
        file=file,
        line=line,
    )


def _is_kubernetes(data: Any) -> bool:
    """Whether the document is an object that is none of the mesh's."""
    if (
        not isinstance(data, Mapping)
        or not isinstance(data.get("kind"), str)
        or data["kind"] == MESH_CONFIG.name
    ):
        return False
    version = data.get("apiVersion")
    return (
        isinstance(version, str) and bool(version) and not is_mesh_group(_group(data))
    )


def _group(data: Mapping[str, Any]) -> str:
    group, slash, _ = str(data.get("apiVersion") or "").partition("/")
    return group if slash else ""


def read_mesh_config(text: str | bytes) -> tuple[Mapping[str, Any], str]:
    """Istio's MeshConfig and why it cannot be read (else empty).

    It may be the bare settings, a document of kind MeshConfig, or Istio's ConfigMap with the
    settings under `mesh`.
    """
    loaded = load_documents(text)
    if loaded.error is not None:
        return {}, f"line {loaded.error.line}: {loaded.error.message}"
    data: Any = loaded.documents[0].data if loaded.documents else {}
    # `kubectl -n istio-system get configmap istio -o yaml` gives it so.
    if isinstance(data, Mapping) and data.get("kind") == "ConfigMap":
        settings = data.get("data")
        nested = settings.get("mesh") if isinstance(settings, Mapping) else None
        return (
            read_mesh_config(nested)
            if isinstance(nested, str)
            else ({}, "the ConfigMap has no key `mesh`")
        )

    if isinstance(data, Mapping) and isinstance(data.get("spec"), Mapping):
        data = data["spec"]
    return (data, "") if isinstance(data, Mapping) else ({}, "must be a mapping")
