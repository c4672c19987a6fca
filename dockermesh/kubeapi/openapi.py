"""OpenAPI v3 of what is served, made from the typed API of `config/api`: what `kubectl explain` and
validation read.

Every kind has its schema with `x-kubernetes-group-version-kind`, and its PATCH says that it takes
`fieldValidation` and `dryRun`, by which kubectl knows that the server validates.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from dockermesh.config.fields import AtLeast, Length, Pattern, Range, json_name
from dockermesh.kubeapi.served import SECRET, Served, groups, in_version

_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_STATUS = "io.istio.api.meta.v1alpha1.IstioStatus"
_SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    timedelta: {"type": "string", "description": "A duration, such as 1.5s or 2m30s."},
}


_ANYTHING = {"x-kubernetes-preserve-unknown-fields": True}
"""Free-form data, such as Envoy's own messages in an EnvoyFilter."""


def index() -> dict[str, Any]:
    """`/openapi/v3`."""
    paths = [
        "api/v1",
        *(
            f"apis/{group}/{version}"
            for group, versions in groups().items()
            for version in versions
        ),
    ]
    return {
        "paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}
    }


@cache
def document(group: str, version: str) -> dict[str, Any]:
    """`/openapi/v3/apis/GROUP/VERSION`."""
    schemas: dict[str, Any] = {_META: _object_meta(), _STATUS: _status()}
    paths: dict[str, Any] = {}
    for served in in_version(group, version):
        name = f"{_package(group, version)}.{served.kind}"
        schemas[name] = _kind_schema(served, version)
        schemas[f"{name}List"] = _list_schema(served, version, name)
        paths |= _paths(served, version, name)
    info = {"title": "dockermesh", "version": "v1.32.0"}
    return {
        "openapi": "3.0.0",
        "info": info,
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _package(group: str, version: str) -> str:
    return (
        ".".join(reversed(group.split("."))) + f".{version}"
        if group
        else f"io.k8s.api.core.{version}"
    )


def _gvk(served: Served, version: str) -> dict[str, str]:
    return {"group": served.group, "version": version, "kind": served.kind}


def _kind_schema(served: Served, version: str) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "apiVersion": {
            "type": "string",
            "description": "The group and version of this representation of an object.",
        },
        "kind": {"type": "string", "description": "The kind of the object."},
        "metadata": {
            "allOf": [_ref(_META)],
            "default": {},
            "description": "Name, namespace, labels and versions.",
        },
        "status": {
            "allOf": [_ref(_STATUS)],
            "description": "Whether the mesh uses the object, and how far it is.",
        },
    }
    description = "A namespace: a scope of names."
    if served is SECRET:
        description = (
            "A credential: what a Gateway or DestinationRule names as credentialName."
        )
        texts = {"type": "object", "additionalProperties": {"type": "string"}}
        properties |= {
            "type": {"type": "string"},
            "immutable": {"type": "boolean"},
            "data": texts,
            "stringData": texts,
        }
        # A Secret has none.
        del properties["status"]

    if served.definition is not None:
        properties["spec"] = message_schema(served.definition.spec_class())
        description = properties["spec"].get("description", "")

    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "x-kubernetes-group-version-kind": [_gvk(served, version)],
    }


def _list_schema(served: Served, version: str, name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "items": {"type": "array", "items": _ref(name)},
        },
        "x-kubernetes-group-version-kind": [
            _gvk(served, version) | {"kind": f"{served.kind}List"}
        ],
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


# the typed API
# --------------------------------------------------------------------------------------------------


@cache
def message_schema(cls: Any) -> dict[str, Any]:
    """The schema of a dataclass."""
    hints = get_type_hints(cls, include_extras=True)
    properties = {json_name(f): _schema(hints[f.name]) for f in fields(cls)}
    required = [json_name(f) for f in fields(cls) if f.metadata.get("required")]
    schema: dict[str, Any] = {
        "type": "object",
        "description": _description(cls),
        "properties": properties,
    }
    return schema | {"required": required} if required else schema


def _description(cls: Any) -> str:
    return " ".join((inspect.getdoc(cls) or "").split())


def _schema(annotation: Any) -> dict[str, Any]:
    origin = get_origin(annotation)
    if origin is not None:
        return _generic_schema(origin, get_args(annotation))
    if annotation in _SCALARS:
        return dict(_SCALARS[annotation])
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        values = [member.value for member in annotation]
        # The words of Istio's own definitions.
        text = f"{_description(annotation)} Valid Options: {', '.join(values)}"
        return {"type": "string", "description": text, "enum": values}
    if is_dataclass(annotation):
        cls: Any = annotation
        return message_schema(cls)
    return dict(_ANYTHING)


def _generic_schema(origin: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
    if origin is Annotated:
        inner, *limits = arguments
        schema = _schema(inner)
        for limit in limits:
            schema = schema | _limit(limit, schema.get("type", ""))
        return schema
    if origin in (Union, types.UnionType):
        # `X | None`: an absent field, which OpenAPI says by not requiring it.
        return _schema(next(a for a in arguments if a is not types.NoneType))
    if origin is tuple:
        items = _schema(arguments[0])
        described = (
            {"description": items["description"]} if items.get("description") else {}
        )
        return {"type": "array", "items": items, **described}
    if issubclass(origin, Mapping):
        value = arguments[1]
        if value is Any:
            return {"type": "object", **_ANYTHING}
        return {"type": "object", "additionalProperties": _schema(value)}

    return dict(_ANYTHING)


def _limit(limit: Any, kind: str) -> dict[str, Any]:
    if isinstance(limit, Range):
        bounds = {"minimum": limit.low, "maximum": limit.high}
        return {word: bound for word, bound in bounds.items() if math.isfinite(bound)}
    if isinstance(limit, Pattern):
        return {"pattern": limit.expression}
    if isinstance(limit, AtLeast):
        return {
            "description": f"A duration of at least {limit.minimum.total_seconds():g}s."
        }
    if isinstance(limit, Length):
        # JSON Schema has a word of its own for each type.
        word = {"string": "Length", "array": "Items"}.get(kind, "Properties")
        found: dict[str, Any] = {f"min{word}": limit.low} if limit.low else {}
        return found | ({f"max{word}": limit.high} if limit.high < 2**31 else {})
    return {}


# paths
# --------------------------------------------------------------------------------------------------

_QUERY = {
    "dryRun": "All: nothing is stored",
    "fieldManager": "who makes the change",
    "fieldValidation": "Ignore, Warn or Strict: what happens on unknown fields",
}
_PATCHES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
)


def _paths(served: Served, version: str, name: str) -> dict[str, Any]:
    root = f"/apis/{served.group}/{version}" if served.group else f"/api/{version}"
    scope = f"{root}/namespaces/{{namespace}}" if served.namespaced else root
    collection = f"{scope}/{served.plural}"
    names = ("namespace", "name") if served.namespaced else ("name",)
    found = {
        collection: {
            "get": _operation(served, version, "list", f"{name}List"),
            "post": _operation(
                served, version, "post", name, body=("application/json",)
            ),
            "parameters": [_parameter(n) for n in names[:-1]],
        },
        f"{collection}/{{name}}": {
            "get": _operation(served, version, "get", name),
            "put": _operation(served, version, "put", name, body=("application/json",)),
            "patch": _operation(served, version, "patch", name, body=_PATCHES),
            "delete": _operation(served, version, "delete", name),
            "parameters": [_parameter(n) for n in names],
        },
    }

    if served.namespaced:
        found[f"{root}/{served.plural}"] = {
            "get": _operation(served, version, "list", f"{name}List")
        }

    return found


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _operation(
    served: Served, version: str, action: str, answer: str, body: tuple[str, ...] = ()
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(served, version),
        "responses": {
            "200": {
                "description": "OK",
                "content": {"application/json": {"schema": _ref(answer)}},
            }
        },
    }
    if body:
        operation["requestBody"] = {
            "content": {kind: {"schema": _ref(answer)} for kind in body}
        }
        operation["parameters"] = [
            {
                "name": n,
                "in": "query",
                "description": d,
                "schema": {"type": "string", "uniqueItems": True},
            }
            for n, d in _QUERY.items()
        ]

    return operation


def _object_meta() -> dict[str, Any]:
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    words = (
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    )
    properties: dict[str, Any] = {word: {"type": "string"} for word in words}
    properties |= {
        "labels": texts,
        "annotations": texts,
        "generation": {"type": "integer"},
    }
    managed = {
        "type": "array",
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    }
    return {
        "type": "object",
        "description": "What all objects have.",
        "properties": properties | {"managedFields": managed},
    }


def _status() -> dict[str, Any]:
    words = ("type", "status", "reason", "message", "lastTransitionTime")
    condition = {
        "type": "object",
        "description": "One aspect of the object's state: Accepted, Programmed.",
        "properties": (
            {word: {"type": "string"} for word in words}
            | {"observedGeneration": {"type": "integer"}}
        ),
    }
    return {
        "type": "object",
        "description": "What the mesh makes of the object.",
        "properties": {
            "conditions": {"type": "array", "items": condition},
            "observedGeneration": {"type": "integer"},
            "phase": {"type": "string"},
        },
    }
