"""A gateway's resources: listeners, virtual hosts by host, what it believes of clients."""
