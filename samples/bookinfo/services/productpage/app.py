"""The routes of productpage: pages for people, `/api/v1` for programs, and a sign-in that only asks
for a name.

Invariant: `end-user` on the calls that follow from a request is the signed-in user or absent; a
caller cannot set it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from httpservice.messages import (
    Request,
    Response,
    error_response,
    html_response,
    json_response,
    redirect,
)
from httpservice.propagation import END_USER, propagated
from httpservice.routing import Route, product_id
from productpage.library import Answer, Library
from productpage.page import FAVICON, index_page, product_page
from productpage.sessions import Sessions

PRODUCTS: tuple[dict[str, Any], ...] = (
    {
        "id": 0,
        "title": "The Comedy of Errors",
        "descriptionHtml": (
            "Two pairs of identical twins, parted by a shipwreck, end up in the same town on the"
            " same day. Mistaken identities, wrongful beatings and an arrest follow in one of"
            " Shakespeare's shortest and most farcical comedies."
        ),
    },
)

Ask = Callable[[int, Mapping[str, str]], Answer]


class ProductPage:
    """The routes of the service."""

    def __init__(self, library: Library, sessions: Sessions) -> None:
        self._library = library
        self._sessions = sessions

    def routes(self) -> list[Route]:
        """What the service serves."""
        return [
            Route("GET", "/", self.index),
            Route("GET", "/index.html", self.index),
            Route("GET", "/productpage", self.product),
            Route("GET", "/login", lambda _request: redirect("/productpage")),
            Route("POST", "/login", self.login),
            Route("GET", "/logout", self.logout),
            Route("GET", "/static/favicon.svg", favicon),
            Route("GET", "/api/v1/products", lambda _request: json_response(PRODUCTS)),
            Route(
                "GET", "/api/v1/products/{product}", self._api(self._library.details)
            ),
            Route(
                "GET",
                "/api/v1/products/{product}/reviews",
                self._api(self._library.reviews),
            ),
            Route(
                "GET",
                "/api/v1/products/{product}/ratings",
                self._api(self._library.ratings),
            ),
        ]

    def index(self, request: Request) -> Response:
        """The front page."""
        return html_response(index_page(self._user(request)))

    def product(self, request: Request) -> Response:
        """The page of the book; also 200 when a part of it has to say that it is unavailable."""
        headers = self._outgoing(request)
        book = PRODUCTS[0]
        details = self._library.details(book["id"], headers)
        reviews = self._library.reviews(book["id"], headers)
        return html_response(product_page(book, details, reviews, self._user(request)))

    def login(self, request: Request) -> Response:
        """Sign in under any name; the password is not looked at."""
        form = parse_qs(request.body.decode("utf-8", "replace"))
        cookie = self._sessions.sign_in(form.get("username", [""])[0])
        if cookie is None:
            return error_response(
                HTTPStatus.BAD_REQUEST,
                "a user name is 1 to 64 plain letters, digits, or ._@+-",
            )
        return redirect("/productpage", ("set-cookie", cookie))

    def logout(self, _request: Request) -> Response:
        """Sign out."""
        return redirect("/productpage", ("set-cookie", self._sessions.sign_out()))

    def _api(self, ask: Ask) -> Callable[[Request, str], Response]:
        def answer(request: Request, product: str) -> Response:
            number = product_id(product)
            if number is None or number >= len(PRODUCTS):
                return error_response(
                    HTTPStatus.NOT_FOUND, f"there is no product {product}"
                )
            found = ask(number, self._outgoing(request))
            return json_response(found.document, found.status)

        return answer

    def _user(self, request: Request) -> str | None:
        return self._sessions.user(request.headers.get("cookie", ""))

    def _outgoing(self, request: Request) -> dict[str, str]:
        headers = propagated(request.headers)
        headers.pop(END_USER, None)
        user = self._user(request)
        return headers | {END_USER: user} if user else headers


def favicon(_request: Request) -> Response:
    """The icon of the browser tab."""
    return Response(
        HTTPStatus.OK,
        FAVICON.encode(),
        "image/svg+xml",
        (("cache-control", "max-age=86400"),),
    )
