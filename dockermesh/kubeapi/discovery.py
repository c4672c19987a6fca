"""Discovery: which groups, versions and kinds there are, in plain JSON that every kubectl
understands.
"""

from __future__ import annotations

from typing import Any

from dockermesh.kubeapi.served import Served, groups, in_version

VERBS = (
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
)


def core_versions(address: str) -> dict[str, Any]:
    """`/api`."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [
            {"clientCIDR": "0.0.0.0/0", "serverAddress": address}
        ],
    }


def group_list() -> dict[str, Any]:
    """`/apis`."""
    found = []
    for group in groups():
        entry = group_object(group)
        # Within a list, a group has no kind of its own.
        found.append(
            {k: v for k, v in entry.items() if k not in {"kind", "apiVersion"}}
        )
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}


def group_object(group: str) -> dict[str, Any]:
    """`/apis/GROUP`."""
    versions = [{"groupVersion": f"{group}/{v}", "version": v} for v in groups()[group]]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": group,
        "versions": versions,
        "preferredVersion": versions[0],
    }


def resource_list(group: str, version: str) -> dict[str, Any]:
    """`/apis/GROUP/VERSION`, or `/api/v1` for the core group."""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": [_resource(served) for served in in_version(group, version)],
    }


def _resource(served: Served) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": served.plural,
        "singularName": served.singular,
        "namespaced": served.namespaced,
        "kind": served.kind,
        # `kubectl api-resources --verbs` and garbage collectors go by these.
        "verbs": list(VERBS),
    }
    if served.short_names:
        entry["shortNames"] = list(served.short_names)
    if served.categories:
        entry["categories"] = list(served.categories)
    return entry


def access_review() -> dict[str, Any]:
    """The answer to `kubectl auth can-i`."""
    return {
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "status": {"allowed": True},
    }


def user_review(version: str, *, is_anonymous: bool) -> dict[str, Any]:
    """The answer to `kubectl auth whoami`. There is one token, so there is one user."""
    name, group = (
        ("system:anonymous", "unauthenticated")
        if is_anonymous
        else ("admin", "authenticated")
    )
    user = {"username": name, "groups": [f"system:{group}"]}
    return {
        "kind": "SelfSubjectReview",
        "apiVersion": f"authentication.k8s.io/{version}",
        "status": {"userInfo": user},
    }


def version_info(version: str) -> dict[str, Any]:
    """`/version`; kubectl compares the minor version with its own."""
    return {
        "major": "1",
        "minor": "32",
        # kubectl warns when this is more than one minor version from its own.
        "gitVersion": f"v1.32.0+dockermesh-{version}",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "cpython",
        "platform": "linux/amd64",
    }
