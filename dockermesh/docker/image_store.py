"""The engine's images: looking, pulling, pushing, importing, and running one for a moment.

Invariant: only what a caller names is pulled or pushed; every failure is an EngineError.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import docker
import docker.errors

from dockermesh.docker.connection import ENGINE_FAILURES
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError

_RUN_LIMIT_S = 900


class ImageStore:
    """The images of one engine."""

    def __init__(self, engine: LocalEngine) -> None:
        self._api = engine.sdk

    def inspect(self, reference: str) -> dict[str, Any] | None:
        """GET /images/NAME/json; None if it is not here."""
        with _told(f"{reference} cannot be looked at"):
            try:
                return dict(self._api.inspect_image(reference))
            except docker.errors.ImageNotFound:
                return None

    def labels(self, reference: str) -> dict[str, str] | None:
        """The image's labels; None if it is not here."""
        found = self.inspect(reference)
        return None if found is None else dict(found["Config"].get("Labels") or {})

    def digest(self, reference: str) -> str:
        """`sha256:...` as the registry that it came from has it; empty if it came from none."""
        found = self.inspect(reference) or {}
        repository = reference.rpartition(":")[0]
        digests = [str(d) for d in found.get("RepoDigests") or ()]
        # An image has a digest for each repository that it was pulled from or pushed to.
        ours = [d for d in digests if d.startswith(f"{repository}@")]
        return (ours or [""])[0].partition("@")[2]

    def pull(self, reference: str) -> str:
        """Pull an image that the user named; returns its digest.

        Raises EngineError with the registry's answer.
        """
        with _told(f"{reference} cannot be pulled"):
            self._follow(self._api.pull(_tagged(reference), stream=True, decode=True))
        return self.digest(reference)

    def can_pull(self, reference: str) -> bool:
        """Whether the image's registry answers and has it; nothing is pulled."""
        try:
            # The engine asks, not this machine: it has the network and the mirrors that a pull
            # would have.
            self._api.inspect_distribution(_tagged(reference))
        except ENGINE_FAILURES:
            return False
        return True

    def push(self, source: str, target: str) -> str:
        """Push `source` as `target`; returns the digest there."""
        repository, _, tag = target.rpartition(":")
        with _told(f"{target} cannot be pushed"):
            self._api.tag(source, repository, tag)
            self._follow(self._api.push(repository, tag=tag, stream=True, decode=True))
        return self.digest(target)

    def save(self, references: Sequence[str], file: BinaryIO) -> None:
        """Write the images as one tar, as `docker save` does."""
        with _told("the images cannot be saved"):
            # The SDK's own call takes one image; all in one tar have the layers that they share
            # once.
            url = self._api._url("/images/get")
            answer = self._api._get(
                url, params={"names": list(references)}, stream=True
            )
            for chunk in self._api._stream_raw_result(answer, 1 << 20, False):
                file.write(chunk)

    def import_tar(self, file: Path, reference: str, changes: Iterable[str]) -> None:
        """Make an image of a root file system in a tar."""
        repository, _, tag = reference.rpartition(":")
        with _told(f"{reference} cannot be imported"), file.open("rb") as content:
            self._follow_text(
                self._api.import_image_from_data(
                    content, repository=repository, tag=tag, changes=list(changes)
                )
            )

    def run(
        self,
        image: str,
        command: Sequence[str],
        *,
        files: Mapping[str, bytes] | None = None,
        environment: Mapping[str, str] | None = None,
        result: str = "",
    ) -> tuple[int, str, bytes]:
        """Run a command in a container of its own, with `files` in /in; returns the exit status,
        what it wrote, and a tar of the path `result`. Nothing of it stays in an image.
        """
        with _told(f"{image} cannot be run"):
            made = self._api.create_container(
                # An empty list drops the image's entrypoint; None would keep it.
                image,
                list(command),
                environment=dict(environment or {}),
                entrypoint=[],
            )["Id"]
            try:
                # By the archive API, as exec needs a running container. Nothing is mounted in
                # this one, so engines that fail below a symlink do not.
                self._api.put_archive(made, "/", _archive(files or {}))
                self._api.start(made)
                status = int(self._api.wait(made, timeout=_RUN_LIMIT_S)["StatusCode"])
                said = bytes(self._api.logs(made)).decode("utf-8", "replace")
                wanted = result if status == 0 else ""
                archive = (
                    b"".join(self._api.get_archive(made, wanted)[0]) if wanted else b""
                )
            finally:
                self._api.remove_container(made, force=True, v=True)

        return status, said, archive

    def _follow(self, events: Iterable[Mapping[str, Any]]) -> None:
        # The engine answers 200 before it begins; what fails later is an event of the stream.
        for event in events:
            if "error" in event:
                raise docker.errors.DockerException(str(event["error"]))

    def _follow_text(self, answer: str) -> None:
        # An import streams the same events, which the SDK hands out as one text.
        if '"error"' in answer:
            raise docker.errors.DockerException(answer.strip())


def _tagged(reference: str) -> str:
    has_tag = ":" in reference.rpartition("/")[2] or "@" in reference
    return reference if has_tag else f"{reference}:latest"


def _archive(files: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        folder = tarfile.TarInfo("in")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(f"in/{name}")
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except ENGINE_FAILURES as error:
        said = getattr(error, "explanation", None) or error
        raise EngineError(f"{what}: {said}") from error
