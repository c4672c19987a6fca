"""Connections to Docker and Compose: the only code that talks to them."""
