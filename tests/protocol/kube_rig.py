"""The config API over a folder store on loopback, and the real kubectl against it."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patience import SLACK

from dockermesh.ca import Authority, new_material
from dockermesh.client.mesh.api_client import Endpoint
from dockermesh.client.mesh.kubeconfig import write
from dockermesh.http.port import HttpPort, ServerTls
from dockermesh.kubeapi.cache import ObjectCache
from dockermesh.kubeapi.history import History
from dockermesh.kubeapi.resources import make_api_app
from dockermesh.registry.folder.config_store import FolderConfigStore
from dockermesh.registry.folder.history_store import FolderDocuments

TOKEN = "a-token"
KUBECTL = shutil.which("kubectl") or ""


@dataclass(frozen=True, slots=True)
class Done:
    """What a command said."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


@dataclass(slots=True)
class Kube:
    """A running API, and a place for kubectl's files."""

    endpoint: Endpoint
    folder: Path
    cache: ObjectCache
    store: FolderConfigStore

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        """kubectl, running."""
        environment = {
            **os.environ,
            "HOME": str(self.folder),
            "KUBECONFIG": str(self.folder / "kubeconfig"),
        }
        environment |= {
            "EDITOR": str(self.folder / "editor"),
            "KUBE_EDITOR": str(self.folder / "editor"),
        }
        environment.pop("HTTP_PROXY", None)
        return await asyncio.create_subprocess_exec(
            KUBECTL,
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )

    async def run(self, command: str, text: str = "") -> Done:
        """kubectl with these words, to its end."""
        process = await self.start(*command.split())
        out, err = await asyncio.wait_for(
            process.communicate(text.encode()), 60 * SLACK
        )
        return Done(process.returncode or 0, out.decode(), err.decode())

    async def ok(self, command: str, text: str = "") -> str:
        """The output of what must succeed."""
        done = await self.run(command, text)
        assert done.code == 0, f"kubectl {command}: {done.err}"
        return done.out


@asynccontextmanager
async def serving(folder: Path, token: str | None = TOKEN) -> AsyncIterator[Kube]:
    """The API on a free port, with a kubeconfig for it."""
    store, cache = FolderConfigStore(folder / "store"), ObjectCache()
    authority = Authority(
        new_material("cluster.local", datetime.datetime.now(datetime.UTC))
    )
    port = HttpPort(
        make_api_app(
            store, cache, token, history=History(FolderDocuments(folder / "history"))
        ),
        "127.0.0.1:0",
        ServerTls(lambda: authority, ("localhost",)),
    )
    await port.start()
    (folder / "root.pem").write_bytes(authority.roots_pem)
    following = asyncio.create_task(
        store.follow(lambda stored: cache.update(stored, store.index))
    )
    scheme = "https" if token else "http"
    endpoint = Endpoint(
        f"{scheme}://127.0.0.1:{port.port}", token or "", authority.roots_pem.decode()
    )
    kube = Kube(endpoint, folder, cache, store)
    write(folder / "kubeconfig", endpoint, "istio", set_current=True)
    try:
        yield kube
    finally:
        following.cancel()
        await port.stop()
