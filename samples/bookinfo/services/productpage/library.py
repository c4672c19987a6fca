"""What productpage asks the other services, how long it waits, and what it says when they do not
answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from httpservice.upstream import Upstream, UpstreamError

_TIMEOUT = 3.0
# Reviews are asked twice on purpose: six seconds is less than the ten that reviews v2 waits for
# ratings, and finding this out is what the task about delays is for.
_REVIEWS_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """A service's document and the instance it came from, or the error to show in its place."""

    status: int
    document: Any
    served_by: str = ""


@dataclass(frozen=True, slots=True)
class Library:
    """The services behind the page."""

    details_service: Upstream
    reviews_service: Upstream
    ratings_service: Upstream

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Library:
        """Where each of them is."""
        names = ("details", "reviews", "ratings")
        return cls(*(Upstream.from_environment(name, environment) for name in names))

    def details(self, product: int, headers: Mapping[str, str]) -> Answer:
        """The facts of a book."""
        return _ask(self.details_service, "details", product, headers)

    def reviews(self, product: int, headers: Mapping[str, str]) -> Answer:
        """What people say about a book."""
        return _ask(
            self.reviews_service,
            "reviews",
            product,
            headers,
            attempts=_REVIEWS_ATTEMPTS,
        )

    def ratings(self, product: int, headers: Mapping[str, str]) -> Answer:
        """The stars alone."""
        return _ask(self.ratings_service, "ratings", product, headers)


def _ask(
    service: Upstream,
    name: str,
    product: int,
    headers: Mapping[str, str],
    *,
    attempts: int = 1,
) -> Answer:
    status: int | None = None
    for _ in range(attempts):
        try:
            document, reply = service.get_json(
                f"/{name}/{product}", headers=headers, timeout=_TIMEOUT
            )
        except UpstreamError as error:
            status = error.status
            print(f"no {name}: {error}", flush=True)
        else:
            return Answer(HTTPStatus.OK, document, reply.get("x-served-by", ""))
    sorry = {"error": f"Sorry, product {name} are currently unavailable for this book."}
    return Answer(status or HTTPStatus.INTERNAL_SERVER_ERROR, sorry)
