"""The process that runs: wiring, publishing, trust, debug pages and metrics."""
