"""Values of Envoy's API that every part makes: packing, names, addresses, filter chains, the HTTP
connection manager, and the check against Envoy's own rules. Knows no service and no resource.
"""
