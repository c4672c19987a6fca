"""A control plane of our own parts, which serves one proxy on loopback: `kept_plane.py DIRECTORY POLICY`.

The server listens on 9000 with the proxy's certificate, and sends what it takes to the app at 9001. With the
policy `deny` it refuses `/denied`, with `allow` nothing. It is a process of its own, so that it can be killed.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import sys
from pathlib import Path
from typing import Any

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2,
)
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from google.protobuf import json_format

from dockermesh.ca import Authority, from_json, new_material, to_json
from dockermesh.controlplane.trust.admission import Admission
from dockermesh.controlplane.trust.workload_secrets import Recipient, WorkloadSecrets
from dockermesh.model import Identity, Workload
from dockermesh.model.contract import CONTROL_PLANE_HOST, XDS_TLS_PORT
from dockermesh.translate.sidecar.outbound import named
from dockermesh.xds import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    AdsServer,
    ConnectedProxy,
    ResourceSet,
    Snapshot,
    make_resource,
)

WORKLOAD = "shop/web-1"
IDENTITY = Identity("cluster.local", "default", "web")
ADS = {"ads": {}, "resourceApiVersion": "V3", "initialFetchTimeout": "0s"}


def kind(message: Any) -> str:
    return f"type.googleapis.com/{message.DESCRIPTOR.full_name}"


def address(port: int) -> dict[str, Any]:
    return {"socketAddress": {"address": "127.0.0.1", "portValue": port}}


def deny(path: str = "/denied") -> dict[str, Any]:
    permission = {"urlPath": {"path": {"exact": path}}}
    policy = {"permissions": [permission], "principals": [{"any": True}]}
    rules = {"action": "DENY", "policies": {"no": policy}}
    return {
        "name": "envoy.filters.http.rbac",
        "typedConfig": {"@type": kind(rbac_pb2.RBAC), "rules": rules},
    }


def plugin() -> dict[str, Any]:
    """A filter that comes apart from the listener, as modules of plugins do."""
    rbac = kind(rbac_pb2.RBAC)
    return {
        "name": "plugin",
        "configDiscovery": {"configSource": ADS, "typeUrls": [rbac]},
    }


def listener(policy: str) -> dict[str, Any]:
    router = kind(router_pb2.Router)
    manager = {
        "@type": kind(http_connection_manager_pb2.HttpConnectionManager),
        "statPrefix": "in",
        "rds": {"routeConfigName": "in", "configSource": ADS},
        "httpFilters": [
            *([deny()] if policy == "deny" else []),
            plugin(),
            {"name": "envoy.filters.http.router", "typedConfig": {"@type": router}},
        ],
    }
    tls = {
        "@type": kind(tls_pb2.DownstreamTlsContext),
        "commonTlsContext": {
            "tlsCertificateSdsSecretConfigs": [{"name": "default", "sdsConfig": ADS}]
        },
    }
    http = {"name": "envoy.filters.network.http_connection_manager"}
    chain = {
        "filters": [http | {"typedConfig": manager}],
        "transportSocket": {
            "name": "envoy.transport_sockets.tls",
            "typedConfig": tls,
        },
    }
    return {"name": "in", "address": address(9000), "filterChains": [chain]}


def snapshot(policy: str) -> Snapshot:
    def one(type_url: str, message: Any, value: dict[str, Any]) -> ResourceSet:
        return ResourceSet([named(type_url, json_format.ParseDict(value, message))])

    route = {"match": {"prefix": "/"}, "route": {"cluster": "app"}}
    host = {"name": "all", "domains": ["*"], "routes": [route]}
    endpoint = {"endpoint": {"address": address(9001)}}
    cluster = {"name": "app", "type": "EDS", "edsClusterConfig": {"edsConfig": ADS}}
    assignment = {"clusterName": "app", "endpoints": [{"lbEndpoints": [endpoint]}]}
    endpoints = endpoint_pb2.ClusterLoadAssignment()
    json_format.ParseDict(assignment, endpoints)
    return Snapshot(
        listeners=one(LISTENER, listener_pb2.Listener(), listener(policy)),
        routes=one(
            ROUTES,
            route_pb2.RouteConfiguration(),
            {"name": "in", "virtualHosts": [host]},
        ),
        clusters=one(CLUSTER, cluster_pb2.Cluster(), cluster),
        extensions=one(
            EXTENSION,
            extension_pb2.TypedExtensionConfig(),
            deny("/plugin") | {"name": "plugin"},
        ),
        endpoints=ResourceSet(
            [make_resource(ENDPOINTS, "app", endpoints.SerializeToString())]
        ),
    )


def authority(folder: Path) -> Authority:
    """The same for every run; its roots go where the proxy has them."""
    file = folder / "ca.json"
    if not file.exists():
        now = datetime.datetime.now(datetime.UTC)
        file.write_bytes(to_json(new_material("cluster.local", now)))
    found = Authority(from_json(file.read_bytes()))
    (folder / "trust").mkdir(exist_ok=True)
    (folder / "trust/root.pem").write_bytes(found.roots_pem)
    return found


async def main(folder: Path, policy: str) -> None:
    own = authority(folder)
    digest = hashlib.sha256((folder / "token").read_bytes()).hexdigest()
    workload = Workload(
        id="pod1", name=WORKLOAD, address="127.0.0.1", token_sha256=digest
    )
    admission = Admission()
    admission.update({WORKLOAD: workload})
    secrets = WorkloadSecrets(own, datetime.timedelta(hours=1))
    served = snapshot(policy)

    def look_up(proxy: ConnectedProxy) -> Snapshot:
        seal = admission.seal_of(proxy.key)
        return secrets.layered(proxy.key, Recipient(IDENTITY, "pod1", seal), served)

    server = AdsServer(authorize=admission.authorize)
    leaf = own.issue_server([CONTROL_PLANE_HOST])
    server.add_port(
        f"127.0.0.1:{XDS_TLS_PORT}",
        grpc.ssl_server_credentials([(leaf.key, leaf.certificate)]),
    )
    server.publish(look_up)
    await server.start()
    print("up", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
