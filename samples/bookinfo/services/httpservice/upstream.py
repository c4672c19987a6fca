"""Calls to another service: one connection for each call, a deadline, and one kind of error.

A fresh connection for each call is on purpose: without a mesh it is what spreads calls over the
replicas.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any


class UpstreamError(Exception):
    """The other service gave no usable answer; `status` is its HTTP status, if there was one."""

    def __init__(self, what: str, status: int | None = None) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where another service is."""

    host: str
    port: int

    @classmethod
    def from_environment(cls, service: str, environment: Mapping[str, str]) -> Upstream:
        """`details` is at DETAILS_HOSTNAME:DETAILS_SERVICE_PORT, in SERVICES_DOMAIN if that is
        set.
        """
        prefix = service.upper()
        host = environment.get(f"{prefix}_HOSTNAME", service)
        domain = environment.get("SERVICES_DOMAIN", "")
        port = int(environment.get(f"{prefix}_SERVICE_PORT", "9080"))
        return cls(f"{host}.{domain}" if domain else host, port)

    def get_json(
        self, path: str, *, headers: Mapping[str, str], timeout: float
    ) -> tuple[Any, Mapping[str, str]]:
        """The document at a path and the headers it came with; anything but 200 with JSON is an
        UpstreamError.
        """
        try:
            status, reply_headers, body = self._get(path, headers, timeout)
        except (OSError, http.client.HTTPException) as error:
            raise UpstreamError(
                f"{self.host}:{self.port}{path}: {error or type(error).__name__}"
            ) from error
        if status != HTTPStatus.OK:
            raise UpstreamError(
                f"{self.host}:{self.port}{path}: status {status}", status
            )
        try:
            return json.loads(body), reply_headers
        except ValueError as error:
            raise UpstreamError(
                f"{self.host}:{self.port}{path}: not JSON: {error}"
            ) from error

    def _get(
        self, path: str, headers: Mapping[str, str], timeout: float
    ) -> tuple[int, dict[str, str], bytes]:
        deadline = time.monotonic() + timeout
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        connection.sock = self._connect(deadline)
        try:
            connection.request(
                "GET",
                path,
                headers={
                    "accept": "application/json",
                    "connection": "close",
                    **headers,
                },
            )
            connection.sock.settimeout(_remaining(deadline))
            reply = connection.getresponse()
            return (
                reply.status,
                {name.lower(): value for name, value in reply.getheaders()},
                reply.read(),
            )
        finally:
            connection.close()

    def _connect(self, deadline: float) -> socket.socket:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        # Docker's DNS answers with all replicas of an alias; libc sorts the nearest first, always
        # the same one.
        random.shuffle(found)
        refused: OSError | None = None
        for *_, address in found:
            try:
                return socket.create_connection(
                    (str(address[0]), self.port), timeout=_remaining(deadline)
                )
            except OSError as error:
                refused = error
        raise refused or OSError(f"{self.host} has no address")


def _remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
