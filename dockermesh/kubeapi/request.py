"""What a request of the config API asks for, read from its path, query, headers and body. Raises
StatusError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from dockermesh.config.loading import load_documents
from dockermesh.kubeapi.checking import IGNORE, STRICT, WARN, check_plain, parse_json
from dockermesh.kubeapi.history import Actor
from dockermesh.kubeapi.managed import APPLY, UPDATE, Manager
from dockermesh.kubeapi.objects import now
from dockermesh.kubeapi.protobuf import read_protobuf
from dockermesh.kubeapi.served import Served, find
from dockermesh.kubeapi.status import StatusError, Target, bad_request, unknown_path

JSON, YAML = "application/json", "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
MERGE_PATCH, JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"
_COMMANDS = {"POST": "create", "PUT": "replace", "PATCH": "patch", "DELETE": "delete"}
STRATEGIC_PATCH, APPLY_PATCH = (
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)


@dataclass(frozen=True, slots=True)
class Call:
    """A request for objects of a kind; `name` is empty for a collection, `namespace` for all
    namespaces.
    """

    served: Served
    version: str
    namespace: str
    name: str
    query: Mapping[str, str]
    agent: str
    actor: Actor

    @property
    def api_version(self) -> str:
        """`networking.istio.io/v1`."""
        return self.served.api_version(self.version)

    @property
    def key(self) -> str:
        """The store's key of the object."""
        return self.served.key(self.namespace, self.name)

    @property
    def prefix(self) -> str:
        """What the store's keys of the collection begin with."""
        return self.served.prefix + (
            f"{self.namespace}/" if self.namespace and self.served.namespaced else ""
        )

    @property
    def target(self) -> Target:
        """The object in messages."""
        return Target(
            self.served.group, self.served.plural, self.served.kind, self.name
        )

    @property
    def is_dry_run(self) -> bool:
        """Whether nothing may be stored."""
        return self.query.get("dryRun") == "All"

    @property
    def is_forced(self) -> bool:
        """Whether an apply may take over what others manage."""
        return self.query.get("force") in {"true", "1"}

    @property
    def validation(self) -> str:
        """What happens on unknown fields."""
        return self.query.get("fieldValidation") or WARN

    def place(self, document: dict[str, Any]) -> None:
        """Make the document say where the path puts it. Raises StatusError (400) if it says
        something else.
        """
        metadata = document["metadata"]
        if metadata.setdefault("name", self.name) != self.name:
            raise bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL"
                f" ({self.name})"
            )

        if not self.served.namespaced:
            metadata.pop("namespace", None)
            return
        if (metadata.get("namespace") or self.namespace) != self.namespace:
            raise bad_request(
                "the namespace of the provided object does not match the namespace sent on the"
                " request"
            )

        metadata["namespace"] = self.namespace

    def manager(self, operation: str = UPDATE) -> Manager:
        """Who makes the change."""
        # As in Kubernetes: `kubectl/v1.32 (linux/amd64)` manages as `kubectl`.
        name = (
            self.query.get("fieldManager") or self.agent.partition("/")[0] or "unknown"
        )
        return Manager(name[:128], operation, self.api_version, now())

    def applier(self) -> Manager:
        """Who applies: must be named."""
        if not self.query.get("fieldManager"):
            raise bad_request(
                "PatchOptions.meta.k8s.io is invalid: fieldManager: is required for apply patch"
            )
        return self.manager(APPLY)


def read_call(request: web.Request) -> Call:
    """The request, as far as its path and query say."""
    info = request.match_info
    served = find(
        info.get("group", ""),
        info.get("version", "v1"),
        info.get("plural", "namespaces"),
    )
    if served is None:
        raise unknown_path(request.path)
    if ("namespace" in info and not served.namespaced) or (
        "name" in info and "namespace" not in info
    ) != ("name" in info and not served.namespaced):
        raise unknown_path(request.path)

    query = request.query
    # Kubernetes knows no other value, and refuses to guess.
    if query.get("dryRun", "All") != "All":
        raise bad_request(
            f'dryRun: Unsupported value: {query["dryRun"][:40]!r}: supported values: "All"'
        )
    if query.get("fieldValidation", "") not in {"", STRICT, WARN, IGNORE}:
        raise bad_request(
            "fieldValidation: Unsupported value: supported values: Ignore, Strict, Warn"
        )

    manager = query.get("fieldManager", "")
    # Kubernetes' limit.
    if len(manager) > 128 or not manager.isprintable():
        raise bad_request(
            "fieldManager: must be printable, and not longer than 128 characters"
        )

    return Call(
        served,
        info.get("version", "v1"),
        info.get("namespace", ""),
        info.get("name", ""),
        dict(query),
        request.headers.get("User-Agent", ""),
        actor_of(request.headers, request.method),
    )


def actor_of(headers: Mapping[str, str], method: str) -> Actor:
    """Who sends a request. kubectl, and our command line, say which command it belongs to."""
    who = headers.get("User-Agent", "").partition("/")[0]
    command = headers.get("Kubectl-Command", "") or _COMMANDS.get(method, method)
    return Actor(
        printable(who) or "unknown",
        printable(command),
        printable(headers.get("Kubectl-Session", "")),
    )


def printable(text: str) -> str:
    """The text as it may be kept and shown."""
    return "".join(c for c in text if c.isprintable())[:128]


async def read_body(request: web.Request, *accepted: str) -> tuple[str, Any]:
    """The body's type, which must be one of `accepted`, and its data."""
    kind = request.content_type
    # aiohttp says so where the client says nothing.
    if kind == "application/octet-stream" and "Content-Type" not in request.headers:
        kind = accepted[0]
    if kind not in accepted:
        raise StatusError(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: "
            + ", ".join(accepted),
        )
    try:
        content = await request.read()
    except web.HTTPRequestEntityTooLarge:
        text = f"the body is larger than {request.client_max_size >> 20} MiB"
        raise StatusError(413, "RequestEntityTooLarge", text) from None

    if kind == PROTOBUF:
        return kind, read_protobuf(content)
    if kind in {YAML, APPLY_PATCH}:
        return kind, _yaml(content)

    return kind, parse_json(content)


def _yaml(text: bytes) -> Any:
    # Clients send JSON under this name, too; it is read much faster.
    if text[:1] == b"{":
        return parse_json(text)
    loaded = load_documents(text)
    mistakes = [m for d in loaded.documents for m in d.mistakes]
    if loaded.error is not None:
        mistakes.append(loaded.error)
    if mistakes:
        raise bad_request(
            f"the body is no valid YAML: line {mistakes[0].line}: {mistakes[0].message}"
        )
    if len(loaded.documents) != 1:
        raise bad_request(f"the body must be one document, not {len(loaded.documents)}")

    data = _plain(loaded.documents[0].data)
    check_plain(data)
    return data


def _plain(data: Any) -> Any:
    """Without the line numbers that the reader of YAML keeps."""
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    return [_plain(item) for item in data] if isinstance(data, list) else data
