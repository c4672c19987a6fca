"""What Istio's Telemetry asks of proxies: which resources are for whom, and what follows."""
