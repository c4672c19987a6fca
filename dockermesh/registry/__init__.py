"""The bridge: Consul's catalog, workloads and config, followed by blocking queries, as values of
the model.
"""

from dockermesh.registry.config_store import ConsulConfigStore, StoredResource
from dockermesh.registry.consul import ConsulRegistry

__all__ = ["ConsulConfigStore", "ConsulRegistry", "StoredResource"]
