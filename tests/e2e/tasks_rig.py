"""What the tests of bookinfo's tasks do as their reader would: apply files with kubectl, open
pages, send load.

Invariant: whatever a test applies it takes away again; shares are judged by exact binomial bounds.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import comb
from pathlib import Path
from typing import Any

from load import GIVES_UP_S
from mesh_rig import ROOT, SAMPLE, Mesh, docker, run
from patience import SLACK, until

NETWORKING = Path(SAMPLE).parent / "networking"
TOOLS = str(ROOT / "samples/bookinfo/tools.yaml")
TOOLS_PROJECT = "bookinfo-tools"
VERSIONS = ("destination-rule-all", "virtual-service-all-v1")
FALSE_ALARM = 1e-6
_PATIENCE_S = 12 * SLACK
_BY_COLOUR = {"black": "v2", "red": "v3"}
_VERSION = re.compile(r"reviews-(v\d)")
_SORRY = re.compile(r"[^<>]*currently unavailable[^<>]*")


@dataclass(frozen=True, slots=True)
class Page:
    """The product page: which version wrote the reviews, what it could not show, and how long it
    took.
    """

    version: str
    sorry: str
    seconds: float


@dataclass(frozen=True)
class Tasks:
    """The mesh, bookinfo's gateway, and the files of the tasks."""

    mesh: Mesh
    kubeconfig: str

    # kubectl
    # ----------------------------------------------------------------------------------------------

    def kubectl(
        self, *arguments: str, text: str | None = None, check: bool = True
    ) -> str:
        """kubectl's output."""
        environment = dict(os.environ) | {"KUBECONFIG": self.kubeconfig}
        more: dict[str, Any] = {"env": environment} | (
            {} if text is None else {"input": text}
        )
        return run("kubectl", *arguments, check=check, **more).stdout

    @contextmanager
    def applied(self, *names: str) -> Iterator[None]:
        """Files of `networking/`, applied in this order, and their resources removed in the
        opposite one.

        Rules go before the subsets that they name: a rule that names none is answered 503, here as
        in Istio.
        """
        files = [f"--filename={NETWORKING / name}.yaml" for name in names]
        try:
            self.kubectl("apply", *files)
            self.kubectl(
                "wait",
                "--for=condition=Programmed",
                f"--timeout={30 * SLACK:g}s",
                *files,
            )
            yield
        finally:
            self.kubectl("delete", "--ignore-not-found", *reversed(files))

    @contextmanager
    def secret(
        self, namespace: str, name: str, kind: str, *options: str
    ) -> Iterator[None]:
        """A Secret as `kubectl create secret` makes it, removed in the end."""
        try:
            self.kubectl("create", "-n", namespace, "secret", kind, name, *options)
            yield
        finally:
            self.kubectl(
                "delete", "-n", namespace, "secret", name, "--ignore-not-found"
            )

    def renew(self, namespace: str, name: str, kind: str, *options: str) -> None:
        """Replace a Secret the way everybody does it."""
        made = self.kubectl(
            "create",
            "-n",
            namespace,
            "secret",
            kind,
            name,
            *options,
            "--dry-run=client",
            "-o",
            "yaml",
        )
        self.kubectl("apply", "-f", "-", text=made)

    # bookinfo
    # ----------------------------------------------------------------------------------------------

    def page(self, user: str = "") -> Page:
        """The page as a user sees it."""
        began = time.monotonic()
        status, body = self._request(
            "GET", "/productpage", cookie=self.jason if user else ""
        )
        seconds = time.monotonic() - began
        assert status == 200, f"{status}: {body[:200]}"
        version, sorry = _VERSION.search(body), _SORRY.search(body)
        return Page(
            version[1] if version else "", sorry[0].strip() if sorry else "", seconds
        )

    def versions(self, requests: int, user: str = "") -> Counter[str]:
        """Which versions answer so many requests for reviews: v1 has no stars, v2 black ones, v3
        red ones.
        """

        cookie = self.jason if user else ""

        def version(_: int) -> str:
            return until(
                lambda: self._version(cookie),
                "reviews are answered with all of their parts",
            )

        with ThreadPoolExecutor(4) as pool:
            return Counter(pool.map(version, range(requests)))

    def _version(self, cookie: str) -> str:
        """Who answers a request for reviews; empty where an app lost patience, as it may on a busy
        machine.
        """
        began = time.monotonic()
        status, body = self._request("GET", "/api/v1/products/0/reviews", cookie=cookie)
        rating = json.loads(body)["reviews"][0].get("rating") if status == 200 else {}
        if time.monotonic() - began >= GIVES_UP_S and (
            status != 200 or (rating and "color" not in rating)
        ):
            return ""
        assert status == 200, f"{status}: {body[:200]}"
        return _BY_COLOUR[rating["color"]] if rating else "v1"

    @cached_property
    def jason(self) -> str:
        """The cookie of somebody who signed in as jason."""
        return until(self._sign_in, "jason may sign in")

    def _sign_in(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", 30080, timeout=_PATIENCE_S)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/login", "username=jason&passwd=x", form)
        cookie = connection.getresponse().headers["set-cookie"] or ""
        connection.close()
        return cookie.partition(";")[0]

    def _request(self, method: str, path: str, *, cookie: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", 30080, timeout=_PATIENCE_S)
        try:
            connection.request(
                method, path, headers={"Cookie": cookie} if cookie else {}
            )
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()

    # the tools
    # ----------------------------------------------------------------------------------------------

    def load(self, url: str, requests: int = 1, connections: int = 1) -> dict[str, Any]:
        """What the load generator in the mesh reports."""
        command = [
            "python3",
            "-m",
            "tools.load",
            "-n",
            str(requests),
            "-c",
            str(connections),
            url,
        ]
        found: dict[str, Any] = json.loads(
            docker("exec", f"{TOOLS_PROJECT}-client-1", *command)
        )
        return found

    def python(self, program: str) -> str:
        """The output of a program in the client's container."""
        return docker("exec", f"{TOOLS_PROJECT}-client-1", "python3", "-c", program)


def check_share(hits: int, of: int, share: float) -> None:
    """Fail if so few or so many hits would come once in a million runs or less, were `share`
    true.
    """
    chances = [comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(of + 1)]
    fewer, more = sum(chances[: hits + 1]), sum(chances[hits:])
    assert min(fewer, more) >= FALSE_ALARM / 2, (
        f"{hits} of {of} where a share of {share:.0%} was asked for"
    )
