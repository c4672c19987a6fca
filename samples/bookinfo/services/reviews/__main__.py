"""Starts the reviews service."""

import os

from httpservice.server import run
from reviews.app import Reviews, Settings

run("reviews", "Reviews", Reviews(Settings.from_environment(os.environ)).routes())
