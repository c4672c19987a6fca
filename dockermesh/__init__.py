"""dockermesh: a service mesh for Docker and docker-compose, speaking Istio's API."""

import os

__version__ = "0.1.0"

# gRPC reads both when it is first imported, by whichever package: so they are set before any is.
# Forking from a process with a grpc.aio server only makes it complain.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Else it writes a line for every handshake that fails: anybody could push all else out of the log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
