"""Looking into proxies: who they are, what Envoy has, and what it would do with a request.

Invariant: everything but `proxies` is pure and works on Envoy's proto JSON, with the field names of
its admin (`virtual_hosts`), so that a live dump, a dump in a file and our own translation are read
by the same code.
"""
