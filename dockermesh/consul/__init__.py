"""The connection to Consul: settings, the client, and what can go wrong. The only code that knows
py-consul.

Its modules are `dockermesh.consul.*`; the library is the top-level `consul`, which only `client.py`
and `errors.py` import.
"""
