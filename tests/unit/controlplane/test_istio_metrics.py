"""What is the same as in Istio is told under Istio's names, for its boards."""

from __future__ import annotations

from collections import Counter

from dockermesh.controlplane.metrics import render_metrics
from dockermesh.model import Catalog
from dockermesh.translate.translator import Counters
from dockermesh.xds import CLUSTER, ENDPOINTS, Metrics, Sync


def test_connections_pushes_and_rejects_have_istios_names_and_types() -> None:
    metrics = Metrics(pushes=Counter({CLUSTER: 3}), nacks=Counter({ENDPOINTS: 2}))
    text = render_metrics(metrics, Sync(7, 0, 0), Counters(), Catalog(), frozenset())
    lines = text.splitlines()
    connected = next(line for line in lines if line.startswith("pilot_xds{"))
    assert connected.endswith("} 7.0")
    assert 'pilot_xds_pushes{type="cds"} 3.0' in lines
    assert 'pilot_xds_pushes{type="eds"} 0.0' in lines
    assert 'pilot_total_xds_rejects{type="eds"} 2.0' in lines
    assert 'dockermesh_xds_pushes_total{type="clusters"} 3.0' in lines
