"""Starts the productpage service."""

import os

from httpservice.server import run
from productpage.app import ProductPage
from productpage.library import Library
from productpage.sessions import Sessions

run(
    "productpage",
    "Product page",
    ProductPage(Library.from_environment(os.environ), Sessions(os.environ)).routes(),
)
