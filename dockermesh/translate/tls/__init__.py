"""TLS of both sides: what a client speaks and expects, what a server shows and takes, secrets."""
