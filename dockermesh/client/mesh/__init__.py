"""The way to a running control plane, and what is asked of it."""
