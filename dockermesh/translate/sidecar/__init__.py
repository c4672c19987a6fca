"""A sidecar's resources: outbound ones, which all sidecars in a scope share, and its inbound."""
