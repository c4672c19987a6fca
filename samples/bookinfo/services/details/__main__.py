"""Starts the details service."""

from details.app import routes
from httpservice.server import run

run("details", "Details", routes())
