"""Where requests and connections go: virtual hosts, routes, retries, TCP and TLS matches."""
