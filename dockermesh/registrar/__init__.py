"""The registrar: Docker's containers to Consul, attested, healed and asked for their health.

It writes into a registry; a *registry* (`dockermesh.registry`) is where services come from, and the
*bridge* is what follows one into the control plane. Mapping and plans are pure (`mapping`,
`desired`, `plan`, `heal`); `registrar.py` follows the engine, and `Attestor`, `Healer`, `Checker`
and the sinks act. Law: nothing here knows of Envoy or of Istio's resources.
"""
