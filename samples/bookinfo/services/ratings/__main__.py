"""Starts the ratings service."""

from httpservice.server import run
from ratings.app import Ratings

run("ratings", "Ratings", Ratings().routes())
