"""Stock kubectl against the config API: what a Kubernetes user types, in long sequences."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from kube_rig import Kube, serving
from patience import SLACK

from dockermesh.kubeapi.history import History
from dockermesh.registry.folder.history_store import FolderDocuments

pytestmark = pytest.mark.kubectl


@pytest.fixture
async def kube(tmp_path: Path) -> AsyncIterator[Kube]:
    async with serving(tmp_path) as running:
        yield running


RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews}
"""


def virtual_service(subset: str, version: str = "v1", **metadata: str) -> str:
    rule = {
        "hosts": ["reviews"],
        "http": [{"route": [{"destination": {"host": "reviews", "subset": subset}}]}],
    }
    return json.dumps(
        {
            "apiVersion": f"networking.istio.io/{version}",
            "kind": "VirtualService",
            "metadata": {"name": "reviews", **metadata},
            "spec": rule,
        }
    )


async def subset(kube: Kube) -> str:
    path = "{.spec.http[0].route[0].destination.subset}"
    return await kube.ok(f"get vs reviews -o jsonpath={path}")


async def test_discovery_and_explain(kube: Kube) -> None:
    assert "v1.32.0+dockermesh" in await kube.ok("version")
    resources = await kube.ok("api-resources")
    for words in (
        "virtualservices vs",
        "destinationrules dr",
        "peerauthentications pa",
        "namespaces ns",
    ):
        assert words in " ".join(resources.split())
    versions = await kube.ok("api-versions")
    for version in ("v1", "v1beta1", "v1alpha3"):
        assert f"networking.istio.io/{version}" in versions
    assert "retries\t<Object>" in await kube.ok("explain vs.spec.http")
    assert "burst\t<integer>" in await kube.ok("explain ratelimit.spec.limits")
    assert "REGISTRY_ONLY" in await kube.ok(
        "explain sidecar.spec.outboundTrafficPolicy.mode"
    )
    assert "ISTIO_MUTUAL" in await kube.ok(
        "explain destinationrules.spec.trafficPolicy.tls.mode"
        " --api-version=networking.istio.io/v1beta1"
    )


async def test_a_resource_through_its_life(kube: Kube) -> None:
    created = await kube.ok("apply -f -", virtual_service("v1", "v1alpha3"))
    assert created == "virtualservice.networking.istio.io/reviews created\n"
    assert "unchanged" in await kube.ok("apply -f -", virtual_service("v1", "v1alpha3"))
    assert "configured" in await kube.ok("apply -f -", virtual_service("v2"))
    assert await subset(kube) == "v2"
    difference = await kube.run("diff -f -", virtual_service("v3"))
    assert (difference.code, "+        subset: v3" in difference.out) == (1, True)
    # The generation, as in Kubernetes; what has not happened is in no status.
    signs = [line for line in difference.out.splitlines() if line[:1] in {"+", "-"}]
    changed = {
        s[1:].strip().split(":")[0] for s in signs if s[:3] not in {"+++", "---"}
    }
    assert changed == {"generation", "subset"}, difference.out
    assert (await kube.run("diff -f -", virtual_service("v2"))).code == 0
    table = (await kube.ok("get vs")).splitlines()
    assert table[0].split() == ["NAME", "GATEWAYS", "HOSTS", "AGE"]
    assert table[1].split()[:2] == ["reviews", '["reviews"]']
    assert (await kube.ok("get vs -o wide")).split()[4] == "ACCEPTED"
    assert "labeled" in await kube.ok("label vs reviews app=x")
    assert "annotate" in await kube.ok(
        "annotate vs reviews note=y"
    )  # 1.27 leaves the d out
    assert "reviews" in await kube.ok("get vs -l app=x")
    assert "No resources found" in (await kube.run("get vs -l app!=x")).err
    patch = '{"spec":{"hosts":["a","b"]}}'
    assert "patched" in await kube.ok(f"patch vs reviews --type=merge -p {patch}")
    patch = '[{"op":"test","path":"/spec/hosts/1","value":"b"},{"op":"remove","path":"/spec/hosts/1"}]'
    assert "patched" in await kube.ok(f"patch vs reviews --type=json -p {patch}")
    assert await kube.ok("get vs reviews -o jsonpath={.spec.hosts}") == '["a"]'
    assert "not supported" in (await kube.run("patch vs reviews -p {}")).err
    assert "replaced" in await kube.ok("replace -f -", virtual_service("v9", "v1beta1"))
    assert "condition met" in await kube.ok(
        "wait --for=condition=Accepted vs/reviews --timeout=100s"
    )
    assert "Subset:  v9" in await kube.ok("describe vs reviews")
    assert "deleted" in await kube.ok("delete vs reviews")
    for command in ("get vs reviews", "delete vs reviews", "label vs reviews a=b"):
        gone = await kube.run(command)
        assert (gone.code, "NotFound" in gone.err) == (1, True), command
    assert "not found" in (await kube.run("replace -f -", virtual_service("v9"))).err


async def test_edit(kube: Kube) -> None:
    editor = kube.folder / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/subset: v1/subset: v7/" "$1"\n')
    editor.chmod(0o755)
    await kube.ok("create -f -", virtual_service("v1"))
    assert "edited" in await kube.ok("edit vs reviews")
    assert await subset(kube) == "v7"
    editor.write_text('#!/bin/sh\nsed -i "s/hosts:/hotsts:/" "$1"\n')
    refused = await kube.run("edit vs reviews")
    assert refused.code != 0
    assert "hotsts" in refused.err
    assert await subset(kube) == "v7"


async def test_generation_counts_changes_of_the_content_only(kube: Kube) -> None:
    await kube.ok("apply -f -", virtual_service("v1"))
    before = json.loads(await kube.ok("get vs reviews -o json"))["metadata"]
    await kube.ok("label vs reviews a=b")
    await kube.ok("apply -f -", virtual_service("v1", "v1beta1"))
    labelled = json.loads(await kube.ok("get vs reviews -o json"))["metadata"]
    await kube.ok("apply -f -", virtual_service("v2"))
    after = json.loads(await kube.ok("get vs reviews -o json"))["metadata"]
    assert [m["generation"] for m in (before, labelled, after)] == [1, 1, 2]
    assert (
        int(before["resourceVersion"])
        < int(labelled["resourceVersion"])
        < int(after["resourceVersion"])
    )
    assert len({m["uid"] for m in (before, labelled, after)}) == 1


async def test_stale_writers_get_a_conflict(kube: Kube) -> None:
    await kube.ok("create -f -", virtual_service("v1"))
    old = json.loads(await kube.ok("get vs reviews -o json"))
    await kube.ok("apply --server-side --force-conflicts -f -", virtual_service("v2"))
    refused = await kube.run("replace -f -", json.dumps(old))
    assert refused.code == 1
    assert "the object has been modified" in refused.err
    assert await subset(kube) == "v2"
    again = await kube.run("create -f -", virtual_service("v3"))
    assert "AlreadyExists" in again.err


async def test_server_side_apply(kube: Kube) -> None:
    assert "serverside-applied" in await kube.ok(
        "apply --server-side -f -", virtual_service("v1")
    )
    refused = await kube.run(
        "apply --server-side --field-manager=other -f -", virtual_service("v2")
    )
    assert refused.code == 1
    assert 'conflict with "kubectl"' in refused.err
    assert ".spec.http" in refused.err
    await kube.ok(
        "apply --server-side --field-manager=other --force-conflicts -f -",
        virtual_service("v2"),
    )
    assert await subset(kube) == "v2"
    managed = json.loads(await kube.ok("get vs reviews -o json --show-managed-fields"))[
        "metadata"
    ]["managedFields"]
    assert {m["manager"]: m["fieldsV1"]["f:spec"] for m in managed} == {
        "kubectl": {"f:hosts": {}},
        "other": {"f:hosts": {}, "f:http": {}},
    }


async def test_from_client_side_to_server_side_apply_and_back(kube: Kube) -> None:
    await kube.ok("apply -f -", virtual_service("v1"))
    await kube.ok("apply --server-side -f -", virtual_service("v2"))
    assert await subset(kube) == "v2"
    await kube.ok("apply -f -", virtual_service("v3"))
    assert await subset(kube) == "v3"


async def test_unknown_fields_and_broken_rules_name_the_field(kube: Kube) -> None:
    text = virtual_service("v1").replace('"hosts"', '"hotsts"')
    refused = await kube.run("apply -f -", text)
    assert refused.code == 1
    assert 'strict decoding error: unknown field "spec.hotsts"' in refused.err
    warned = await kube.run(
        "apply --validate=warn -f -",
        virtual_service("v1").replace('"http"', '"foo":1,"http"'),
    )
    assert (warned.code, 'Warning: unknown field "spec.foo"' in warned.err) == (0, True)
    silent = await kube.run(
        "apply --validate=ignore -f -",
        virtual_service("v2").replace('"http"', '"foo":1,"http"'),
    )
    assert (silent.code, silent.err) == (0, "")
    assert "foo" not in await kube.ok("get vs reviews -o jsonpath={.spec}")
    invalid = await kube.run(
        "apply -f -",
        virtual_service("v1").replace('"hosts": ["reviews"]', '"hosts": 5'),
    )
    assert 'The VirtualService "reviews" is invalid: spec.hosts' in invalid.err
    assert await subset(kube) == "v2"


async def test_old_fields_are_taken_with_a_warning(kube: Kube) -> None:
    old = virtual_service("v1", "v1alpha3").replace(
        '"http": [{',
        '"http": [{"fault": {"delay": {"percent": 10, "fixedDelay": "2s"}},',
    )
    done = await kube.run("apply -f -", old)
    assert (done.code, "Warning: spec.http[0].fault.delay.percent" in done.err) == (
        0,
        True,
    )


async def test_dry_run_changes_nothing(kube: Kube) -> None:
    assert "dry run" in await kube.ok(
        "apply --dry-run=server -f -", virtual_service("v1")
    )
    assert (await kube.run("get vs reviews")).code == 1
    await kube.ok("create -f -", virtual_service("v1"))
    await kube.ok(
        "apply --server-side --force-conflicts --dry-run=server -f -",
        virtual_service("v2"),
    )
    await kube.ok("label --dry-run=server vs reviews a=b")
    await kube.ok("delete --dry-run=server vs reviews")
    assert await subset(kube) == "v1"
    assert "a=b" not in await kube.ok("get vs reviews --show-labels")


async def test_namespaces(kube: Kube) -> None:
    assert "default" in await kube.ok("get ns")
    assert "created" in await kube.ok("create namespace shop")
    assert "labeled" in await kube.ok("label namespace default istio-injection=enabled")
    assert "configured" in await kube.ok(
        "apply -f -",
        '{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop","labels":{"a":"b"}}}',
    )
    for namespace in ("shop", "unnamed"):
        await kube.ok(f"-n {namespace} create -f -", virtual_service("v1"))
    assert "No resources found in default" in (await kube.run("get vs")).err
    assert len((await kube.ok("get vs -A")).splitlines()) == 3
    assert [line.split()[0] for line in (await kube.ok("get ns")).splitlines()[1:]] == [
        "default",
        "shop",
        "unnamed",
    ]
    refused = await kube.run(
        "-n shop create -f -", virtual_service("v1", namespace="unnamed")
    )
    assert "does not match the namespace" in refused.err
    await kube.ok("delete ns shop unnamed")
    assert "No resources found" in (await kube.run("get vs -A")).err
    assert "may not be deleted" in (await kube.run("delete ns default")).err


async def test_watch(kube: Kube) -> None:
    await kube.ok("create -f -", virtual_service("v1"))
    process = await kube.start("get", "vs", "-w", "--output-watch-events")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20 * SLACK):
            assert b"EVENT" in await process.stdout.readline()
            assert (await process.stdout.readline()).startswith(b"ADDED ")
            await kube.ok("label vs reviews a=b")
            assert (await process.stdout.readline()).startswith(b"MODIFIED ")
            await kube.ok("delete vs reviews")
            assert (await process.stdout.readline()).startswith(b"DELETED ")
            await kube.ok("create -f -", virtual_service("v1"))
            assert (await process.stdout.readline()).startswith(b"ADDED ")
    finally:
        process.kill()
        await process.wait()


async def test_lists_and_many_kinds_at_once(kube: Kube) -> None:
    names = ["a", "b", "c"]
    rules = [
        {
            "apiVersion": "networking.istio.io/v1beta1",
            "kind": "DestinationRule",
            "metadata": {"name": name},
            "spec": {"host": name},
        }
        for name in names
    ]
    await kube.ok(
        "apply -f -",
        "---\n" + "\n---\n".join([*map(json.dumps, rules), virtual_service("v1")]),
    )
    assert len((await kube.ok("get istio-io -o name")).splitlines()) == 4
    found = json.loads(
        await kube.ok("get destinationrules.v1alpha3.networking.istio.io -o json")
    )
    assert {item["apiVersion"] for item in found["items"]} == {
        "networking.istio.io/v1alpha3"
    }
    assert len((await kube.ok("delete dr --all")).splitlines()) == 3
    await kube.ok("delete -f -", virtual_service("v1"))
    assert (await kube.run("get istio-io")).out == ""


async def test_no_token_no_access(kube: Kube) -> None:
    refused = await kube.run("get vs --token=wrong")
    assert refused.code == 1
    assert "must be logged in" in refused.err


async def test_the_old_way_without_tokens(tmp_path: Path) -> None:
    async with serving(tmp_path, token=None) as kube:
        (tmp_path / "kubeconfig").unlink()
        await kube.ok(f"config set-cluster istio --server={kube.endpoint.url}")
        await kube.ok("config set-context istio --cluster=istio")
        await kube.ok("config use-context istio")
        assert kube.endpoint.url.startswith("http://")
        await kube.ok("create -f -", virtual_service("v1"))
        assert "reviews" in await kube.ok("get virtualservices")


async def test_what_one_kubectl_command_changes_is_one_entry_of_the_history(
    kube: Kube,
) -> None:
    rule = (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: %s}\nspec:"
        " {host: a}\n"
    )
    await kube.ok("apply -f -", rule % "a" + "---\n" + rule % "b")
    await kube.ok("label dr a tier=front")
    entries = await History(FolderDocuments(kube.folder / "history")).entries()
    assert [(e.who, e.command, len(e.changes)) for e in entries] == [
        ("kubectl", "kubectl apply", 2),
        ("kubectl", "kubectl label", 1),
    ]


async def test_folders_kustomizations_and_pruning(kube: Kube) -> None:
    base = kube.folder / "base"
    (base / "more").mkdir(parents=True)
    (base / "reviews.yaml").write_text(virtual_service("v1"))
    (base / "more" / "rule.yaml").write_text(RULE)
    (base / "kustomization.yaml").write_text(
        "resources: [reviews.yaml]\nnamePrefix: k-\ncommonAnnotations: {by: k}\n"
    )
    created = await kube.ok(f"apply -f {base}/more -f {base}/reviews.yaml -R")
    assert created.count("created") == 2
    assert "k-reviews created" in await kube.ok(f"apply -k {base}")
    assert (
        await kube.ok("get vs k-reviews -o jsonpath={.metadata.annotations.by}") == "k"
    )
    assert {
        line.split()[0]
        for line in (await kube.ok("get all --no-headers")).splitlines()
        if line
    } == {
        "virtualservice.networking.istio.io/reviews",
        "virtualservice.networking.istio.io/k-reviews",
        "destinationrule.networking.istio.io/reviews",
    }
    pruned = await kube.ok(
        f"apply -f {base}/reviews.yaml --prune --all"
        " --prune-allowlist=networking.istio.io/v1/VirtualService"
    )
    assert "virtualservice.networking.istio.io/k-reviews pruned" in pruned
    # Only the kind that was named is pruned.
    assert (
        await kube.ok("get dr -o name")
        == "destinationrule.networking.istio.io/reviews\n"
    )
    await kube.ok(f"delete -k {base} --ignore-not-found")
    await kube.ok(f"delete -f {base}/reviews.yaml --cascade=foreground")
    await kube.ok("wait --for=delete vs/reviews --timeout=20s")


async def test_lists_in_all_forms(kube: Kube) -> None:
    for name in ("c", "a", "b"):
        document = json.loads(virtual_service("v1", name=name))
        await kube.ok("create --save-config -f -", json.dumps(document))
    await kube.ok("label vs a b team=x")
    named = "virtualservice.networking.istio.io/{}\n".format
    assert await kube.ok("get vs --sort-by=.metadata.name -o name") == named(
        "a"
    ) + named("b") + named("c")
    assert await kube.ok(
        "get vs -o name --chunk-size=1 --field-selector=metadata.name!=b"
    ) == named("a") + named("c")
    columns = await kube.ok(
        "get vs -l team -o custom-columns=N:.metadata.name,H:.spec.hosts --no-headers"
    )
    assert [line.split() for line in columns.splitlines()] == [
        ["a", "[reviews]"],
        ["b", "[reviews]"],
    ]
    assert (
        await kube.ok("get vs -o go-template={{range.items}}{{.metadata.name}}{{end}}")
        == "abc"
    )
    assert (await kube.ok("get vs a c --no-headers --show-labels")).split()[
        3
    ] == "team=x"
    assert "subset: v1" in await kube.ok("apply view-last-applied vs/a")
    assert (
        await kube.ok(
            "get virtualservices.v1alpha3.networking.istio.io a -o jsonpath={.apiVersion}"
        )
        == "networking.istio.io/v1alpha3"
    )
    assert (await kube.ok("delete vs -l team=x --wait=false")).count("deleted") == 2
    assert "deleted" in await kube.ok("delete vs --all")
    assert (await kube.run("delete vs nobody --ignore-not-found")).code == 0


async def test_a_store_that_is_full_refuses_writes_and_keeps_what_it_has(
    tmp_path: Path,
) -> None:
    if os.geteuid():
        pytest.skip("only root can make a small file system")
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = await asyncio.create_subprocess_exec(
        "mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)
    )
    assert await mounted.wait() == 0
    try:
        async with serving(folder) as kube:
            await kube.ok("apply -f -", virtual_service("v1"))
            ballast = folder / "ballast"
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                while file.write(b"x" * 4096):
                    pass
            refused = await kube.run(
                "apply --server-side --force-conflicts -f -", virtual_service("v2")
            )
            assert refused.code == 1
            assert "cannot be saved: No space left on device" in refused.err
            assert await subset(kube) == "v1"
            ballast.unlink()
            await kube.ok(
                "apply --server-side --force-conflicts -f -", virtual_service("v2")
            )
            assert await subset(kube) == "v2"
    finally:
        await (await asyncio.create_subprocess_exec("umount", "-l", str(folder))).wait()
