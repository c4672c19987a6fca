"""Server-side apply: who owns what, who is in whose way, and what disappears when nobody wants it
any more.
"""

from __future__ import annotations

from typing import Any

from dockermesh.kubeapi.managed import (
    APPLY,
    UPDATE,
    Manager,
    fields_of,
    merge_applied,
    record,
)


def doc(spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "g/v1",
        "kind": "K",
        "metadata": {"name": "a", **metadata},
        "spec": spec,
    }


def applied(
    live: dict[str, Any] | None, config: dict[str, Any], name: str, time: str = "t"
) -> dict[str, Any]:
    """`live` after `name` applied `config`, whatever is in the way."""
    merged = (
        merge_applied(live, config, name)[0]
        if live is not None
        else {**config, "metadata": {**config["metadata"]}}
    )
    record(live, merged, Manager(name, APPLY, "g/v1", time), config)
    return merged


def updated(live: dict[str, Any], after: dict[str, Any], name: str) -> dict[str, Any]:
    after["metadata"]["managedFields"] = live["metadata"].get("managedFields", [])
    record(live, after, Manager(name, UPDATE, "g/v1", "t"))
    return after


def owners(document: dict[str, Any]) -> dict[str, Any]:
    return {
        e["manager"]: e["fieldsV1"]
        for e in document["metadata"].get("managedFields", [])
    }


def test_fields_are_the_paths_to_values_without_the_systems_own() -> None:
    document = doc(
        {"hosts": ["a"], "empty": {}, "m": {"x": 1}},
        labels={"l": "1"},
        uid="u",
        generation=3,
    )
    assert fields_of(document) == {
        ("metadata", "labels", "l"),
        ("spec", "hosts"),
        ("spec", "empty"),
        ("spec", "m", "x"),
    }


def test_what_is_not_applied_any_more_is_removed() -> None:
    live = applied(None, doc({"a": 1, "m": {"x": 1, "y": 2}}), "me")
    live = applied(live, doc({"a": 1, "m": {"x": 1}}), "me")
    assert live["spec"] == {"a": 1, "m": {"x": 1}}
    live = applied(live, doc({"a": 1}), "me")
    assert live["spec"] == {"a": 1}


def test_what_others_manage_stays() -> None:
    live = applied(None, doc({"a": 1}), "me")
    live = applied(live, doc({"b": 2}), "you")
    live = applied(live, doc({}), "me")
    assert live["spec"] == {"b": 2}
    assert owners(live) == {"you": {"f:spec": {"f:b": {}}}}


def test_a_field_that_two_managers_applied_survives_the_first() -> None:
    live = applied(None, doc({"a": 1}), "me")
    live = applied(live, doc({"a": 1}), "you")
    live = applied(live, doc({}), "me")
    assert live["spec"] == {"a": 1}


def test_another_value_is_a_conflict_with_its_manager_and_the_same_value_is_none() -> (
    None
):
    live = applied(None, doc({"a": 1, "b": 1}), "me")
    _, conflicts = merge_applied(live, doc({"a": 2, "b": 1}), "you")
    assert [(c.path, c.manager) for c in conflicts] == [(("spec", "a"), "me")]


def test_a_change_of_type_is_a_conflict_and_replaces_the_whole() -> None:
    live = applied(None, doc({"a": {"x": 1}}), "me")
    merged, conflicts = merge_applied(live, doc({"a": 5}), "you")
    assert [c.manager for c in conflicts] == ["me"]
    assert merged["spec"] == {"a": 5}
    assert applied(merged, doc({"a": {"y": 1}}), "you")["spec"] == {"a": {"y": 1}}


def test_an_update_takes_over_what_it_changes() -> None:
    live = applied(None, doc({"a": 1, "b": 1}), "me")
    live = updated(live, doc({"a": 2, "b": 1}), "kubectl-edit")
    assert owners(live) == {
        "me": {"f:spec": {"f:b": {}}},
        "kubectl-edit": {"f:spec": {"f:a": {}}},
    }
    _, conflicts = merge_applied(live, doc({"a": 1, "b": 1}), "me")
    assert [c.manager for c in conflicts] == ["kubectl-edit"]


def test_nothing_is_recorded_when_nothing_changed() -> None:
    live = applied(None, doc({"a": 1}), "me", "then")
    again = applied(live, doc({"a": 1}), "me", "now")
    assert again == live
    assert (
        updated(live, doc({"a": 1}), "you")["metadata"]["managedFields"]
        == live["metadata"]["managedFields"]
    )


def test_empty_labels_are_not_those_of_others() -> None:
    live = applied(None, doc({}, labels={"l": "1"}), "me")
    merged, conflicts = merge_applied(live, doc({}, labels={}), "you")
    assert (merged["metadata"]["labels"], conflicts) == ({"l": "1"}, [])


def test_malformed_entries_of_clients_are_harmless() -> None:
    live = doc(
        {"a": 1},
        managedFields=[
            {},
            7,
            {"manager": 3, "fieldsV1": {"f:spec": [1]}},
            {"fieldsV1": "x"},
        ],
    )
    merged, _ = merge_applied(live, doc({"a": 2}), "me")
    record(live, merged, Manager("me", APPLY, "g/v1", "t"), doc({"a": 2}))
    assert owners(merged)["me"] == {"f:spec": {"f:a": {}}}
