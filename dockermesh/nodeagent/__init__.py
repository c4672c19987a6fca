"""The agent of a host: it leads the connections of that host's node-mode workloads to its proxy."""
