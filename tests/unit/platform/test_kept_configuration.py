"""What a proxy keeps of Envoy's config dump, and what it is started with out of that."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dockermesh.ca import seal_password
from dockermesh.model import contract

ROOT = Path(__file__).parents[3]
IMAGE = ROOT / "compose/images/proxy"
TOKEN = "5" * 64
ADMIN = "type.googleapis.com/envoy.admin.v3."
HTTP = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
    ".HttpConnectionManager"
)
ADS = {"ads": {}, "resource_api_version": "V3"}


def text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


CHAIN = text(
    "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nx\n-----END ENCRYPTED PRIVATE KEY-----\n"
)
OWN = {
    "name": "default",
    "tls_certificate": {
        "certificate_chain": {"inline_bytes": CHAIN},
        "private_key": {"inline_bytes": text("[redacted]")},
    },
}
ROOTS = {
    "name": "ROOTCA",
    "validation_context": {"trusted_ca": {"inline_bytes": text("roots")}},
}


@pytest.fixture(scope="module")
def kept() -> Iterator[ModuleType]:
    yield from _loaded("kept")


@pytest.fixture
def keep(kept: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setitem(sys.modules, "kept", kept)
    yield from _loaded("keep")


def _loaded(name: str) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location(
        f"proxy_image_{name}", IMAGE / f"{name}.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def own_bootstrap(token: str = TOKEN) -> dict[str, Any]:
    """As a pod writes it."""
    written = (ROOT / "compose/images/pod/bootstrap.json").read_text()
    written = written.replace("@TOKEN@", token).replace("@CONTROL_PLANE_PORT@", "15012")
    found: dict[str, Any] = json.loads(written)
    return found


def listener(name: str, **manager: Any) -> dict[str, Any]:
    config = {"@type": HTTP, **manager}
    sds = {
        "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": ADS}],
        "combined_validation_context": {
            "validation_context_sds_secret_config": {
                "name": "ROOTCA",
                "sds_config": ADS,
            }
        },
    }
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": name,
        "filter_chains": [
            {
                "filters": [{"name": "http", "typed_config": config}],
                "transport_socket": {"typed_config": {"common_tls_context": sds}},
            }
        ],
    }


def dump(
    *,
    listeners: list[dict[str, Any]] | None = None,
    secrets: tuple[dict[str, Any], ...] = (OWN, ROOTS),
) -> dict[str, Any]:
    rds = {"route_config_name": "80", "config_source": ADS}
    table = {"@type": "x", "name": "80", "virtual_hosts": [{"name": "v"}]}
    cluster = {"@type": "x", "name": "web", "type": "EDS"}
    cluster["eds_cluster_config"] = {"eds_config": ADS}  # type: ignore[assignment]
    assignment = {
        "@type": "x",
        "cluster_name": "web",
        "endpoints": [{"lb_endpoints": [{"a": 1}], "load_balancing_weight": 0}],
    }
    shown = listeners if listeners is not None else [listener("in", rds=rds)]

    def section(kind: str, **fields: Any) -> dict[str, Any]:
        return {"@type": f"{ADMIN}{kind}ConfigDump", **fields}

    return {
        "configs": [
            section("Clusters", dynamic_active_clusters=[{"cluster": cluster}]),
            section(
                "Endpoints", dynamic_endpoint_configs=[{"endpoint_config": assignment}]
            ),
            section(
                "Listeners",
                dynamic_listeners=[
                    {"name": one["name"], "active_state": {"listener": one}}
                    for one in shown
                ]
                # Not in force yet.
                + [{"name": "warming", "warming_state": {"listener": listener("x")}}],
            ),
            section("Routes", dynamic_route_configs=[{"route_config": table}]),
            section(
                "Secrets",
                dynamic_active_secrets=[
                    {"name": one["name"], "version_info": "1", "secret": one}
                    for one in secrets
                ],
            ),
        ]
    }


def made(kept: ModuleType, **what: Any) -> dict[str, Any]:
    resources = kept.kept_resources(dump(**what))
    found: dict[str, Any] = kept.kept_bootstrap(own_bootstrap(), resources, "/nothing")
    return found


def test_nothing_is_left_that_would_come_from_a_control_plane(kept: ModuleType) -> None:
    bootstrap = made(kept)
    assert "dynamic_resources" not in bootstrap
    assert not re.search(r'"(ads|rds|eds_cluster_config)"', json.dumps(bootstrap))
    static = bootstrap["static_resources"]
    assert [one["name"] for one in static["listeners"]] == [
        *("readiness", "admin", "prometheus"),
        "in",
    ]
    assert [one["name"] for one in static["clusters"]] == [
        "proxy-admin",
        kept.MARK,
        "web",
    ]
    web = static["clusters"][2]
    assert web["type"] == "STATIC"
    assert web["load_assignment"]["endpoints"] == [{"lb_endpoints": [{"a": 1}]}]
    chain = static["listeners"][3]["filter_chains"][0]
    routes = chain["filters"][0]["typed_config"]["route_config"]
    assert routes == {
        "name": "80",
        "virtual_hosts": [{"name": "v"}],
        "validate_clusters": False,
    }


def test_the_key_is_the_one_behind_the_certificates_and_opened_by_the_token(
    kept: ModuleType,
) -> None:
    own, roots = made(kept)["static_resources"]["secrets"]
    assert own["tls_certificate"] == {
        "certificate_chain": {"inline_bytes": CHAIN},
        "private_key": {"inline_bytes": CHAIN},
        "password": {"inline_string": seal_password(TOKEN.encode())},
    }
    assert roots == ROOTS
    assert kept.SEAL_PURPOSE.decode() == contract.SEAL_PURPOSE


def test_what_is_kept_does_not_hold_what_opens_it(kept: ModuleType) -> None:
    resources = json.dumps(kept.kept_resources(dump()))
    assert seal_password(TOKEN.encode()) not in resources
    assert TOKEN not in resources


def test_a_secret_that_was_missing_is_missing_still(kept: ModuleType) -> None:
    """It costs its own hosts, as before, and not the whole start."""
    chain = made(kept, secrets=(ROOTS,))["static_resources"]["listeners"][3]
    tls = chain["filter_chains"][0]["transport_socket"]["typed_config"]
    assert tls["common_tls_context"]["tls_certificate_sds_secret_configs"] == [
        {
            "name": "default",
            "sds_config": {
                "path_config_source": {"path": "/nothing"},
                "resource_api_version": "V3",
            },
        }
    ]


def test_certificates_in_files_stay_in_files(kept: ModuleType) -> None:
    name = "file-cert:/etc/a.crt~/etc/a.key"
    hidden = {"filename": "[redacted]"}
    pair = {"certificate_chain": {"filename": "/etc/a.crt"}, "private_key": hidden}
    secret = {"name": name, "tls_certificate": pair}
    (found,) = made(kept, secrets=(secret,))["static_resources"]["secrets"]
    assert found["tls_certificate"] == {
        "certificate_chain": {"filename": "/etc/a.crt"},
        "private_key": {"filename": "/etc/a.key"},
    }


def test_what_cannot_be_kept_as_it_is_is_not_kept_at_all(kept: ModuleType) -> None:
    bare = text("-----BEGIN CERTIFICATE-----")
    unsealed = OWN | {"tls_certificate": {"certificate_chain": {"inline_bytes": bare}}}
    with pytest.raises(kept.NotKept, match="secrets default"):
        made(kept, secrets=(unsealed,))
    users = listener("in", http_filters=[{"users": {"inline_string": "[redacted]"}}])
    with pytest.raises(kept.NotKept, match="listeners in"):
        made(kept, listeners=[users])


def test_the_probe_asks_for_clusters_and_serves_nobody(kept: ModuleType) -> None:
    probe = kept.probe_bootstrap(own_bootstrap(), "/run/probe.sock")
    assert "listeners" not in probe["static_resources"]
    assert "lds_config" not in probe["dynamic_resources"]
    assert probe["dynamic_resources"]["ads_config"]
    assert probe["admin"]["address"]["pipe"]["path"] == "/run/probe.sock"


def test_the_first_of_its_own_certificates_to_expire_is_named(kept: ModuleType) -> None:
    def certificate(until: str, name: str) -> dict[str, Any]:
        own = {"expiration_time": until, "subject_alt_names": [{"uri": name}]}
        return {"ca_cert": [own], "cert_chain": [own | {"path": "<inline>"}]}

    shown = [
        certificate("2030-01-01T00:00:00Z", "spiffe://b"),
        certificate("2029-01-01T00:00:00Z", "spiffe://a"),
    ]
    assert kept.first_expiry({"certificates": shown}) == (1861920000, "spiffe://a")
    assert kept.first_expiry({"certificates": []}) == (0, "")


def test_what_was_kept_of_another_run_of_the_pod_is_removed(
    keep: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers = {"/certs": {"certificates": []}, "/config_dump?include_eds": dump()}
    monkeypatch.setattr(
        keep, "_ask", lambda _path, page: (200, json.dumps(answers[page]).encode())
    )
    bootstrap, target = tmp_path / "envoy.json", tmp_path / "made.json"
    bootstrap.write_text(json.dumps(own_bootstrap()))
    assert keep.main("save", str(tmp_path), []) == 0
    file = tmp_path / "kept.json.gz"
    assert file.stat().st_mode & 0o777 == 0o600
    assert keep.main("bootstrap", str(tmp_path), [str(target)]) == 0
    assert target.stat().st_mode & 0o777 == 0o600

    bootstrap.write_text(json.dumps(own_bootstrap("6" * 64)))
    assert keep.main("bootstrap", str(tmp_path), [str(target)]) == 3
    assert "earlier run" in capsys.readouterr().err
    assert not file.exists()


def test_what_was_kept_goes_when_what_is_in_force_cannot_be_kept(
    keep: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It may allow more."""
    file = tmp_path / "kept.json.gz"
    (tmp_path / "envoy.json").write_text(json.dumps(own_bootstrap()))
    for answer in (dump(secrets=(OWN | {"tls_certificate": {}},)), {"configs": 3}):
        file.write_bytes(b"of before")
        shown = json.dumps(answer).encode()
        pages = {"/certs": b"{}", "/config_dump?include_eds": shown}
        monkeypatch.setattr(keep, "_ask", lambda _path, page, p=pages: (200, p[page]))
        assert keep.main("save", str(tmp_path), []) == 3
        assert not file.exists()


def test_an_envoy_that_does_not_answer_takes_nothing_away(
    keep: ModuleType, tmp_path: Path
) -> None:
    file = tmp_path / "kept.json.gz"
    file.write_bytes(b"of before")
    assert keep.main("save", str(tmp_path), []) == 1
    assert file.exists()
