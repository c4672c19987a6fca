"""Words about the set-up that several parts say, or one says and another understands."""

SET_DOCKER_SOCK = "set DOCKER_SOCK to the path of the engine's socket on its own host"
"""The remedy for what does not mend itself, since a container keeps the mounts that it has."""
NO_TTL = (
    "has no effect: an app has no way to Consul to say that it lives. Use SERVICE_CHECK_SCRIPT,"
    " _HTTP, _TCP, or a HEALTHCHECK"
)
"""Said of a SERVICE_CHECK_TTL, by who makes the pods and by who registers them."""
