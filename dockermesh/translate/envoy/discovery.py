"""Where a proxy finds resources that another one names."""

from __future__ import annotations

from envoy.config.core.v3 import config_source_pb2

from dockermesh.translate.envoy.packing import seconds


def ads(*, patience: float = 0) -> config_source_pb2.ConfigSource:
    """Where proxies get further resources: the stream that they already have.

    Without `patience` (seconds), a listener waits for its routes rather than start without them.
    """
    # The initial timeout is 15 s by default, after which a listener starts without its routes and
    # answers 404; 0 switches it off. Unset, the version would mean that of the former API.
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        resource_api_version=config_source_pb2.V3,
        initial_fetch_timeout=seconds(patience),
    )
