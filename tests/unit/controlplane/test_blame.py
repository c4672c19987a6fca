"""Who is to blame for what proxies refuse: of what the refused was made of, what changed."""

from __future__ import annotations

from dockermesh.controlplane.blame import Blame, Stored, refused_names
from dockermesh.registry import StoredResource
from dockermesh.translate.provenance import Sources
from dockermesh.xds import LISTENER, Nack
from dockermesh.xds.server import Refusal

EDGE, OTHER = "Gateway default/edge", "Gateway default/other"
POLICY, SETTINGS = "AuthorizationPolicy shop/allow", "MeshConfig istio-system/default"
GROUPS = {
    "Gateway": "networking.istio.io",
    "AuthorizationPolicy": "security.istio.io",
    "MeshConfig": "mesh.istio.io",
}


def store(**versions: int) -> Stored:
    names = {"edge": EDGE, "other": OTHER, "policy": POLICY, "settings": SETTINGS}
    found = {}
    for name, version in versions.items():
        kind, full_name = names[name].split()
        key = f"{GROUPS[kind]}/{kind}/{full_name}"
        found[key] = StoredResource(key, {}, version)
    return found


def nack(detail: str, *names: str) -> Nack:
    return Nack(detail, "v", 0.0, names)


class Proxies:
    """What proxies refuse at the moment."""

    def __init__(self) -> None:
        self.standing: tuple[Refusal, ...] = ()
        self.blame = Blame(lambda: self.standing)

    def refuses(
        self,
        key: str,
        said: Nack,
        sources: Sources,
        now: Stored,
        accepted: Stored | None,
    ) -> None:
        place = (key, LISTENER)
        self.blame.take(place, said, sources, now, accepted)
        others = [r for r in self.standing if r[:2] != place]
        self.standing = (*others, (*place, said))

    def accepts(self, key: str) -> None:
        self.standing = tuple(r for r in self.standing if r[0] != key)

    def guilty(self) -> set[str]:
        return {r for r in (EDGE, OTHER, POLICY, SETTINGS) if self.blame.of(r)}


BOTH = Sources(frozenset({EDGE, OTHER}), frozenset({SETTINGS}))


def test_what_changed_since_the_proxy_took_everything_is_to_blame() -> None:
    proxies = Proxies()
    said = nack("listener 0.0.0.0_443: no", "0.0.0.0_443")
    before, after = store(edge=1, other=2, policy=3), store(edge=4, other=2, policy=5)
    proxies.refuses("gw-1", said, BOTH, after, before)
    assert proxies.guilty() == {EDGE}
    assert proxies.blame.of(EDGE) == [("gw-1", said.detail)]

    # What is only in it for possible counts if it changed.
    proxies = Proxies()
    proxies.refuses("gw-1", said, BOTH, store(edge=1, settings=2), store(edge=1))
    assert proxies.guilty() == {SETTINGS}


def test_of_a_new_proxy_all_is_to_blame_unless_another_one_said_the_same() -> None:
    said = nack("no", "0.0.0.0_443")
    proxies = Proxies()
    proxies.refuses("gw-2", said, BOTH, store(edge=1, other=2), None)
    assert proxies.guilty() == {EDGE, OTHER}

    proxies = Proxies()
    now = store(edge=4, other=2)
    proxies.refuses("gw-1", said, BOTH, now, store(edge=1, other=2))
    proxies.refuses("gw-2", nack("no", "0.0.0.0_443"), BOTH, now, None)
    assert proxies.guilty() == {EDGE}
    assert proxies.blame.of(EDGE) == [("gw-1", "no"), ("gw-2", "no")]


def test_nobody_is_blamed_longer_than_a_refusal_stands() -> None:
    proxies = Proxies()
    now, before = store(edge=4, other=2), store(edge=1, other=2)
    for key in ("gw-1", "gw-2"):
        proxies.refuses(key, nack("no"), BOTH, now, before)
    proxies.accepts("gw-1")
    assert proxies.blame.of(EDGE) == [("gw-2", "no")]
    proxies.accepts("gw-2")
    assert proxies.guilty() == set()


def test_the_same_words_have_the_same_culprit_until_it_changes() -> None:
    proxies = Proxies()
    before = store(edge=1, other=2)
    proxies.refuses("gw-1", nack("no"), BOTH, store(edge=4, other=2), before)
    # Another one changes; the proxy is sent all again, and says the same of the first.
    proxies.refuses("gw-1", nack("no"), BOTH, store(edge=4, other=5), before)
    assert proxies.guilty() == {EDGE}
    proxies.refuses("gw-1", nack("no"), BOTH, store(edge=6, other=5), before)
    assert proxies.guilty() == {EDGE, OTHER}


def test_a_refusal_is_about_what_it_names_else_about_all() -> None:
    names = ("0.0.0.0_80", "0.0.0.0_8080", "virtualInbound")
    said = nack("Error adding/updating listener(s) 0.0.0.0_8080: no", *names)
    assert refused_names(said) == ["0.0.0.0_8080"]
    assert refused_names(nack("no", *names)) == list(names)
    cluster = "outbound|80||web.service.consul"
    longer = f"{cluster}.x"
    assert refused_names(nack(f"cluster(s) {cluster}: no", cluster, longer)) == [
        cluster
    ]
