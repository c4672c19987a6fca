"""Findings about configuration that is valid but wrong: what `dockermesh analyze` says.

A `Context` holds all that is known (resources, services, workloads); an analyzer is a pure function
from it to findings; `registry.ANALYZERS` lists them all. Codes below IST are Istio's, those
below DM are ours.
"""
