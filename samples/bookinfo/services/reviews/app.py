"""`GET /reviews/{id}`: the reviews of a book, with stars from the ratings service where the version
has them.

Invariant: a ratings service that fails or is slow costs the stars, never the reviews.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from httpservice.messages import Request, Response, error_response, json_response
from httpservice.propagation import propagated
from httpservice.routing import Route, product_id
from httpservice.upstream import Upstream, UpstreamError

_TEXTS = {
    "Reviewer1": (
        "Two pairs of twins, one town, and nobody knows who is who. I laughed from start to finish."
    ),
    "Reviewer2": (
        "Quick, loud and great fun. It is not his deepest play, but hardly any other one keeps up"
        " this pace."
    ),
}
_UNAVAILABLE = {"error": "Ratings service is currently unavailable"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What makes one version of the service differ from another."""

    ratings: Upstream
    pod: str
    cluster: str | None = None
    enable_ratings: bool = False
    star_color: str = "black"
    ratings_timeout: float = 10.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """ENABLE_RATINGS, STAR_COLOR, CLUSTER_NAME, and where the ratings are."""
        color = environment.get("STAR_COLOR", "black")
        return cls(
            ratings=Upstream.from_environment("ratings", environment),
            pod=socket.gethostname(),
            cluster=environment.get("CLUSTER_NAME"),
            enable_ratings=environment.get("ENABLE_RATINGS", "false").lower() == "true",
            star_color=color,
            # The patient version outwaits productpage, which is what the task about timeouts shows.
            ratings_timeout=10.0 if color == "black" else 2.5,
        )


class Reviews:
    """The routes of the service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def get(self, request: Request, product: str) -> Response:
        """The reviews of the book with an id."""
        number = product_id(product)
        if number is None:
            return error_response(
                HTTPStatus.BAD_REQUEST, "please provide numeric product ID"
            )
        ratings = (
            self._ratings(number, request.headers)
            if self._settings.enable_ratings
            else None
        )
        return json_response(
            {
                "id": str(number),
                "podname": self._settings.pod,
                "clustername": self._settings.cluster,
                "reviews": [self._review(reviewer, ratings) for reviewer in _TEXTS],
            }
        )

    def _review(
        self, reviewer: str, ratings: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        review: dict[str, Any] = {"reviewer": reviewer, "text": _TEXTS[reviewer]}
        if ratings is not None:
            stars = ratings.get(reviewer)
            review["rating"] = (
                {"stars": stars, "color": self._settings.star_color}
                if stars
                else _UNAVAILABLE
            )
        return review

    def _ratings(self, product: int, headers: Mapping[str, str]) -> Mapping[str, Any]:
        settings = self._settings
        try:
            document, _ = settings.ratings.get_json(
                f"/ratings/{product}",
                headers=propagated(headers),
                timeout=settings.ratings_timeout,
            )
            ratings = document["ratings"]
        except (UpstreamError, KeyError, TypeError) as error:
            print(f"no ratings: {error}", file=sys.stderr, flush=True)
            return {}
        return ratings if isinstance(ratings, dict) else {}

    def routes(self) -> list[Route]:
        """What the service serves."""
        return [Route("GET", "/reviews/{product}", self.get)]
