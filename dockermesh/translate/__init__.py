"""Istio's resources and the catalog, translated to Envoy's resources. Pure: no I/O and no clock."""
