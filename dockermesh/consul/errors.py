"""What can go wrong between us and Consul, as one tuple to catch and one sentence to say."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator

import aiohttp
import consul

from dockermesh.errors import RegistryError

ConsulError = consul.ConsulException
"""Consul answered, with a refusal; the text begins with the status."""
FAILURES = (ConsulError, aiohttp.ClientError, OSError, TimeoutError)
"""Everything that a request can raise."""
TRY_AGAIN = "see that Consul runs and has a leader, then try again"


@contextlib.asynccontextmanager
async def consul_errors(where: str) -> AsyncIterator[None]:
    """Turns every failure of the client into a RegistryError."""
    try:
        yield
    except FAILURES as error:
        text = str(error) or type(error).__name__
        raise RegistryError(
            f"Consul failed: {text[:300]}", where=where, fix="see whether Consul runs"
        ) from error


def registry_error(
    error: BaseException, address: str, what: str, *, where: str
) -> RegistryError:
    """The failure of a request about `what` as an error that a user can meet."""
    return RegistryError(explain(error, address, what), where=where, fix=TRY_AGAIN)


def explain(error: BaseException, address: str, what: str) -> str:
    """A plain sentence for the operator."""
    if isinstance(error, consul.ACLPermissionDenied):
        return (
            f"Consul at {address} refused {what} (403: {_short(error)}). Set CONSUL_HTTP_TOKEN to a"
            ' token with service_prefix "" read, node_prefix "" read and key_prefix "dockermesh/"'
            " write."
        )
    if isinstance(error, ConsulError):
        return f"Consul at {address} failed to answer {what} ({_short(error)})."
    if isinstance(error, TimeoutError):
        return f"Consul at {address} did not answer {what} in time."
    if isinstance(error, OSError | aiohttp.ClientError):
        return f"Consul at {address} cannot be reached ({_short(error)})."

    return (
        f"Consul at {address} answered {what} with something else than expected"
        f" ({type(error).__name__})."
    )


def is_refused_connection(error: BaseException) -> bool:
    """Whether Consul dropped this connection, as it does beyond its limit per client address."""
    if isinstance(error, ConsulError):
        return str(error).startswith("429")
    if isinstance(error, aiohttp.ClientConnectorError):
        return False
    reset = isinstance(error, OSError) and error.errno in (
        errno.ECONNRESET,
        errno.EPIPE,
    )
    return reset or isinstance(error, aiohttp.ServerDisconnectedError)


def is_conflict(error: BaseException) -> bool:
    """Whether a transaction was not done because a key is at another version."""
    return str(error).startswith("409")


def is_unknown(error: BaseException) -> bool:
    """Whether Consul does not know what was asked for, such as a session that has ended."""
    return isinstance(error, consul.NotFound) or "404" in str(error)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return ascii(text[:160])[1:-1]
