"""Who calls: Mixer knew a caller's labels, policies know its account."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dockermesh.client.convert.expression import Inexpressible
from dockermesh.model.contract import (
    EGRESS_GATEWAY,
    EGRESS_GATEWAY_ACCOUNT,
    GATEWAY_ACCOUNT,
    INGRESS_GATEWAY,
    SYSTEM_NAMESPACE,
)

_GATEWAYS = {
    ("istio", "ingressgateway"): GATEWAY_ACCOUNT,
    ("istio", "egressgateway"): EGRESS_GATEWAY_ACCOUNT,
    ("app", INGRESS_GATEWAY): GATEWAY_ACCOUNT,
    ("app", EGRESS_GATEWAY): EGRESS_GATEWAY_ACCOUNT,
}
_TOLD = re.compile(r"(?P<labels>[^:]+):(?P<account>[A-Za-z0-9./_-]+)")
BY_NAME = (
    "callers are known by their account, which is their service's name unless"
    " serviceAccount says otherwise"
)


@dataclass(frozen=True, slots=True)
class Callers:
    """Which accounts workloads with certain labels have, as the user tells."""

    told: Mapping[frozenset[tuple[str, str]], tuple[str, ...]]

    def principals(self, labels: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
        """The principals of the workloads with these labels, and what was assumed for it.

        Raises Inexpressible where nobody told, and nothing follows from the labels.
        """
        pairs = frozenset(labels.items())
        told = self.told.get(pairs)
        if told:
            return tuple(map(_principal, told)), ""
        gateway = next((_GATEWAYS[pair] for pair in pairs if pair in _GATEWAYS), None)
        if gateway is not None and len(pairs) == 1:
            return (f"*/ns/{SYSTEM_NAMESPACE}/sa/{gateway}",), ""
        if set(labels) == {"app"}:
            return (f"*/sa/{labels['app']}",), BY_NAME

        shown = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        raise Inexpressible(
            f"policies know callers by account, not by labels: give those with {shown} an account"
            f" of their own (serviceAccount), and say --account {shown}:ACCOUNT"
        )


def _principal(account: str) -> str:
    namespace, _, name = account.rpartition("/")
    return f"*/ns/{namespace}/sa/{name}" if namespace else f"*/sa/{name}"


def read_accounts(options: Iterable[str]) -> Callers:
    """`app=reviews,version=v3:reviews-v3`, once for each account. Raises ValueError."""
    told: dict[frozenset[tuple[str, str]], tuple[str, ...]] = {}
    for option in options:
        found = _TOLD.fullmatch(option)
        pairs = [
            (key, value)
            for key, sign, value in (
                part.partition("=")
                for part in (found["labels"] if found else "").split(",")
            )
            if sign and key and value
        ]
        if found is None or len(pairs) != found["labels"].count(",") + 1:
            raise ValueError(
                f"{json.dumps(option)} is not LABEL=VALUE[,LABEL=VALUE...]:ACCOUNT"
            )
        told[frozenset(pairs)] = (*told.get(frozenset(pairs), ()), found["account"])
    return Callers(told)
