"""`dockermesh explain`: what decides a request, from listener to authorization."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dockermesh.cli.options import output_option
from dockermesh.cli.tables import print_data

_FILE = click.Path(path_type=Path)
_WIDTH = 13
_VERDICTS = {True: "accepts", False: "refuses", None: "may refuse"}


@click.command()
@click.argument("source")
@click.argument("url")
@click.option(
    "-H",
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="A header of the request.",
)
@click.option(
    "-X", "--method", default="GET", show_default=True, help="The request's method."
)
@click.option(
    "-n", "--namespace", default="", metavar="NS", help="The source's namespace."
)
@click.option(
    "--config",
    "configs",
    multiple=True,
    type=_FILE,
    metavar="PATH",
    help="Explain these files' resources.",
)
@click.option(
    "--catalog",
    type=_FILE,
    metavar="FILE",
    help="YAML file of services and endpoints, with --config.",
)
@click.option(
    "--live",
    is_flag=True,
    help="Send the request from the source's network, too, and compare.",
)
@output_option("text", "json")
def command(
    source: str,
    url: str,
    headers: tuple[str, ...],
    method: str,
    namespace: str,
    configs: tuple[Path, ...],
    catalog: Path | None,
    live: bool,
    output: str,
) -> None:
    """Say what decides a request to URL from the workload SOURCE: listener, rule, subset,
    endpoints, policies.

    Without files it is about the running mesh. A gateway as SOURCE stands for requests that come in
    through it. Exits with 1 if --live found something else than what was explained.
    """
    import os

    from dockermesh.client.explain_request import from_files, from_mesh, try_out
    from dockermesh.client.inspect.explain import explain, parse_request
    from dockermesh.client.mesh.api_client import ApiClient, find_endpoint
    from dockermesh.model.contract import consul_domain_of, service_domain

    request, host, port = parse_request(url, method, _headers(headers))
    has_files = bool(configs) or catalog is not None
    if live:
        _check_live(request.scheme, has_files=has_files)

    if has_files:
        domain = service_domain(consul_domain_of(os.environ))
        from_where, known, problems = from_files(source, configs, catalog, domain)
        for problem in problems:
            click.echo(problem, err=True)
        result = explain(from_where, request, host, port, known)
    else:
        mesh = from_mesh(source, namespace, ApiClient(find_endpoint(os.environ)))
        result = explain(mesh.source, request, host, port, mesh.known)
        if live:
            result["live"] = try_out(mesh, result, request, host, port)

    if output == "json":
        print_data(result, "json")
    else:
        for label, text in lines(result):
            click.echo(f"{label:<{_WIDTH}}{text}".rstrip())

    if not result.get("live", {}).get("as_explained", True):
        raise click.exceptions.Exit(1)


def _check_live(scheme: str, *, has_files: bool) -> None:
    """Raise UsageError for what `--live` cannot send."""
    from dockermesh.errors import UsageError

    # It is sent in plaintext, as an app does that leaves TLS to its proxy.
    if scheme != "http":
        raise UsageError(
            "only http:// can be sent by --live",
            fix="leave --live out, or explain an http:// URL",
        )

    if has_files:
        raise UsageError(
            "files cannot be asked live",
            fix="give either --live, or --config and --catalog",
        )


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    from dockermesh.errors import UsageError

    found = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise UsageError(f"{text!r} is no header", fix="write -H 'name: value'")
        found[name.strip()] = value.strip()
    return found


def lines(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The explanation as labels and texts."""
    asked = result["request"]
    yield "Request", f"{asked['method']} {asked['url']} from {result['source']}"
    if result["listener"]:
        yield (
            "Listener",
            f"{result['listener']['name']}, for {result['listener']['dialled']}",
        )

    if "protocol" in result:
        yield "Protocol", f"{result['protocol']}{_protocol_rules(result)}"
    if result.get("limits"):
        yield "Limits", ", ".join(result["limits"])
    if "virtual_host" in result:
        host = result["virtual_host"]
        yield (
            "Host",
            f"{host['name']} in route table {result['route_table']}, by the name {host['domain']}",
        )

    for passed in result.get("passed_over", ()):
        yield (
            "Not taken",
            f"{_place(passed)}{'' if passed['is_sure'] else ' perhaps'}: {passed['reason']}",
        )

    if "match" in result:
        yield "Rule", _place(result)
    yield from _policies(result)
    for target in result.get("destinations", ()):
        yield from _destination(target)
    yield "Outcome", result["outcome"]
    if "live" in result:
        yield from _live(result["live"])


def _protocol_rules(result: dict[str, Any]) -> str:
    """What decided the protocol of the port that is reached, in brackets."""
    endpoints = [e for t in result.get("destinations", ()) for e in t["endpoints"]]
    rules = dict.fromkeys(e["protocol_rule"] for e in endpoints if "protocol_rule" in e)
    return f" ({', '.join(rules)})" if rules else ""


def _place(entry: dict[str, Any]) -> str:
    rule = entry.get("rule")
    if rule is None:
        return f"none: the service's default ({entry['match']})"
    at = f" ({rule['at']})" if rule["at"] else ""
    return f"{rule['resource']}{' ' if rule['path'] else ''}{rule['path']}{at}: {entry['match']}"


def _policies(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "timeout" in result:
        yield "Timeout", result["timeout"] or "none"
    if "retries" in result:
        retries = result["retries"]
        each = (
            f", {retries['per_try_timeout']} each" if retries["per_try_timeout"] else ""
        )
        yield "Retries", f"up to {retries['attempts']} on {retries['on']}{each}"

    if "delay" in result:
        yield (
            "Delay",
            f"{result['delay']['seconds']} for {result['delay']['percent']:g} %",
        )
    if "abort" in result:
        yield (
            "Abort",
            f"{result['abort']['status']} for {result['abort']['percent']:g} %",
        )
    for mirror in result.get("mirrors", ()):
        yield "Mirror", f"{mirror['percent']:g} % to {mirror['cluster']}"
    if "forwarded_as" in result:
        sent = result["forwarded_as"]
        yield "Rewritten", f"{sent['authority']}{sent['path']}"


def _destination(target: dict[str, Any]) -> Iterator[tuple[str, str]]:
    subset = f" subset {target['subset']}" if target.get("subset") else ""
    name = (
        f"{target['host']}:{target['port']}{subset}"
        if "host" in target
        else target["cluster"]
    )
    rule = (
        f", DestinationRule {target['destination_rule']}"
        if target.get("destination_rule")
        else ""
    )
    extra = (
        f", {target['balancing']}, TLS {target['tls']}{rule}"
        if target["exists"]
        else ", which does not exist"
    )
    yield "To", f"{target['percent']:g} % {name}{extra}"

    for endpoint in target["endpoints"]:
        verdict = _VERDICTS[endpoint["accepts"]] if "accepts" in endpoint else ""
        reason = f" ({endpoint['reason']})" if endpoint.get("reason") else ""
        tls = f"TLS {endpoint['tls']}" if target["tls"] == "auto" else ""
        limits = ", ".join(endpoint.get("limits", ()))
        parts = (
            endpoint["address"],
            endpoint["health"],
            endpoint["workload"],
            tls,
            verdict + reason,
            f"limited by {limits}" if limits else "",
        )
        yield "", "  ".join(filter(None, parts))


def _live(live: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "error" in live:
        yield "Live", live["error"]
        return
    listed = (
        ", ".join(f"{e['endpoint']} of {e['cluster']}" for e in live["endpoints"])
        or "no endpoint of these"
    )
    verdict = "as explained" if live["as_explained"] else "NOT as explained"
    yield "Live", f"{live['status']} in {live['seconds']:g} s, {listed}: {verdict}"
