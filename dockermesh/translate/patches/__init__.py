"""EnvoyFilter: the user's patches of finished Envoy resources, applied last and cached by the
resources they change.
"""
