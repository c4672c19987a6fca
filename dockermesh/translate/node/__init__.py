"""The resources of a node's proxy: those of every workload that it serves, as one snapshot."""
