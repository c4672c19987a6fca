"""A real Envoy refuses what Mixer refused, by what `convert` makes of Mixer's rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from policy_rig import App, Certificates, Envoy, ask, serve, sidecar_parts
from ports import free_ports

from dockermesh.client.convert.callers import read_accounts
from dockermesh.client.convert.convert import convert

pytestmark = pytest.mark.binary
RULES = """
{kind: denier, metadata: {name: refuse}, spec: {status: {code: 7}}}
---
{kind: checknothing, metadata: {name: nothing}}
---
kind: rule
metadata: {name: admin}
spec:
  match: request.path.startsWith("/admin") && request.headers["x-team"] != "ops"
  actions: [{handler: refuse.denier, instances: [nothing.checknothing]}]
---
kind: rule
metadata: {name: reviews}
spec:
  match: source.labels["app"] == "reviews" && request.path == "/ratings"
  actions: [{handler: refuse.denier, instances: [nothing.checknothing]}]
---
kind: listchecker
metadata: {name: addresses}
spec: {overrides: [127.0.0.0/30], entryType: IP_ADDRESSES}
---
{kind: listentry, metadata: {name: address}, spec: {value: 'source.ip | ip("0.0.0.0")'}}
---
kind: rule
metadata: {name: addresses}
spec:
  match: request.path == "/near"
  actions: [{handler: addresses.listchecker, instances: [address.listentry]}]
---
kind: memquota
metadata: {name: handler}
spec:
  quotas:
  - name: count.quota.shop
    maxAmount: 2
    validDuration: 2h
    overrides: [{dimensions: {who: gold}, maxAmount: 4, validDuration: 2h}]
---
kind: quota
metadata: {name: count}
spec:
  dimensions:
    who: request.headers["x-user"] | "unknown"
    # Each destination for itself, so that proxies count without a limiter.
    where: destination.labels["app"] | "unknown"
---
{kind: QuotaSpec, metadata: {name: count}, spec: {rules: [{quotas: [{quota: count}]}]}}
---
kind: QuotaSpecBinding
metadata: {name: count}
spec: {quotaSpecs: [{name: count}], services: [{service: "*"}]}
---
kind: rule
metadata: {name: quota}
spec:
  match: request.path == "/dear" && match(request.headers["cookie"], "user=*") == false
  actions: [{handler: handler.memquota, instances: [count.quota]}]
""".replace("kind:", "apiVersion: config.istio.io/v1alpha2, kind:").replace(
    "\napiVersion: config.istio.io/v1alpha2, kind",
    "\napiVersion: config.istio.io/v1alpha2\nkind",
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def port(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[int]:
    found = convert([("rules", RULES.encode())], "shop", read_accounts(()))
    assert found.lost_guards == ()
    (port,) = free_ports(1)
    config = yaml.safe_dump_all(found.resources)
    parts = sidecar_parts(config, {port: ("HTTP", serve(App))}, [], certificates)
    envoy = Envoy(tmp_path_factory.mktemp("envoy"), [parts], [port])
    try:
        yield port
    finally:
        envoy.stop()


def test_a_denier_refuses_what_its_match_said(port: int) -> None:
    assert ask(port, "/admin/a", [("x-team", "web")]).status == 403
    assert ask(port, "/admin/a", [("x-team", "ops")]).status == 200
    # Mixer could not compare what is not there, and so did not apply the rule.
    assert ask(port, "/admin/a").status == 200
    assert ask(port, "/", [("x-team", "web")]).status == 200


def test_callers_are_known_by_account(port: int, certificates: Certificates) -> None:
    reviews = certificates.peer("default", "reviews")
    other = certificates.peer("default", "productpage")

    assert ask(port, "/ratings", tls=reviews).status == 403
    assert ask(port, "/ratings", tls=other).status == 200
    assert ask(port, "/", tls=reviews).status == 200


def test_a_whitelist_of_addresses_refuses_all_others(port: int) -> None:
    assert ask(port, "/near", source="127.0.0.2").status == 200
    assert ask(port, "/near", source="127.0.0.9").status == 403


def test_each_value_of_a_dimension_has_its_quota_and_overrides_theirs(
    port: int,
) -> None:
    def statuses(number: int, *headers: tuple[str, str]) -> list[int]:
        return [ask(port, "/dear", headers).status for _ in range(number)]

    assert statuses(3, ("x-user", "a")) == [200, 200, 429]
    assert statuses(3, ("x-user", "b")) == [200, 200, 429]
    assert statuses(5, ("x-user", "gold")) == [200] * 4 + [429]
    # Those without a name share one.
    assert statuses(3) == [200, 200, 429]
    assert statuses(3, ("cookie", "user=jason")) == [200] * 3
