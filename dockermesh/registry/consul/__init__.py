"""Consul as a backend: its catalog by blocking queries; config, history, tokens and CA in KV."""
