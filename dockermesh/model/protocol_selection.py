"""How a port's protocol is found, and which rule found it.

Source of the order: Istio's "Protocol Selection". What nobody declared is looked up by image and by
number before the proxy is left to see for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dockermesh.model.protocol import Protocol, parse_protocol
from dockermesh.model.well_known import of_image, of_port


class ProtocolRule(StrEnum):
    """What told the protocol of a port."""

    DECLARED = "declared"
    PORT_NAME = "port name"
    IMAGE = "image"
    PORT = "well-known port"
    SNIFFED = "sniffed"
    """Nothing: the proxy looks at the first bytes."""
    ASSUMED = "assumed"
    """Nothing, where the proxy cannot look: a gateway takes it for HTTP."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is spoken on a port, and what told so."""

    protocol: Protocol
    rule: ProtocolRule

    @property
    def in_mesh(self) -> Selection:
        """The same for who can look at first bytes.

        HTTP that nobody declared is sniffed: the port may just as well speak TLS, and it costs a
        client that speaks first nothing.
        """
        is_said = self.rule in {ProtocolRule.DECLARED, ProtocolRule.PORT_NAME}
        if is_said or not self.protocol.is_http:
            return self
        return Selection(Protocol.AUTO, ProtocolRule.SNIFFED)


def select_protocol(
    *, declared: str = "", port_name: str = "", image: str = "", number: int = 0
) -> Selection:
    """What is spoken on a port: declared, else the prefix of its name (`http-web`), else what its
    image or its number stands for, else AUTO.
    """
    said = parse_protocol(declared)
    if said is not None:
        return Selection(said, ProtocolRule.DECLARED)

    for name in (port_name, port_name.rsplit("-", 1)[0], port_name.split("-", 1)[0]):
        named = parse_protocol(name)
        if named is not None:
            return Selection(named, ProtocolRule.PORT_NAME)

    by_image = of_image(image, number)
    if by_image is not None:
        return Selection(by_image, ProtocolRule.IMAGE)
    by_number = of_port(number)
    if by_number is not None:
        return Selection(by_number, ProtocolRule.PORT)
    return Selection(Protocol.AUTO, ProtocolRule.SNIFFED)


def infer_protocol(
    *, declared: str = "", port_name: str = "", number: int = 0
) -> Protocol:
    """What proxies of the mesh take a port for."""
    selected = select_protocol(declared=declared, port_name=port_name, number=number)
    return selected.in_mesh.protocol
