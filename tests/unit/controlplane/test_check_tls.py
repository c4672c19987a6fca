"""The control plane's certificate for health checks follows the CA, and the trust domain."""

from __future__ import annotations

import datetime

import pytest

from dockermesh.ca import Authority, AuthorityError, new_material
from dockermesh.controlplane.trust.check_tls import CheckTls


def test_a_context_is_made_anew_only_when_something_has_changed() -> None:
    now = datetime.datetime.now(datetime.UTC)
    authority = Authority(new_material("cluster.local", now))
    domain = "cluster.local"
    tls = CheckTls(lambda: authority, lambda: domain)
    first = tls.context()
    assert tls.context() is first
    domain = "shop.example"
    second = tls.context()
    assert second is not first
    assert tls.context() is second
    authority.install(new_material("cluster.local", now))
    assert tls.context() is not second


def test_a_ca_that_cannot_sign_leaves_the_context_that_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = Authority(
        new_material("cluster.local", datetime.datetime.now(datetime.UTC))
    )
    domain = "cluster.local"
    tls = CheckTls(lambda: authority, lambda: domain)
    first = tls.context()

    def refuse(*_args: object, **_more: object) -> None:
        raise AuthorityError("the key is gone")

    monkeypatch.setattr(authority, "issue_workload", refuse)
    domain = "shop.example"
    assert tls.context() is first
    with pytest.raises(AuthorityError):
        CheckTls(lambda: authority, lambda: domain).context()
