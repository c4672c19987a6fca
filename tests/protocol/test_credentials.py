"""`kubectl create secret tls`, and the gateway has the certificate; nobody else has, and Consul
keeps it sealed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from bridge_rig import Agent, eventually
from control_plane_rig import (
    Running,
    Stream,
    control_plane,
    node_id,
    secrets_in,
    workload,
)
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from kube_rig import KUBECTL, Done, serving
from tls_files import Pair, self_signed

from dockermesh.client.mesh.api_client import Endpoint
from dockermesh.client.mesh.kubeconfig import write
from dockermesh.model import WorkloadKind

pytestmark = [
    pytest.mark.consul,
    pytest.mark.kubectl,
    pytest.mark.asyncio(loop_scope="module"),
]

LABELS = {"istio": "ingressgateway"}
GATEWAY = workload(
    "shop/gateway-1", kind=WorkloadKind.GATEWAY, namespace="istio-system", labels=LABELS
)
REVIEWS = workload("shop/reviews-1")
PAIR, ROOTS = (
    "kubernetes://bookinfo-credential",
    "kubernetes://bookinfo-credential-cacert",
)
SECRET = "create -n istio-system secret tls bookinfo-credential --key {}/tls.key --cert {}/tls.crt"
EDGE = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "Gateway",
    "metadata": {"name": "edge", "namespace": "default"},
    "spec": {
        "selector": LABELS,
        "servers": [
            {
                "port": {"number": 443, "name": "https", "protocol": "HTTPS"},
                "hosts": ["*"],
                "tls": {"mode": "MUTUAL", "credentialName": "bookinfo-credential"},
            }
        ],
    },
}


class Shell:
    """kubectl against a running control plane."""

    def __init__(self, mesh: Running, folder: Path) -> None:
        self.mesh = mesh
        self.folder = folder
        address = f"https://{mesh.settings.api}"
        root = (mesh.settings.trust_dir / "root.pem").read_text()
        write(
            folder / "kubeconfig",
            Endpoint(address, mesh.token, root),
            "istio",
            set_current=True,
        )

    async def run(self, command: str, text: str = "") -> Done:
        environment = {
            **os.environ,
            "HOME": str(self.folder),
            "KUBECONFIG": str(self.folder / "kubeconfig"),
        }
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            KUBECTL,
            *command.split(),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=environment,
        )
        out, err = await process.communicate(text.encode())
        return Done(process.returncode or 0, out.decode(), err.decode())

    async def ok(self, command: str, text: str = "") -> str:
        done = await self.run(command, text)
        assert done.code == 0, f"kubectl {command}: {done.err}"
        return done.out

    async def in_consul(self) -> str:
        """All that the mesh keeps in Consul: config, history, workloads, CA."""
        url = f"{self.mesh.agent.settings.address}/v1/kv/dockermesh/?recurse"
        with await asyncio.to_thread(urllib.request.urlopen, url) as answer:
            items = json.loads(answer.read())
        return "\n".join(
            base64.b64decode(item["Value"] or "").decode("utf-8", "replace")
            for item in items
        )


async def told(
    stream: Stream, name: str, is_right: Callable[[secret_pb2.Secret], bool]
) -> None:
    """Ask for a secret, and wait until what is pushed is right."""
    found = (await stream.secrets(name)).get(name)
    while found is None or not is_right(found):
        found = secrets_in(await stream.answer()).get(name, found)


def key_is(pair: Pair) -> Callable[[secret_pb2.Secret], bool]:
    """A pair, and behind its certificate the key once more, in the form that is kept: sealed."""

    def is_pair(secret: secret_pb2.Secret) -> bool:
        found = secret.tls_certificate
        chain = found.certificate_chain.inline_bytes.decode()
        certificate, begin, sealed = chain.partition("-----BEGIN ENCRYPTED PRIVATE KEY")
        if found.private_key.inline_bytes.decode() != pair.key:
            return False

        assert certificate == pair.certificate
        assert begin, "a gateway keeps what it serves with"
        assert "BEGIN" not in sealed, "nothing else"
        return True

    return is_pair


def roots_are(pair: Pair) -> Callable[[secret_pb2.Secret], bool]:
    return lambda secret: (
        secret.validation_context.trusted_ca.inline_bytes.decode() == pair.certificate
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shell(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shell]:
    folder = tmp_path_factory.mktemp("credentials")
    async with Agent() as agent, control_plane(folder, agent) as mesh:
        await mesh.add(GATEWAY, REVIEWS)
        made = Shell(mesh, folder)
        await made.ok("apply -f -", json.dumps(EDGE))
        yield made


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    return [
        self_signed(tmp_path_factory.mktemp(f"pair-{n}"), "bookinfo.example")
        for n in range(2)
    ]


async def accepted(shell: Shell, name: str) -> dict[str, str]:
    found = json.loads(
        await shell.ok(f"get gateway.networking.istio.io {name} -o json")
    )
    return next(c for c in found["status"]["conditions"] if c["type"] == "Accepted")


async def test_a_certificate_that_is_missing_is_in_the_status_until_it_is_there(
    shell: Shell, pairs: list[Pair]
) -> None:
    condition = await accepted(shell, "edge")
    assert (condition["status"], condition["reason"]) == ("False", "ReferenceNotFound")
    assert condition["message"] == (
        "spec.servers[0].tls: there is no Secret bookinfo-credential in namespace istio-system"
        " or default; its hosts are refused"
    )

    folder = pairs[0].folder
    secret = "secret generic bookinfo-credential"
    await shell.ok(f"create {secret} --from-file=ca.crt={folder}/tls.crt")

    async def says(text: str) -> bool:
        return text in (await accepted(shell, "edge"))["message"]

    await eventually(lambda: says("holds no certificate with its key"), 10)
    await shell.ok(f"delete {secret.replace('generic ', '')}")
    await eventually(lambda: says("there is no Secret"), 10)

    await shell.ok(SECRET.format(folder, folder))

    async def is_accepted() -> bool:
        return (await accepted(shell, "edge"))["status"] == "True"

    await eventually(is_accepted, 10)
    await shell.ok("delete -n istio-system secret bookinfo-credential")


async def test_the_gateway_gets_the_secret_and_its_successor_over_its_stream(
    shell: Shell, pairs: list[Pair]
) -> None:
    old, new = pairs
    assert "created" in await shell.ok(SECRET.format(old.folder, old.folder))
    node = node_id(GATEWAY.name, "istio-system")
    async with shell.mesh.stream(GATEWAY.name, node=node) as stream:
        await told(stream, PAIR, key_is(old))
        document = await shell.ok(
            SECRET.format(new.folder, new.folder) + " --dry-run=client -o yaml"
        )
        assert "configured" in await shell.ok("apply -f -", document)
        while not key_is(new)(secrets_in(await stream.answer())[PAIR]):
            pass
    # The same again is no change, although it would not be sealed to the same bytes.
    version = "get secret -n istio-system bookinfo-credential -o jsonpath={.metadata.resourceVersion}"
    before = await shell.ok(version)
    await shell.ok("apply -f -", document)
    assert await shell.ok(version) == before


async def test_clients_are_checked_against_the_secrets_ca(
    shell: Shell, pairs: list[Pair]
) -> None:
    folder, roots = pairs[0].folder, pairs[1].folder
    await shell.run("delete -n istio-system secret bookinfo-credential")
    generic = "create -n istio-system secret generic bookinfo-credential"
    await shell.ok(
        f"{generic} --from-file={folder}/tls.crt --from-file={folder}/tls.key"
        f" --from-file=ca.crt={roots}/tls.crt"
    )
    async with shell.mesh.stream(
        GATEWAY.name, node=node_id(GATEWAY.name, "istio-system")
    ) as stream:
        await told(stream, ROOTS, roots_are(pairs[1]))


async def test_a_credential_that_is_not_there_is_not_spoken_of(
    shell: Shell, pairs: list[Pair]
) -> None:
    """A secret that names files which the gateway has not would be refused, and with it all
    others.
    """
    edge = json.loads(
        json.dumps(EDGE).replace("bookinfo", "lost").replace('"*"', '"lost.example"')
    )
    edge["metadata"]["name"] = "lost"
    await shell.ok("apply -f -", json.dumps(edge))
    await shell.run(SECRET.format(pairs[0].folder, pairs[0].folder))
    async with shell.mesh.stream(
        GATEWAY.name, node=node_id(GATEWAY.name, "istio-system")
    ) as stream:
        await told(stream, PAIR, lambda _: True)
        got = await stream.secrets("default", PAIR, PAIR.replace("bookinfo", "lost"))
    assert got.keys() == {"default", PAIR}
    await shell.ok("delete -f -", json.dumps(edge))


async def test_a_sidecar_is_not_given_the_gateways_key(shell: Shell) -> None:
    async with shell.mesh.stream(REVIEWS.name) as stream:
        got = await stream.secrets("default", PAIR)
    assert got.keys() == {"default"}


async def test_a_sidecar_does_without_a_credential_that_only_the_gateway_has(
    shell: Shell, pairs: list[Pair]
) -> None:
    name = "kubernetes://site-ca-cacert"
    rule = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "site"},
        "spec": {
            "host": "site.example",
            "trafficPolicy": {"tls": {"mode": "SIMPLE", "credentialName": "site-ca"}},
        },
    }
    port = {"number": 443, "name": "https", "protocol": "HTTPS"}
    entry = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "site"},
        "spec": {"hosts": ["site.example"], "ports": [port], "resolution": "DNS"},
    }
    await shell.ok(
        "create -n istio-system secret generic site-ca"
        f" --from-file=ca.crt={pairs[0].folder}/tls.crt"
    )
    await shell.ok("apply -f -", json.dumps(entry))
    await shell.ok("apply -f -", json.dumps(rule))
    async with shell.mesh.stream(REVIEWS.name) as stream:
        await told(
            stream,
            name,
            lambda s: s.validation_context.trusted_ca.filename.endswith(
                "/ca-certificates.crt"
            ),
        )
    async with shell.mesh.stream(
        GATEWAY.name, node=node_id(GATEWAY.name, "istio-system")
    ) as stream:
        await told(stream, name, roots_are(pairs[0]))
    # In the sidecar's own namespace it is for sidecars.
    await shell.ok(
        f"create secret generic site-ca --from-file=ca.crt={pairs[1].folder}/tls.crt"
    )
    async with shell.mesh.stream(REVIEWS.name) as stream:
        await told(stream, name, roots_are(pairs[1]))


async def test_nothing_of_a_secret_is_readable_in_consul(
    shell: Shell, pairs: list[Pair]
) -> None:
    first = pairs[0]
    await shell.ok(
        "apply -f -",
        await shell.ok(
            SECRET.format(first.folder, first.folder) + " --dry-run=client -o yaml"
        ),
    )
    kept = await shell.in_consul()
    assert "bookinfo-credential" in kept
    for plain in (first.key, first.certificate):
        assert plain not in kept
        assert base64.b64encode(plain.encode()).decode() not in kept
    shown = await shell.ok(
        "get secret -n istio-system bookinfo-credential -o jsonpath={.data.tls\\.key}"
    )
    assert base64.b64decode(shown).decode() == first.key
    table = (await shell.ok("get secrets -A")).splitlines()
    assert table[0].split() == ["NAMESPACE", "NAME", "TYPE", "DATA", "AGE"]


async def test_what_a_proxy_would_refuse_is_refused_at_once(
    shell: Shell, pairs: list[Pair]
) -> None:
    one, other = pairs[0].folder, pairs[1].folder
    wrong = await shell.run(
        f"create secret generic wrong --from-file={one}/tls.crt --from-file={other}/tls.key"
    )
    assert wrong.code == 1
    assert "the key is not that of the certificate" in wrong.err
    broken = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong"}}
    for fields, message in (
        (
            {"type": "kubernetes.io/tls", "stringData": {"tls.crt": "x"}},
            "data[tls.key]: Required value",
        ),
        ({"stringData": {"tls.crt": "x", "tls.key": "y"}}, "is no PEM"),
        ({"data": {"a": "%%"}}, "data[a]: must be base64"),
        ({"data": 5}, "data: must be a mapping of texts"),
    ):
        refused = await shell.run(
            "create --validate=false -f -", json.dumps(broken | fields)
        )
        assert refused.code == 1, fields
        assert message in refused.err
    assert "NotFound" in (await shell.run("get secret wrong")).err


async def test_without_tokens_there_are_no_secrets(tmp_path: Path) -> None:
    async with serving(tmp_path, token=None) as kube:
        refused = await kube.run("get secrets -A")
        assert (refused.code, "--api-auth token" in refused.err) == (1, True)
        assert (await kube.run("create secret generic x --from-literal=a=b")).code == 1


async def test_who_has_the_token_may_do_everything(shell: Shell) -> None:
    assert (await shell.ok("auth can-i create virtualservices")).strip() == "yes"
    assert "admin" in await shell.ok("auth whoami")
