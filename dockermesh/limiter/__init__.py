"""A rate limit service: Envoy's protocol, counts in memory or in Redis; a process of its own."""
