"""`dockermesh get`: resources of the mesh, as tables or whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from dockermesh.cli.options import output_option
from dockermesh.cli.tables import print_columns, print_data

if TYPE_CHECKING:
    from dockermesh.kubeapi.served import Served


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@click.option(
    "-n", "--namespace", default="default", show_default=True, help="Where to look."
)
@click.option("-A", "--all-namespaces", is_flag=True, help="Look everywhere.")
@output_option("table", "wide", "yaml", "json", "name")
def command(
    kind: str, name: str | None, namespace: str, all_namespaces: bool, output: str
) -> None:
    """Show resources of KIND, for example virtualservices, dr or serviceentry; or the one named
    NAME.
    """
    import os

    from dockermesh.client.mesh.api_client import ApiClient, find_endpoint, path_of
    from dockermesh.errors import InputError, UsageError

    kind, _, after_slash = kind.partition("/")
    name = name or after_slash
    served = served_kind(kind)
    if name and all_namespaces:
        raise UsageError(
            "a resource is named within its namespace",
            fix="use -n NAMESPACE instead of -A",
        )

    space = "" if all_namespaces else namespace
    as_table = output in {"table", "wide"}
    found = ApiClient(find_endpoint(os.environ)).find(
        path_of(served, space, name), table=as_table
    )

    if found is None:
        raise InputError(
            f'{served.plural}.{served.group} "{name}" not found',
            fix=f"dockermesh get {kind} -A",
        )

    if as_table:
        _print_table(
            found,
            wide=output == "wide",
            namespaces=all_namespaces and served.namespaced,
            empty=space,
        )
    elif output == "name":
        _print_names(served, found.get("items", [found]))
    else:
        print_data(_shown(found), output, indent=2)


def served_kind(word: str) -> Served:
    """The kind that a user means. Raises UsageError."""
    from difflib import get_close_matches

    from dockermesh.errors import UsageError
    from dockermesh.kubeapi.served import SERVED, named

    served = named(word)
    if served is not None:
        return served

    words = [w for s in SERVED for w in (s.plural, s.singular, *s.short_names)]
    near = get_close_matches(word.lower(), words, n=1)
    kinds = ", ".join(s.singular for s in SERVED)
    raise UsageError(
        f"there is no kind {word!r}",
        fix=f"did you mean {near[0]}?" if near else f"one of: {kinds}",
    )


def _print_names(served: Served, items: Sequence[Mapping[str, Any]]) -> None:
    # Kinds of Kubernetes' core have no group: `secret/name`, as kubectl has it.
    kind = f"{served.singular}.{served.group}".removesuffix(".")
    for item in items:
        click.echo(f"{kind}/{item['metadata']['name']}")


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    """Without the bookkeeping of field managers, as kubectl does."""
    for item in found.get("items", [found]):
        item["metadata"].pop("managedFields", None)
    return found


def _print_table(
    found: Mapping[str, Any], *, wide: bool, namespaces: bool, empty: str
) -> None:
    rows, definitions = found["rows"], found["columnDefinitions"]
    if not rows:
        where = f" in {empty} namespace" if empty else ""
        click.echo(f"No resources found{where}.", err=True)
        return

    # Columns of priority 2 and more are for `-o wide`, as with kubectl.
    columns = [
        i for i, column in enumerate(definitions) if wide or column["priority"] < 2
    ]
    head = [definitions[i]["name"].upper() for i in columns]
    # No column of a server's table is the namespace; kubectl puts it before them, too.
    if namespaces:
        head.insert(0, "NAMESPACE")

    lines = [_cells(row, columns, with_namespace=namespaces) for row in rows]
    print_columns(head, lines, gap=3)


def _cells(
    row: Mapping[str, Any], columns: Sequence[int], *, with_namespace: bool
) -> list[str]:
    first = [row["object"]["metadata"]["namespace"]] if with_namespace else []
    return [*first, *(str(row["cells"][i]) for i in columns)]
