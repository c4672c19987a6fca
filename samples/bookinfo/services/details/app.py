"""`GET /details/{id}`: the facts of the one book of the shop, under the id that was asked for."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from httpservice.messages import Request, Response, error_response, json_response
from httpservice.routing import Route, product_id


def book(product: int) -> dict[str, Any]:
    """The facts of a book."""
    return {
        "id": product,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    }


def get_details(_request: Request, product: str) -> Response:
    """The facts of the book with an id."""
    number = product_id(product)
    if number is None:
        return error_response(
            HTTPStatus.BAD_REQUEST, "please provide numeric product ID"
        )
    return json_response(book(number))


def routes() -> list[Route]:
    """What the service serves."""
    return [Route("GET", "/details/{product}", get_details)]
