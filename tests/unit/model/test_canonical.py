"""What a proxy is told of itself."""

from __future__ import annotations

from dockermesh.model.canonical import told_of_itself


def test_without_labels_it_is_the_service_at_its_latest() -> None:
    assert told_of_itself("shop/web-app-2", "prod", {}) == {
        "DOCKERMESH_WORKLOAD": "shop/web-app-2",
        "DOCKERMESH_NAMESPACE": "prod",
        "DOCKERMESH_SERVICE": "web-app",
        "DOCKERMESH_APP": "unknown",
        "DOCKERMESH_VERSION": "unknown",
        "DOCKERMESH_CANONICAL_SERVICE": "web-app",
        "DOCKERMESH_CANONICAL_REVISION": "latest",
        "DOCKERMESH_UNKNOWN": "unknown",
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=web-app.prod",
    }


def test_labels_name_it_in_the_order_of_istio() -> None:
    labels = {"app": "a", "app.kubernetes.io/name": "k", "version": "v2"}
    told = told_of_itself("shop/web-1", "default", labels)
    assert told["DOCKERMESH_CANONICAL_SERVICE"] == "k"
    assert told["DOCKERMESH_CANONICAL_REVISION"] == "v2"
    more = {"service.istio.io/canonical-name": "c", "app.kubernetes.io/version": "9"}
    told = told_of_itself("shop/web-1", "default", {**labels, **more})
    assert told["DOCKERMESH_CANONICAL_SERVICE"] == "c"
    assert told["DOCKERMESH_CANONICAL_REVISION"] == "9"


def test_a_name_is_one_attribute_whatever_is_in_it() -> None:
    told = told_of_itself("shop/web-1", "default", {"app": "a,b=c"})
    assert told["OTEL_RESOURCE_ATTRIBUTES"] == "service.name=a_b_c.default"
