"""`apply`, `get`, `delete` and `kubeconfig` as processes, against a running config API."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from kube_rig import TOKEN, Done, Kube, serving
from patience import SLACK

from dockermesh.client.mesh.api_client import Endpoint
from dockermesh.client.mesh.kubeconfig import merged

RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %s}
spec: {host: %s}
"""


class Cli:
    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.folder = kube.folder / "files"
        self.folder.mkdir()
        self.environment = {
            **os.environ,
            "HOME": str(kube.folder),
            "KUBECONFIG": str(kube.folder / "kubeconfig"),
            "DOCKERMESH_API": kube.endpoint.url,
            "DOCKERMESH_TOKEN": TOKEN,
            "DOCKERMESH_CA": str(kube.folder / "root.pem"),
        }

    async def __call__(self, command: str, text: str = "") -> Done:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "dockermesh.cli.main", *command.split()),
            cwd=self.folder,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(
            process.communicate(text.encode()), 60 * SLACK
        )
        return Done(process.returncode or 0, out.decode(), err.decode())

    def write(self, file: str, *names: str, host: str = "") -> None:
        (self.folder / file).write_text(
            "---\n".join(RULE % (name, host or name) for name in names)
        )


@pytest.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Cli]:
    async with serving(tmp_path) as kube:
        yield Cli(kube)


async def test_apply_get_delete(cli: Cli) -> None:
    cli.write("rules.yaml", "a", "b")
    first = await cli("apply -f .")
    assert first.code == 0, first.err
    assert first.out.splitlines() == [
        f"destinationrule.networking.istio.io/{n} created" for n in "ab"
    ]
    assert "a unchanged" in (await cli("apply -f rules.yaml")).out
    changed = await cli("apply -f - --diff", RULE % ("a", "other"))
    assert (changed.code, "-  host: a\n+  host: other" in changed.out) == (0, True)
    assert "configured" in changed.err
    assert (await cli("get dr a -o json")).json()["spec"] == {"host": "other"}
    assert (
        yaml.safe_load((await cli("get dr -o yaml")).out)["kind"]
        == "DestinationRuleList"
    )
    assert (await cli("get destinationrules -o name")).out.split() == [
        "destinationrule.networking.istio.io/a",
        "destinationrule.networking.istio.io/b",
    ]
    assert (await cli("get dr -A")).out.splitlines()[0].split() == [
        *("NAMESPACE", "NAME", "HOST", "AGE", "ACCEPTED", "PROGRAMMED")
    ]
    assert "a deleted" in (await cli("delete dr a")).out
    gone = await cli("delete -f rules.yaml")
    assert (gone.code, "b deleted" in gone.out, '"a" not found' in gone.err) == (
        1,
        True,
        True,
    )
    assert (await cli("delete dr a --ignore-not-found")).code == 0
    assert (await cli("get dr a")).code == 1
    assert "No resources found" in (await cli("get dr")).err


async def test_settings_of_the_mesh_are_a_resource(cli: Cli) -> None:
    """As Istio's ConfigMap has them, without an envelope, or as a whole resource; for kubectl,
    too.
    """
    plain = "kind: MeshConfig\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n"
    refused = await cli("apply -f -", plain + "metadata: {generateName: mesh-}\n")
    assert (refused.code, "cannot use generateName with apply" in refused.err) == (
        1,
        True,
    )
    first = await cli("apply -f -", plain)
    assert (first.code, first.out.strip()) == (
        0,
        "meshconfig.mesh.istio.io/default created",
    ), first.err
    assert "unchanged" in (await cli("apply -f -", plain)).out
    found = json.loads(
        await cli.kube.ok(
            "get meshconfigs.mesh.istio.io default -n istio-system -o json"
        )
    )
    assert found["spec"] == {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}
    changed = {**found, "spec": {"outboundTrafficPolicy": {"mode": "ALLOW_ANY"}}}
    await cli.kube.ok("apply -f -", json.dumps(changed))
    assert (
        "ALLOW_ANY" in (await cli("get meshconfig default -n istio-system -o yaml")).out
    )
    assert "deleted" in (await cli("delete meshconfig default -n istio-system")).out


async def test_nothing_is_applied_when_anything_is_invalid(cli: Cli) -> None:
    cli.write("good.yaml", "a")
    (cli.folder / "wrong.yaml").write_text(RULE.replace("host:", "hots:") % ("b", "b"))
    done = await cli("apply -f .")
    assert done.code == 1
    assert "wrong.yaml:4" in done.err
    assert "unknown field 'hots'" in done.err
    assert not cli.kube.cache.objects


async def test_dry_run_changes_nothing(cli: Cli) -> None:
    cli.write("rules.yaml", "a")
    done = await cli("apply -f rules.yaml --dry-run --diff --prune")
    assert (done.code, "+  host: a" in done.out) == (0, True)
    assert not cli.kube.cache.objects


async def test_prune_deletes_what_it_applied_and_nothing_else(cli: Cli) -> None:
    cli.write("rules.yaml", "a", "b")
    await cli("apply -f rules.yaml")
    await cli.kube.ok("create -f -", RULE % ("foreign", "x"))
    await cli("apply -n other -f rules.yaml")
    cli.write("rules.yaml", "a")
    done = await cli("apply -f rules.yaml --prune")
    assert "b pruned" in done.out
    left = sorted(key.split("/", 2)[2] for key in cli.kube.cache.objects)
    assert left == ["default/a", "default/foreign", "other/a", "other/b"]


async def test_mistakes_of_users(cli: Cli) -> None:
    for command, words in (
        ("get virtualservice/x/y z", "not found"),
        ("get virtualservces", "did you mean virtualservice"),
        ("delete", "KIND NAME"),
        ("delete dr", "which dr"),
        ("apply -f missing.yaml", "missing.yaml"),
    ):
        done = await cli(command)
        assert done.code in {1, 2}, command
        assert words in done.err, (command, done.err)
        assert "Traceback" not in done.err
    cli.environment["DOCKERMESH_TOKEN"] = "wrong"
    assert "bearer token" in (await cli("get dr")).err
    cli.environment["DOCKERMESH_API"] = "https://127.0.0.1:1"
    assert "does not answer" in (await cli("get dr")).err
    cli.environment["DOCKERMESH_API"] = "http://10.0.0.1:8080"
    assert "plaintext" in (await cli("get dr")).err


@pytest.mark.kubectl
async def test_kubectl_works_with_what_kubeconfig_writes(cli: Cli) -> None:
    file = cli.kube.folder / "kubeconfig"
    file.write_text(
        json.dumps(
            {
                "contexts": [{"name": "prod", "context": {"cluster": "prod"}}],
                "clusters": [
                    {"name": "prod", "cluster": {"server": "https://prod.example"}}
                ],
                "current-context": "prod",
                "preferences": {"colors": True},
            }
        )
    )
    done = await cli("kubeconfig")
    assert done.code == 0, done.err
    assert "istio" in done.err
    assert file.stat().st_mode & 0o777 == 0o600
    assert await cli.kube.ok("config current-context") == "istio\n"
    assert "prod" in await cli.kube.ok("config get-contexts -o name")
    assert "virtualservices" in await cli.kube.ok("--context istio api-resources")
    assert yaml.safe_load(done.out)["current-context"] == "istio"
    before = file.read_text()
    assert (await cli("kubeconfig --print")).code == 0
    assert file.read_text() == before


def test_kubeconfig_keeps_the_current_context_on_request() -> None:
    config = merged(
        {"current-context": "prod"},
        Endpoint("http://localhost:8080"),
        "istio",
        set_current=False,
    )
    assert config["current-context"] == "prod"
    assert config["clusters"] == [
        {"name": "istio", "cluster": {"server": "http://localhost:8080"}}
    ]
    assert config["users"] == [{"name": "istio", "user": {}}]


async def test_history_and_rollback_go_back_to_what_was(cli: Cli) -> None:
    cli.write("one.yaml", "a", "b")
    assert (await cli("apply -f one.yaml")).code == 0
    cli.write("two.yaml", "b", "c", host="changed")
    assert (await cli("apply -f two.yaml")).code == 0
    assert (await cli("apply -f two.yaml")).code == 0, (
        "changes nothing, so it is no change"
    )
    assert (await cli("delete -f one.yaml")).code == 0
    entries = (await cli("history -o json")).json()
    assert [(e["number"], e["command"], e["counts"]) for e in entries] == [
        (3, "dockermesh delete", {"created": 0, "configured": 0, "deleted": 2}),
        (2, "dockermesh apply", {"created": 1, "configured": 1, "deleted": 0}),
        (1, "dockermesh apply", {"created": 2, "configured": 0, "deleted": 0}),
    ]
    assert {e["who"] for e in entries} == {"dockermesh"} and all(
        e["time"].endswith("Z") for e in entries
    )
    head, newest, *_ = (await cli("history")).out.splitlines()
    assert head.split() == ["NUMBER", "TIME", "WHO", "COMMAND", "CHANGES", "RESOURCES"]
    assert (
        "2 deleted" in newest
        and "DestinationRule default/a, DestinationRule default/b" in newest
    )

    preview = await cli("rollback 1 --dry-run --diff")
    assert (
        "+  host: b" in preview.out
        and "-  host: changed" in preview.out
        and "(dry run)" in preview.out
    )
    assert len((await cli("history -o json")).json()) == 3
    done = await cli("rollback 1")
    assert sorted(done.out.splitlines()) == [
        *(
            "DestinationRule default/a created",
            "DestinationRule default/b created",
            "DestinationRule default/c deleted",
        )
    ]
    hosts = {
        d["metadata"]["name"]: d["spec"]["host"]
        for d in (await cli("get dr -o json")).json()["items"]
    }
    assert hosts == {"a": "a", "b": "b"}
    entry = (await cli("history -o json")).json()[0]
    assert (entry["number"], entry["command"]) == (4, "rollback 1")
    assert "Nothing to change" in (await cli("rollback 4")).out
    # A rollback is a change like others.
    assert (await cli("rollback 3")).code == 0
    assert [
        d["metadata"]["name"] for d in (await cli("get dr -o json")).json()["items"]
    ] == ["c"]
    gone = await cli("rollback 17")
    assert gone.code == 1 and "it goes from 1 to 5" in gone.err
