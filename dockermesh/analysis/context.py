"""All that analyzers may look at, as one immutable value: objects, services, workloads, mesh
settings.

Services and workloads come from Kubernetes objects in files, from ServiceEntries, and from a
catalog (the live mesh's, or a file); analyzers see no difference. Host names are looked up as Istio
does (`analyzers/util/service_lookup.go`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from dockermesh.analysis.objects import AnalyzedObject, selects
from dockermesh.analysis.services import (
    EVERYWHERE,
    AnalyzedService,
    catalog_services,
    entry_services,
    kubernetes_services,
)
from dockermesh.analysis.workloads import (
    TEMPLATES,
    AnalyzedWorkload,
    catalog_workloads,
    default_gateway,
    entry_workloads,
    kubernetes_workloads,
)
from dockermesh.config.findings import Finding
from dockermesh.config.hosts import fully_qualified
from dockermesh.model.catalog import Catalog
from dockermesh.model.contract import (
    DEFAULT_SERVICE_DOMAIN,
    DEFAULT_TRUST_DOMAIN,
    SYSTEM_NAMESPACE,
)
from dockermesh.model.refusal import Refusal

ROOT_NAMESPACE = SYSTEM_NAMESPACE


class Context:
    """What is known. Objects given twice: the last one counts, as it does when they are applied in
    turn.

    `findings` are what validation said about them. `is_live`: the catalog is a running mesh's; else
    a gateway with Istio's usual labels and ports is assumed, as istioctl does. `mesh_config` is
    Istio's MeshConfig, as data. `refused` are the registrations that a running mesh does not take.
    `with_secrets`: all Secrets of the mesh are among the objects, so what is not there is missing.
    `service_domain` ends the names of the mesh's own services.
    """

    def __init__(
        self,
        items: Iterable[AnalyzedObject],
        *,
        findings: Iterable[Finding] = (),
        mesh_config: Mapping[str, Any] | None = None,
        catalog: Catalog | None = None,
        is_live: bool = False,
        refused: Iterable[Refusal] = (),
        with_secrets: bool = False,
        service_domain: str = DEFAULT_SERVICE_DOMAIN,
    ) -> None:
        self.given = tuple(items)
        self.findings = tuple(findings)
        self.catalog = catalog
        self.is_live = is_live
        self.refused = tuple(refused)
        self.with_secrets = with_secrets
        self._service_domain = service_domain
        self._mesh_config = mesh_config
        # As after `kubectl apply` of one after the other.
        last = {
            (item.group, item.kind, item.namespace, item.name): item
            for item in self.given
        }
        self._by_kind: dict[str, list[AnalyzedObject]] = defaultdict(list)
        for item in last.values():
            self._by_kind[item.kind].append(item)

    # objects
    # ----------------------------------------------------------------------------------------------
    def istio(self, kind: str) -> Iterator[AnalyzedObject]:
        """The objects of one of Istio's kinds; their `spec` is never None."""
        return (item for item in self._by_kind.get(kind, ()) if item.spec is not None)

    def kubernetes(self, *kinds: str) -> Iterator[AnalyzedObject]:
        """The objects of kinds that are not Istio's."""
        return (
            item
            for kind in kinds
            for item in self._by_kind.get(kind, ())
            if item.spec is None
        )

    @cached_property
    def namespaces(self) -> dict[str, AnalyzedObject]:
        """The Namespace objects by name."""
        return {item.name: item for item in self.kubernetes("Namespace")}

    @cached_property
    def gateways(self) -> dict[str, AnalyzedObject]:
        """Istio's Gateways by `namespace/name`."""
        return {item.full_name: item for item in self.istio("Gateway")}

    @cached_property
    def mesh_config(self) -> Mapping[str, Any]:
        """Istio's MeshConfig: given explicitly, else from the objects; as data."""
        if self._mesh_config is not None:
            return self._mesh_config
        for item in self._by_kind.get("MeshConfig", ()):
            spec = item.body.get("spec")
            return spec if isinstance(spec, Mapping) else item.body
        return {}

    @property
    def root_namespace(self) -> str:
        """Where policies apply to the whole mesh."""
        return str(self.mesh_config.get("rootNamespace") or ROOT_NAMESPACE)

    # workloads
    # ----------------------------------------------------------------------------------------------
    @cached_property
    def workloads(self) -> tuple[AnalyzedWorkload, ...]:
        """Pods, what makes pods, WorkloadEntries, and the catalog's workloads."""
        nodes = {node.name: node.labels for node in self.kubernetes("Node")}
        makers = self.kubernetes("Pod", *TEMPLATES)
        found = [
            *kubernetes_workloads(makers, nodes, self.namespaces),
            *entry_workloads(self.istio("WorkloadEntry")),
        ]
        if self.catalog is not None:
            found += catalog_workloads(self.catalog)
        if not self.is_live and not any(workload.is_gateway for workload in found):
            # Nearly every mesh has one, and files rarely describe it.
            found.append(default_gateway(ROOT_NAMESPACE))
        return tuple(found)

    def workloads_matching(
        self, selector: Mapping[str, str], namespace: str = ""
    ) -> list[AnalyzedWorkload]:
        """The workloads that carry these labels, in one namespace or (empty) in all."""
        listed = (
            self._by_label.get(next(iter(selector.items())), ())
            if selector
            else self.workloads
        )
        return [
            w
            for w in listed
            if namespace in ("", w.namespace) and selects(selector, w.labels)
        ]

    @cached_property
    def _by_label(self) -> dict[tuple[str, str], list[AnalyzedWorkload]]:
        found: dict[tuple[str, str], list[AnalyzedWorkload]] = defaultdict(list)
        for workload in self.workloads:
            for label in workload.labels.items():
                found[label].append(workload)
        return found

    # services
    # ----------------------------------------------------------------------------------------------
    @property
    def domain(self) -> str:
        """What short names end with."""
        return f"svc.{self.mesh_config.get('clusterDomain') or DEFAULT_TRUST_DOMAIN}"

    @cached_property
    def services(self) -> tuple[AnalyzedService, ...]:
        """Everything that can be a destination."""
        found = [
            *entry_services(self.istio("ServiceEntry")),
            *kubernetes_services(self.kubernetes("Service"), self.domain),
        ]
        if self.catalog is not None:
            gateways = [item.spec for item in self.istio("Gateway")]
            found += catalog_services(self.catalog, gateways, self._service_domain)
        return tuple(found)

    @cached_property
    def _hosts(self) -> dict[tuple[str, str], AnalyzedService]:
        found: dict[tuple[str, str], AnalyzedService] = {}
        for service in self.services:
            for host in service.hosts:
                name = fully_qualified(host.lower(), service.namespace, self.domain)
                found.update({(scope, name): service for scope in service.scopes})
        return found

    @cached_property
    def _anywhere(self) -> dict[str, AnalyzedService]:
        """The catalog's services by the short names that hold in every namespace."""
        return {
            name: service for service in self.services for name in service.short_names
        }

    @cached_property
    def _patterns(self) -> list[tuple[str, str, AnalyzedService]]:
        return [
            (scope, name[1:], s)
            for (scope, name), s in self._hosts.items()
            if name.startswith("*")
        ]

    def service(
        self, host: str, namespace: str, export_to: Iterable[str] = ()
    ) -> AnalyzedService | None:
        """The service that a resource in `namespace` calls `host`; `export_to` is the resource's
        own.
        """
        host = host.lower()
        name = fully_qualified(host, namespace, self.domain)
        scopes = [namespace if scope == "." else scope for scope in export_to] or [
            namespace
        ]
        # What is exported to all comes first, as in Istio.
        for scope in (EVERYWHERE, *scopes):
            found = self._hosts.get((scope, name))
            if found is not None:
                return found
        # Short names that hold everywhere exist in our catalog only: `reviews` without namespace.
        if host in self._anywhere:
            return self._anywhere[host]

        # A wildcard of a ServiceEntry covers the host, which may be a narrower wildcard.
        bare = host.removeprefix("*")
        visible = (
            s
            for scope, end, s in self._patterns
            if scope in (EVERYWHERE, namespace) and bare.endswith(end)
        )

        return next(visible, None)

    def canonical(self, host: str, namespace: str) -> str:
        """One name for each service, however it is called; for what is no service, the full
        name.
        """
        found = self._anywhere.get(host.lower())
        name = fully_qualified(host.lower(), namespace, self.domain)
        if found is None and not name.startswith("*"):
            found = self._hosts.get((EVERYWHERE, name)) or self._hosts.get(
                (namespace, name)
            )
        return found.canonical if found is not None and found.canonical else name
