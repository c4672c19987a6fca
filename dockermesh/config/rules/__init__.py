"""Istio's validation rules, one module per module of `api/`; each reports to a cursor and returns
nothing.
"""
