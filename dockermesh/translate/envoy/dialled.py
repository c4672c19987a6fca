"""Requests whose Host names nobody go to the service that was dialled.

Virtual hosts are looked up by a header of our own (`vhost_header`), which holds the request's
Host. Where that finds only the catch-all, the header becomes the address that was dialled and the
route is chosen anew; every virtual host has its virtual IP among its domains, so the request meets
the service's routes, policies and faults as if it had been called by name. What has no virtual
host there, either, stays with the catch-all: it was no service that was dialled.

Envoy chooses by addresses in no other way: a matcher of routes sees no address, and one virtual
host per name *and* address would double the tables. Of its filters that choose a route anew,
`ip_tagging` alone needs nothing but a header: it does so when it takes one away that nobody may
send. Apps see none of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, extension_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.header_mutation.v3 import (
    header_mutation_pb2 as filter_pb2,
)
from envoy.extensions.filters.http.ip_tagging.v3 import ip_tagging_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    header_mutation_pb2 as early_pb2,
)

from dockermesh.translate.envoy.packing import pack, uint32

CALLED_HEADER = "x-dockermesh-called"
"""By which name, or at which address, the virtual host is looked up."""
_AGAIN_HEADER = "x-dockermesh-again"
_DIALLED_FILTER = "dockermesh.dialled"
_AGAIN_FILTER = "dockermesh.again"
_NOBODY = "255.255.255.255"


def look_up_by_call(manager: hcm_pb2.HttpConnectionManager) -> None:
    """Let requests of nobody's Host be looked up by the address that was dialled."""
    # Before the first look-up, and whatever the client says: the header is ours.
    early = early_pb2.HeaderMutation(
        mutations=[_set(CALLED_HEADER, "%REQ(:AUTHORITY)%")]
    )
    manager.early_header_mutation_extensions.append(
        extension_pb2.TypedExtensionConfig(
            name="envoy.http.early_header_mutation.header_mutation",
            typed_config=pack(early),
        )
    )

    # First of all: faults and CORS are those of the route that is chosen in the end.
    again = [
        hcm_pb2.HttpFilter(
            name=_DIALLED_FILTER, typed_config=pack(filter_pb2.HeaderMutation())
        ),
        hcm_pb2.HttpFilter(name=_AGAIN_FILTER, typed_config=pack(_tagging())),
    ]
    others = list(manager.http_filters)
    del manager.http_filters[:]
    manager.http_filters.extend([*again, *others])


def called_table(table: route_pb2.RouteConfiguration) -> route_pb2.RouteConfiguration:
    """The table, with its virtual hosts looked up by the header."""
    table.vhost_header = CALLED_HEADER
    table.request_headers_to_remove.append(CALLED_HEADER)
    return table


def look_up_again(host: route_components_pb2.VirtualHost) -> None:
    """Have requests that come to this virtual host looked up by the address that was dialled."""
    mutations = [
        _set(CALLED_HEADER, "%DOWNSTREAM_LOCAL_ADDRESS%"),
        _set(_AGAIN_HEADER, "1"),
    ]
    settings = filter_pb2.HeaderMutationPerRoute(
        mutations=filter_pb2.Mutations(request_mutations=mutations)
    )
    host.typed_per_filter_config[_DIALLED_FILTER].CopyFrom(pack(settings))


def is_looked_up_again(host: Mapping[str, Any]) -> bool:
    """Whether a virtual host (proto JSON) leaves its requests to the address dialled."""
    return _DIALLED_FILTER in host.get("typed_per_filter_config", {})


def _tagging() -> ip_tagging_pb2.IPTagging:
    """Tags nobody, which takes the header away; where it was, the route is chosen anew."""
    network = address_pb2.CidrRange(address_prefix=_NOBODY, prefix_len=uint32(32))
    tag = ip_tagging_pb2.IPTagging.IPTag(ip_tag_name="nobody", ip_list=[network])
    header = ip_tagging_pb2.IPTagging.IpTagHeader(
        header=_AGAIN_HEADER, action=ip_tagging_pb2.IPTagging.IpTagHeader.SANITIZE
    )
    return ip_tagging_pb2.IPTagging(ip_tags=[tag], ip_tag_header=header)


def _set(name: str, value: str) -> Any:
    option = base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=name, value=value),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    return mutation_rules_pb2.HeaderMutation(append=option)
