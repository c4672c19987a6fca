"""Pages, sessions and ratings: the parts of the services that are pure."""

from __future__ import annotations

import pytest
from productpage.library import Answer
from productpage.page import index_page, product_page
from productpage.sessions import Sessions
from ratings.app import parse_stars
from reviews.app import Settings

BOOK = {"id": 0, "title": "The Comedy of Errors", "descriptionHtml": "Twins."}
DETAILS = Answer(200, {"id": 0, "author": "William Shakespeare", "pages": 200})


def reviews(rating: object, text: str = "Fun.") -> Answer:
    review = {"reviewer": "Reviewer1", "text": text} | (
        {} if rating is None else {"rating": rating}
    )
    return Answer(200, {"podname": "pod-7", "reviews": [review]}, "reviews-v2")


PLAIN = reviews(None)


def page(
    details: Answer = DETAILS, reviews: Answer = PLAIN, user: str | None = None
) -> str:
    return product_page(BOOK, details, reviews, user)


def test_the_page_has_details_and_reviews_and_who_served_them() -> None:
    text = page()
    for part in (
        "The Comedy of Errors",
        "William Shakespeare",
        "200",
        "Fun.",
        "Reviewer1",
        "pod-7",
        "reviews-v2",
    ):
        assert part in text
    assert "★" not in text


@pytest.mark.parametrize(
    ("stars", "shown"), [(5, "★★★★★"), (4, "★★★★☆"), (0, "☆☆☆☆☆"), (99, "★★★★★")]
)
def test_stars(stars: int, shown: str) -> None:
    text = page(reviews=reviews({"stars": stars, "color": "red"}))
    assert f">{shown}<" in text
    assert 'data-color="red"' in text


def test_unavailable_ratings_are_a_text_in_place_of_stars() -> None:
    text = page(reviews=reviews({"error": "Ratings service is currently unavailable"}))
    assert "Ratings service is currently unavailable" in text
    assert "★" not in text


def test_errors_of_a_part_leave_the_other_part() -> None:
    sorry = Answer(
        503,
        {"error": "Sorry, product details are currently unavailable for this book."},
    )
    text = page(details=sorry)
    assert "Sorry, product details are currently unavailable for this book." in text
    assert "Fun." in text


@pytest.mark.parametrize(
    "document", [None, [], "x", {}, {"reviews": "x"}, {"reviews": None}]
)
def test_a_document_of_another_shape_is_an_error_on_the_page(document: object) -> None:
    assert "Error fetching product reviews" in page(reviews=Answer(200, document))


def test_what_comes_from_elsewhere_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    rating = {"stars": 5, "color": evil}
    text = page(
        Answer(200, {"author": evil, "pages": evil}), reviews(rating, evil), user=evil
    )
    assert evil not in text
    assert "&lt;script&gt;" in text


def test_the_pages_load_nothing_from_elsewhere() -> None:
    for text in (page(), index_page("jason")):
        assert "http://" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "https://" not in text
        assert "<script" not in text


def test_signed_in_or_not() -> None:
    assert "/logout" not in page()
    assert "/logout" in page(user="jason")
    assert "jason" in page(user="jason").partition("<main>")[0]


def cookie(sessions: Sessions, name: str) -> str:
    value = sessions.sign_in(name)
    assert value is not None
    return value.partition(";")[0]


def test_a_session_is_read_by_any_replica_with_the_same_secret() -> None:
    assert Sessions({}).user(cookie(Sessions({}), "jason")) == "jason"
    assert Sessions({}).user("other=1; " + cookie(Sessions({}), "jason")) == "jason"
    assert (
        Sessions({"SESSION_SECRET": "a"}).user(
            cookie(Sessions({"SESSION_SECRET": "b"}), "jason")
        )
        is None
    )


@pytest.mark.parametrize(
    "header",
    [
        "",
        "session=",
        "session=jason",
        "session=!!!.x",
        "session=ZZ.é",
        "=;=",
        "session",
    ],
)
def test_what_is_not_a_session_is_nobody(header: str) -> None:
    assert Sessions({}).user(header) is None


def test_a_forged_name_is_nobody() -> None:
    mine, other = cookie(Sessions({}), "jason"), cookie(Sessions({}), "admin")
    assert (
        Sessions({}).user(other.partition(".")[0] + "." + mine.partition(".")[2])
        is None
    )


@pytest.mark.parametrize("name", ["", " ", "a\r\nx: y", "jäson", "x" * 65, "-x", "<b>"])
def test_names_that_cannot_be_a_header_are_refused(name: str) -> None:
    assert Sessions({}).sign_in(name) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"a": 6}',
        b'{"a": -1}',
        b'{"a": "5"}',
        b'{"a": true}',
        b"\xff",
    ],
)
def test_ratings_that_are_not(body: bytes) -> None:
    assert parse_stars(body) is None


def test_ratings() -> None:
    assert parse_stars(b'{"Reviewer1": 3, "x": 0}') == {"Reviewer1": 3, "x": 0}


@pytest.mark.parametrize(
    ("environment", "enabled", "timeout"),
    [
        ({}, False, 10.0),
        ({"ENABLE_RATINGS": "true"}, True, 10.0),
        ({"ENABLE_RATINGS": "true", "STAR_COLOR": "red"}, True, 2.5),
    ],
)
def test_versions_of_reviews(
    environment: dict[str, str], enabled: bool, timeout: float
) -> None:
    settings = Settings.from_environment(environment)
    assert (settings.enable_ratings, settings.ratings_timeout) == (enabled, timeout)
