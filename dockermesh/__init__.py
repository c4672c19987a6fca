"""dockermesh: a service mesh for Docker and docker-compose, speaking Istio's API."""

__version__ = "0.1.0"
