"""The official SDK's client, connected as the Docker CLI would connect: a unix socket, TCP, TLS, or
the user's own ssh.

Invariant: nothing but the engine's address decides the connection. The SDK alone would also heed
`REQUESTS_CA_BUNDLE` in place of the engine's CA, `~/.netrc`, and proxies for this very machine; and
start an ssh for each request.
"""

from __future__ import annotations

import os
import ssl
from typing import Any

import docker
import docker.errors
import requests.adapters
import requests.utils
import urllib3

from dockermesh.docker.address import EngineAddress, EngineTls
from dockermesh.docker.ssh import SshAdapter

ENGINE_FAILURES = (
    docker.errors.DockerException,
    requests.RequestException,
    # What is read after the head of an answer, past `requests`.
    urllib3.exceptions.HTTPError,
    OSError,
)
"""What a call of the SDK's raises where the engine fails, or is not there."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# Only so that the SDK asks nothing by itself: GET /version is then asked without a version.
_ANY_VERSION = "1.41"


def open_client(address: EngineAddress, *, timeout: int, version: str = "") -> Any:
    """A client that speaks this version of the API, or without one the engine's newest, for which
    it is asked; `timeout` in seconds holds for each answer. Raises what the SDK raises.
    """
    version = version or os.environ.get("DOCKER_API_VERSION", "")
    adapter = _adapter(address, timeout)
    if not version:
        # By the same connection: one by ssh or TLS takes its time.
        probe = _connect(address, timeout, _ANY_VERSION, adapter)
        version = str(probe.version(api_version=False)["ApiVersion"])
    return _connect(address, timeout, version, adapter)


def _adapter(
    address: EngineAddress, timeout: int
) -> requests.adapters.HTTPAdapter | None:
    """What carries the requests, where the SDK's own would not do."""
    if address.url.startswith("ssh://"):
        return SshAdapter(address.url, timeout)
    tls = _tls_of(address)
    return _TlsAdapter(_context(tls)) if tls is not None else None


def _tls_of(address: EngineAddress) -> EngineTls | None:
    # A context may have TLS files beside a socket or ssh, which have no use for them.
    return address.tls if address.url.startswith("tcp://") else None


def _connect(
    address: EngineAddress,
    timeout: int,
    version: str,
    adapter: requests.adapters.HTTPAdapter | None,
) -> Any:
    is_ssh, tls = address.url.startswith("ssh://"), _tls_of(address)
    # With a version given the SDK connects at the first call only, so the adapter can be replaced.
    client: Any = docker.APIClient(
        # Given an ssh:// address, the SDK would connect by itself, and at once.
        base_url="unix:///ssh" if is_ssh else address.url,
        version=version,
        timeout=timeout,
        # Makes https:// of tcp://; the adapter that comes with it is replaced below.
        tls=tls is not None,
    )
    # Else a variable for other servers (REQUESTS_CA_BUNDLE) wins over what `verify` says.
    client.trust_env = False
    if adapter is not None:
        # What is not HTTP over TCP has this scheme within the SDK.
        client.mount("http+docker://" if is_ssh else "https://", adapter)

    if tls is not None:
        client.verify = _verification(tls)
    # As Go has it for the CLI: the environment's proxies count, but never on the way to this
    # machine.
    if address.is_remote and not is_ssh and address.host not in _LOOPBACK:
        client.proxies = requests.utils.get_environ_proxies(client.base_url)
    return client


def _verification(tls: EngineTls) -> bool | str:
    """What the SDK's client verifies an engine by, in the words of `requests`."""
    if not tls.verify:
        # Whoever made the setting knows; a line for every call would not tell them more.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        return False
    return str(tls.ca) if tls.ca else True


def _context(tls: EngineTls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    # Python 3.13 asks for an authority key identifier, which certificates that other tools made for
    # engines do not have, those of docker:dind among them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.certificate and tls.key:
        context.load_cert_chain(tls.certificate, tls.key)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _TlsAdapter(requests.adapters.HTTPAdapter):
    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        # Through a proxy, too, TLS is spoken with the engine itself.
        return super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)
