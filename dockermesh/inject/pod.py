"""The three Compose services of a replica: pod, proxy and app.

Invariant: the network, and all that Docker ties to it, is the pod's; the proxy has no privilege and
nothing but what Envoy needs; everything else stays with the app.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from typing import Any

from dockermesh.inject import names
from dockermesh.inject.images import Images, image_keys
from dockermesh.inject.plan import Meshed, Plan
from dockermesh.inject.proxy_config import ONE_PER_CPU, ProxyStart
from dockermesh.inject.references import links, rewritten
from dockermesh.inject.settings import EXTENSION
from dockermesh.inject.string_map import string_map
from dockermesh.model import PROXY_UID, TRUST_PATH, WorkloadKind, contract
from dockermesh.model.canonical import told_of_itself
from dockermesh.model.contract import ENV_KIND, ENV_NAMESPACE, ENV_WORKLOAD

Service = dict[str, Any]

_MOVED = (
    "hostname",
    "domainname",
    "extra_hosts",
    "dns",
    "dns_search",
    "dns_opt",
    "mac_address",
    "external_links",
)
_GONE = (
    *_MOVED,
    "networks",
    "ports",
    "expose",
    "links",
    "network_mode",
    "scale",
    EXTENSION,
)
_POD_CAPABILITIES = ("NET_ADMIN", "SETUID", "SETGID", "SETPCAP", "CHOWN")
"""For the rules, and for becoming uid 1337 without any of them; the pod drops all before it sleeps.
"""
_WORKERS, _DRAIN_S = 1, 5
_NO_NEW_PRIVILEGES = ["no-new-privileges:true"]


def pod(
    service: Meshed,
    replica: int,
    plan: Plan,
    *,
    mesh_key: str,
    mesh_name: str,
    images: Images,
) -> Service:
    """The pod of a replica: what the app lost, and the mesh network."""
    name = names.pod_name(service.name, replica)
    workload = names.workload_name(service.project, service.name, replica)
    settings = service.settings
    made = pod_base(
        name,
        workload=workload,
        service=service.name,
        kind=WorkloadKind.SIDECAR,
        namespace=settings.namespace,
        service_account=settings.service_account,
        mesh_name=mesh_name,
        labels=settings.labels,
        image=images.pod,
    )
    # The hosts file is on the root file system, and names the mesh network's address, too. Without
    # capabilities and new privileges the pod's processes can write nothing there that matters.
    del made["read_only"]
    definition = service.definition
    made |= {key: definition[key] for key in _MOVED if definition.get(key) is not None}
    made["networks"] = _networks(service, replica, mesh_key)
    if aliases := _aliases(
        made["networks"], {service.name, _container_name(service, replica)}
    ):
        made["labels"][contract.LABEL_ALIASES] = ",".join(aliases)
    if exposed := exposed_ports(definition):
        made["expose"] = exposed
    if linked := links(definition.get("links"), plan):
        made["links"] = linked

    if net := {
        key: value
        for key, value in string_map(definition.get("sysctls")).items()
        if key.startswith("net.")
    }:
        made["sysctls"] = net

    if profiles := definition.get("profiles"):
        made["profiles"] = list(profiles)
    return made


def pod_base(
    name: str,
    *,
    workload: str,
    service: str,
    kind: WorkloadKind,
    namespace: str,
    service_account: str,
    mesh_name: str,
    labels: Mapping[str, str],
    image: str,
) -> Service:
    """What the pods of sidecars and gateways have in common."""
    return image_keys(image) | {
        "environment": {
            ENV_KIND: kind.value,
            ENV_NAMESPACE: namespace,
            ENV_WORKLOAD: workload,
        },
        "labels": {
            contract.LABEL_ROLE: "pod",
            contract.LABEL_WORKLOAD: workload,
            contract.LABEL_SERVICE: service,
            contract.LABEL_KIND: kind.value,
            contract.LABEL_NAMESPACE: namespace,
            contract.LABEL_ACCOUNT: service_account,
            contract.LABEL_NETWORK: mesh_name,
            contract.LABEL_LABELS: json.dumps(
                labels, sort_keys=True, separators=(",", ":")
            ),
        },
        "cap_drop": ["ALL"],
        "cap_add": list(_POD_CAPABILITIES),
        "security_opt": list(_NO_NEW_PRIVILEGES),
        "read_only": True,
        "init": False,
        "healthcheck": {
            "test": ["CMD", "/usr/local/bin/pod-health"],
            "interval": "200ms",
            "timeout": "600s",
            "retries": 1,
            "start_period": "0s",
        },
        # The registrar heals what Docker does not; bringing the pod itself back is Docker's.
        "restart": "unless-stopped",
        "stop_grace_period": "5s",
        "volumes": [
            _volume(contract.TRUST_VOLUME, TRUST_PATH, read_only=True),
            _run(name),
        ],
    }


def proxy(
    pod_service: str,
    *,
    workload: str,
    service: str,
    namespace: str,
    labels: Mapping[str, str],
    images: Images,
    start: ProxyStart,
    profiles: Any,
    patience: str,
) -> Service:
    """Stock Envoy in the pod's network, as uid 1337, without capabilities, on a read-only root.

    One with `patience` (a duration of Compose's) goes on serving when it is told to stop: until the
    registrar ends it, or for that long.
    """
    threads = _WORKERS if start.concurrency is None else start.concurrency
    # Compose interpolates what it reads.
    own = {name: text.replace("$", "$$") for name, text in start.environment.items()}
    made: Service = image_keys(images.proxy) | {
        "command": [
            "envoy",
            "-c",
            f"{contract.RUN_PATH}/envoy.json",
            # Envoy counts the CPUs itself if it is told nothing.
            *(("--concurrency", f"{threads}") if threads != ONE_PER_CPU else ()),
            "--log-level",
            "warning",
            # Of this logger there are only notes on fields of ours that Envoy calls unfinished.
            "--component-log-level",
            "misc:error",
            "--drain-time-s",
            str(_DRAIN_S if start.drain_s is None else start.drain_s),
            "--disable-hot-restart",
            # Lines of access logs are to be read when they are news; Envoy would keep them 10 s.
            "--file-flush-interval-msec",
            "250",
        ],
        # What we read ourselves is ours to say.
        "environment": own | told_of_itself(workload, namespace, labels),
        "user": f"{PROXY_UID}:{PROXY_UID}",
        "network_mode": f"service:{pod_service}",
        "depends_on": {pod_service: _condition("service_started", restart=True)},
        "labels": {
            contract.LABEL_ROLE: "proxy",
            contract.LABEL_WORKLOAD: workload,
            contract.LABEL_SERVICE: service,
        },
        "cap_drop": ["ALL"],
        "security_opt": list(_NO_NEW_PRIVILEGES),
        "read_only": True,
        # The engine would start it ahead of its pod, and fail; the registrar starts it in time.
        "restart": "no",
        "stop_grace_period": "5s",
        "volumes": [
            _volume(contract.TRUST_VOLUME, TRUST_PATH, read_only=True),
            # Writable, for the socket of Envoy's admin, which must not be on the network that the
            # app shares.
            _run(pod_service),
        ],
    }
    if patience:
        # Envoy ends at once on SIGTERM, and with it what it has in hand. It ignores SIGHUP, while
        # the registrar, for which any stop signal ends the endpoint, sees to it that nothing new is
        # sent here.
        made |= {"stop_signal": "SIGHUP", "stop_grace_period": patience}

    if profiles:
        made["profiles"] = list(profiles)
    return made


def app(service: Meshed, replica: int, plan: Plan) -> Service:
    """The app, joined to its pod; started after the proxy is ready and stopped before it is."""
    pod_service = names.pod_name(service.name, replica)
    definition = rewritten(service.definition, plan)
    made = {key: value for key, value in definition.items() if key not in _GONE}
    made["network_mode"] = f"service:{pod_service}"
    made["depends_on"] = {
        **definition.get("depends_on", {}),
        pod_service: _condition("service_healthy", restart=True),
        # Compose stops in reverse order: the app must not lose its proxy while it shuts down.
        names.proxy_name(service.name, replica): _condition("service_started"),
    }
    made["labels"] = string_map(definition.get("labels")) | {
        contract.LABEL_ROLE: "app",
        contract.LABEL_WORKLOAD: names.workload_name(
            service.project, service.name, replica
        ),
        contract.LABEL_SERVICE: service.name,
    }
    _drop_raw_sockets(made, service)
    _keep_sysctls(made)
    if service.replicas > 1:
        _stand_alone(made, service)

    return made


def follower(
    name: str, definition: Mapping[str, Any], owner: Meshed, plan: Plan
) -> Service:
    """A service that shared the network of `owner`, joined to its first pod, as Compose joins the
    first replica.
    """
    made = rewritten(definition, plan)
    pod_service = names.pod_name(owner.name, 1)
    made["network_mode"] = f"service:{pod_service}"
    made["depends_on"] = {
        **made.get("depends_on", {}),
        pod_service: _condition("service_healthy", restart=True),
    }
    made["labels"] = string_map(made.get("labels")) | {
        contract.LABEL_ROLE: "follower",
        contract.LABEL_WORKLOAD: names.workload_name(owner.project, owner.name, 1),
        contract.LABEL_SERVICE: name,
    }
    _drop_raw_sockets(made, owner)

    return made


def _drop_raw_sockets(made: Service, owner: Meshed) -> None:
    """Take `NET_RAW` from who shares the pod, if that is asked for: what is sent through a raw
    socket passes no rule of capture.
    """
    dropped = list(made.get("cap_drop") or ())
    if not owner.settings.raw_sockets and not {"ALL", "NET_RAW"} & {*dropped}:
        made["cap_drop"] = [*dropped, "NET_RAW"]


def _keep_sysctls(made: Service) -> None:
    rest = {
        key: value
        for key, value in string_map(made.pop("sysctls", None)).items()
        if not key.startswith("net.")
    }
    if rest:
        made["sysctls"] = rest


def _stand_alone(made: Service, service: Meshed) -> None:
    """One replica of several: a service of its own, that must not be scaled again, nor built under
    a new name.
    """
    deploy = {
        key: value
        for key, value in (made.pop("deploy", None) or {}).items()
        if key not in ("replicas", "mode")
    }
    if deploy:
        made["deploy"] = deploy
    if made.get("build") and not made.get("image"):
        made["image"] = f"{service.project}-{service.name}"


def _container_name(service: Meshed, replica: int) -> str:
    """What Compose calls the container, which brokers and databases tell each other."""
    return f"{service.project}-{service.name}-{replica}"


def _networks(service: Meshed, replica: int, mesh_key: str) -> dict[str, Any]:
    """The service's own networks, where its names stay known to Docker's DNS, and the mesh
    network.
    """
    joined: dict[str, Any] = {}
    for network, attachment in (
        service.definition.get("networks") or {"default": None}
    ).items():
        kept = dict(attachment or {})
        container = service.definition.get("container_name") or _container_name(
            service, replica
        )
        aliases = [service.name, container, *(kept.get("aliases") or ())]
        joined[network] = kept | {"aliases": list(dict.fromkeys(filter(None, aliases)))}

    joined.setdefault(mesh_key, None)
    return joined


def _aliases(joined: Mapping[str, Any], known: Set[str]) -> list[str]:
    """By what other names Docker's DNS knows the service on any of its networks."""
    found = {
        alias
        for attachment in joined.values()
        for alias in (attachment or {}).get("aliases") or ()
    }
    return sorted(found - known)


def exposed_ports(definition: Mapping[str, Any]) -> list[str]:
    """Exposed ports, and the targets of published ones, from which the registrar learns of them."""
    found = [str(port) for port in definition.get("expose") or ()]
    for port in definition.get("ports") or ():
        protocol = port.get("protocol", "tcp")
        found.append(
            f"{port['target']}" + ("" if protocol == "tcp" else f"/{protocol}")
        )
    return list(dict.fromkeys(found))


def _condition(condition: str, *, restart: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"condition": condition, "required": True}
    return found | ({"restart": True} if restart else {})


def _volume(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "volume", "source": source, "target": target}
    return (
        found
        | ({"read_only": True} if read_only else {})
        | {"volume": {"nocopy": True}}
    )


def _run(pod_service: str) -> dict[str, Any]:
    return _volume(names.run_volume(pod_service), contract.RUN_PATH, read_only=False)


def run_volume() -> dict[str, Any]:
    """The top-level volume shared by a pod and its proxy: memory only, as it holds the token."""
    return {
        "driver": "local",
        "driver_opts": {
            "type": "tmpfs",
            "device": "tmpfs",
            "o": f"size=1m,mode=0700,uid={PROXY_UID},gid={PROXY_UID}",
        },
    }
