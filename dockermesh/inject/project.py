"""A Compose project to its meshed form.

Invariant: pure. The same project and options give the same result, and neither is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dockermesh.errors import InputError
from dockermesh.inject import names, tuning
from dockermesh.inject.gateway import OWN_NETWORK, Edge, settle
from dockermesh.inject.images import Images
from dockermesh.inject.options import Injection, InjectionFinding, InjectOptions
from dockermesh.inject.overlay import overlay
from dockermesh.inject.plan import Meshed, Plan, make_plan
from dockermesh.inject.pod import Service, app, follower, pod, proxy, run_volume
from dockermesh.inject.ports import is_chosen, map_ports, split_ports
from dockermesh.inject.proxy_config import LABEL, ProxyDefaults
from dockermesh.inject.references import rewritten
from dockermesh.inject.rewrites import rewrites
from dockermesh.inject.settings import ProjectSettings, project_settings
from dockermesh.inject.string_map import string_map
from dockermesh.inject.user_gateways import user_ports
from dockermesh.model import contract

_GRACE = "10s"  # Docker's own, where the service names none


@dataclass(frozen=True, slots=True)
class _Sidecars:
    """Makes the Compose services of replicas; collects the rules that some of them want."""

    plan: Plan
    images: Images
    mesh_key: str
    mesh_name: str
    domain: str
    defaults: ProxyDefaults
    configs: dict[str, Any] = field(default_factory=dict)

    def replicas(
        self, service: Meshed, ports: list[dict[str, Any]]
    ) -> dict[str, Service]:
        """App, pod and proxy of each replica; `ports` stay published by the first pod, and by all
        where Docker chooses the number.
        """
        made: dict[str, Service] = {}
        for n in service.numbers:
            pod_service = names.pod_name(service.name, n)
            own = pod(
                service,
                n,
                self.plan,
                mesh_key=self.mesh_key,
                mesh_name=self.mesh_name,
                images=self.images,
            )
            if kept := [port for port in ports if n == 1 or is_chosen(port)]:
                own["ports"] = kept
            self._tune(service, own)
            made[service.app(n)] = app(service, n, self.plan)
            made[pod_service] = own
            made[names.proxy_name(service.name, n)] = proxy(
                pod_service,
                workload=names.workload_name(service.project, service.name, n),
                service=service.name,
                namespace=service.settings.namespace,
                labels=service.settings.labels,
                images=self.images,
                start=self.defaults.start(
                    service.settings.namespace,
                    service.settings.labels,
                    service.settings.proxy,
                ),
                profiles=service.definition.get("profiles"),
                patience=service.definition.get("stop_grace_period") or _GRACE,
            )

        return made

    def _tune(self, service: Meshed, own: Service) -> None:
        if self.domain != contract.CONSUL_DOMAIN:
            own["environment"][contract.ENV_DNS_DOMAIN] = self.domain
        if not service.settings.intercept:
            tuning.switch_off(own)
        elif service.settings.capture:
            # The image's rules are those of the default settings.
            name, config = tuning.rules(service.name, service.settings.capture)
            self.configs[name] = config
            tuning.tune(own, name)


def inject_project(project: Mapping[str, Any], options: InjectOptions) -> Injection:
    """The meshed form of `project`, which is what `docker compose config` prints.

    Raises InputError for what cannot be meshed, and for wrong settings.
    """
    settings = project_settings(project)
    plan = make_plan(project, settings, options.inactive)
    mesh_name = options.network or settings.network or contract.MESH_NETWORK
    mesh_key = _network_key(project.get("networks") or {}, mesh_name)

    moving, staying, notices = split_ports(plan.meshed.values())
    user = user_ports(options.config, plan.project)
    table = rewrites(moving, options.gateway_ports, settings.gateway_ports, user.opened)
    mappings = settle(map_ports(moving, table.published, user.http), user)

    has_own_network = OWN_NETWORK in (project.get("networks") or {})
    defaults = ProxyDefaults((*options.stored, *options.config))
    edge = Edge(
        plan,
        mesh_key,
        mesh_name,
        options.images,
        own_network=has_own_network,
        defaults=defaults,
        config=settings.gateway,
    )
    gateway = edge.ingress(mappings, user, table.gateway)
    if options.egress_gateway or settings.egress_gateway:
        gateway |= edge.egress()

    sidecars = _Sidecars(
        plan,
        options.images,
        mesh_key,
        mesh_name,
        options.consul_domain,
        defaults,
    )
    services = _services(project, plan, sidecars, staying)
    _refuse_taken(gateway, services)
    services |= gateway

    meshed = _document(
        project, services, sidecars, with_mesh=bool(plan.meshed or gateway)
    )
    return Injection(
        project=meshed,
        overlay=overlay(project, meshed),
        ports=mappings,
        notices=(*plan.notices, *notices, *_gateway_notices(settings)),
    )


def _gateway_notices(settings: ProjectSettings) -> Iterator[InjectionFinding]:
    if ignored := settings.gateway.start.ignored:
        yield InjectionFinding(
            names.GATEWAY, f"of {LABEL} these have no effect: {', '.join(ignored)}"
        )


def _services(
    project: Mapping[str, Any],
    plan: Plan,
    sidecars: _Sidecars,
    staying: Mapping[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    """What becomes of the project's own services, in their order."""
    services: dict[str, Any] = {}
    for name, definition in project["services"].items():
        if name in plan.meshed:
            services |= sidecars.replicas(plan.meshed[name], staying.get(name, []))
        elif name in plan.followers:
            services[name] = follower(
                name, definition, plan.meshed[plan.followers[name]], plan
            )
        else:
            services[name] = rewritten(definition, plan)

    return services


def _refuse_taken(gateway: Mapping[str, Any], services: Mapping[str, Any]) -> None:
    taken = gateway.keys() & services.keys()
    if taken:
        raise InputError(
            f"the name {min(taken)!r} is taken by a service",
            where=f"services.{min(taken)}",
            fix="rename the service",
        )


def scaled_notices(
    services: Iterable[str], injection: Injection
) -> tuple[InjectionFinding, ...]:
    """What the overlay has to repeat of the user's file: services that were expanded."""
    gone = [name for name in services if name not in injection.project["services"]]
    return tuple(
        InjectionFinding(
            name,
            "is replaced by one service per replica; the overlay repeats its definition, with"
            " absolute paths",
        )
        for name in gone
    )


def _document(
    project: Mapping[str, Any],
    services: dict[str, Any],
    sidecars: _Sidecars,
    *,
    with_mesh: bool,
) -> dict[str, Any]:
    """The whole file: what the user had, the services, and the networks and volumes that they
    share.
    """
    kept = {
        key: value
        for key, value in project.items()
        if key not in ("services", "version")
    }
    shared = {
        key: dict(kept.pop(key, None) or {})
        for key in ("networks", "volumes", "configs")
    }

    if with_mesh:
        shared["networks"].setdefault(
            sidecars.mesh_key, {"name": sidecars.mesh_name, "external": True}
        )
        shared["volumes"][contract.TRUST_VOLUME] = {
            "name": contract.TRUST_VOLUME,
            "external": True,
        }

    shared["configs"] |= dict(sorted(sidecars.configs.items()))
    for name, service in services.items():
        if string_map(service.get("labels")).get(contract.LABEL_ROLE) == "pod":
            shared["volumes"][names.run_volume(name)] = run_volume()

    # Compose writes the name first, and readers expect it there.
    title = {"name": kept.pop("name")} if "name" in kept else {}
    return {
        **title,
        "services": services,
        **{key: value for key, value in shared.items() if value},
        **kept,
    }


def _network_key(networks: Mapping[str, Any], mesh_name: str) -> str:
    """The key of the mesh network: the project's own where it has that network already."""
    for key, network in networks.items():
        if (network or {}).get("name", key) == mesh_name:
            return key
    key = contract.MESH_NETWORK
    while key in networks:
        key += "-mesh"
    return key
