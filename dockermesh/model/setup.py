"""Words about the set-up that the control plane says and the command line understands."""

SET_DOCKER_SOCK = "set DOCKER_SOCK to the path of the engine's socket on its own host"
"""The remedy for what does not mend itself, since a container keeps the mounts that it has."""
