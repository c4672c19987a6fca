"""Where services and config come from, behind two protocols; one subpackage per source.

Three words that look alike, each for one thing:

- a **registry** (`Registry`, here) is a source of services and workloads: Consul, or Docker itself;
- the **registrar** (`dockermesh.registrar`) writes into one: Docker's containers to Consul;
- the **bridge** is the part of the control plane's process that follows a registry and hands each
  new catalog on (`Registry.run`), such as `registry/consul/registry.py`.

`ConfigStore` is where config is kept. A `Backend` is one source with all that is kept beside it;
the control plane knows no other. Law: nothing outside of the subpackages, but the one table that
chooses (`choose_backend`), knows which source it is.
"""

from dockermesh.registry.protocols import (
    Backend,
    ConfigStore,
    Documents,
    JoinedWorkloads,
    Publish,
    Registry,
    Sealed,
    SealedStore,
    StoredResource,
    Tls,
)

__all__ = [
    "Backend",
    "ConfigStore",
    "Documents",
    "JoinedWorkloads",
    "Publish",
    "Registry",
    "Sealed",
    "SealedStore",
    "StoredResource",
    "Tls",
]
