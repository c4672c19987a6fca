"""`GET /ratings/{id}` tells and `POST /ratings/{id}` changes the stars of each reviewer; kept in
memory only.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from httpservice.messages import Request, Response, error_response, json_response
from httpservice.routing import Route, product_id

Stars = dict[str, int]

_DEFAULT: Stars = {"Reviewer1": 5, "Reviewer2": 4}
_MOST_PRODUCTS = 1000


class Ratings:
    """The ratings of all products; one that nobody rated has the default ones."""

    def __init__(self) -> None:
        self._by_product: dict[int, Stars] = {}

    def get(self, _request: Request, product: str) -> Response:
        """The ratings of a product."""
        number = product_id(product)
        if number is None:
            return error_response(
                HTTPStatus.BAD_REQUEST, "please provide numeric product ID"
            )
        return json_response(
            {"id": number, "ratings": self._by_product.get(number, _DEFAULT)}
        )

    def post(self, request: Request, product: str) -> Response:
        """Replace the ratings of a product."""
        number, stars = product_id(product), parse_stars(request.body)
        if number is None:
            return error_response(
                HTTPStatus.BAD_REQUEST, "please provide numeric product ID"
            )
        if stars is None:
            return error_response(
                HTTPStatus.BAD_REQUEST, "please provide valid ratings JSON"
            )
        if len(self._by_product) >= _MOST_PRODUCTS and number not in self._by_product:
            return error_response(
                HTTPStatus.INSUFFICIENT_STORAGE, "too many products have been rated"
            )
        self._by_product[number] = stars
        return json_response({"id": number, "ratings": stars})

    def routes(self) -> list[Route]:
        """What the service serves."""
        return [
            Route("GET", "/ratings/{product}", self.get),
            Route("POST", "/ratings/{product}", self.post),
        ]


def parse_stars(body: bytes) -> Stars | None:
    """A JSON object of reviewer to 0 to 5 stars, or None if it is anything else."""
    try:
        document = json.loads(body)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    # type() and not isinstance(): JSON's true is an int to Python.
    valid = all(type(stars) is int and 0 <= stars <= 5 for stars in document.values())
    return document if valid else None
