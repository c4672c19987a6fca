"""The pages as HTML: a pure function of what the other services answered.

Everything that came over the network is escaped here, and a document of an unexpected shape is
shown as unavailable rather than trusted. No scripts and nothing from elsewhere, so that the page
also works offline.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from http import HTTPStatus
from pathlib import Path
from string import Template
from typing import Any

from productpage.library import Answer

_HERE = Path(__file__).parent
_FRAME = Template((_HERE / "frame.html").read_text())
_STYLE = (_HERE / "style.css").read_text()
_COVER = (_HERE / "cover.svg").read_text()
FAVICON = (_HERE / "favicon.svg").read_text()

_FACTS = (
    ("Type", "type"),
    ("Pages", "pages"),
    ("Language", "language"),
    ("Publisher", "publisher"),
    ("Published", "year"),
    ("ISBN-10", "ISBN-10"),
    ("ISBN-13", "ISBN-13"),
)
_MOST_STARS = 5

_PARTS = (
    (
        "productpage",
        "This page. It asks details and reviews, and says so when one of them does not answer.",
    ),
    ("details", "The facts of the book: pages, publisher, ISBN."),
    (
        "reviews",
        "In three versions: without stars, with black stars, and with red stars.",
    ),
    ("ratings", "The stars. Only versions 2 and 3 of reviews ask for them."),
)


def product_page(
    book: Mapping[str, Any], details: Answer, reviews: Answer, user: str | None
) -> str:
    """The page of a book."""
    title = escape(book["title"])
    author = (
        details.document.get("author") if isinstance(details.document, dict) else None
    )
    byline = f'<p class="by">by {escape(str(author))}</p>' if author else ""
    content = f"""<section class="hero">
<div class="cover"><div class="book">
{_COVER}</div></div>
<div>
<h1>{title}</h1>
{byline}
<p class="summary">{book["descriptionHtml"]}</p>
{_details(details)}
</div>
</section>
<section>
{_reviews(reviews)}
</section>"""
    return _framed(f"{title} · Bookinfo", content, user)


def index_page(user: str | None) -> str:
    """The front page."""
    parts = "\n".join(
        f'<div class="card"><h3>{name}</h3><p>{text}</p></div>' for name, text in _PARTS
    )
    content = f"""<section>
<h1>A bookshop with one book</h1>
<p class="lead">Bookinfo is a small application made of four services. It knows nothing of
the mesh it may be running in, which makes it a good place to see what a mesh does.</p>
<a class="button" href="/productpage">Open the product page</a>
</section>
<section class="parts">
{parts}
</section>"""
    return _framed("Bookinfo", content, user)


def _framed(title: str, content: str, user: str | None) -> str:
    return _FRAME.substitute(
        title=title, style=_STYLE, session=_session(user), content=content
    )


def _session(user: str | None) -> str:
    if user is None:
        return '<button type="button" popovertarget="sign-in">Sign in</button>'
    name = escape(user)
    return (
        '<span class="user"><span class="avatar"'
        f' aria-hidden="true">{escape(user[0])}</span><span>{name}</span></span><a class="button'
        ' quiet" href="/logout">Sign out</a>'
    )


def _details(details: Answer) -> str:
    if details.status != HTTPStatus.OK or not isinstance(details.document, dict):
        return _sorry("Error fetching product details", details)
    facts = "\n".join(
        f"<div><dt>{label}</dt><dd>{escape(str(details.document[key]))}</dd></div>"
        for label, key in _FACTS
        if key in details.document
    )
    return f'<dl class="facts" aria-label="Book details">\n{facts}\n</dl>'


def _reviews(reviews: Answer) -> str:
    document = reviews.document
    found = document.get("reviews") if isinstance(document, dict) else None
    if reviews.status != HTTPStatus.OK or not isinstance(found, list):
        sorry = _sorry("Error fetching product reviews", reviews)
        return f'<div class="heading"><h2>Book reviews</h2></div>\n{sorry}'
    version = f"<b>{escape(reviews.served_by)}</b> in " if reviews.served_by else ""
    pod = escape(str(document.get("podname", "unknown")))
    cards = "\n".join(_review(review) for review in found if isinstance(review, dict))
    return f"""<div class="heading"><h2>Book reviews</h2>
<div class="served">Reviews served by {version}<code>{pod}</code></div></div>
<div class="cards">
{cards}
</div>"""


def _review(review: Mapping[str, Any]) -> str:
    text, reviewer = (
        escape(str(review.get("text", ""))),
        escape(str(review.get("reviewer", ""))),
    )
    return f"""<figure class="card">
<blockquote>{text}</blockquote>
<figcaption>{reviewer}{_rating(review.get("rating"))}</figcaption>
</figure>"""


def _rating(rating: object) -> str:
    if not isinstance(rating, dict):
        return ""
    stars = rating.get("stars")
    if not isinstance(stars, int):
        return f'<span class="no-stars">{escape(str(rating.get("error", "no stars")))}</span>'
    full = min(max(stars, 0), _MOST_STARS)
    color = escape(str(rating.get("color", "black")))
    return (
        f'<span class="stars" data-color="{color}" role="img" aria-label="{full} of {_MOST_STARS}'
        f' stars, {color}">'
        f"{'★' * full}{'☆' * (_MOST_STARS - full)}</span>"
    )


def _sorry(title: str, answer: Answer) -> str:
    document = answer.document
    message = document.get("error") if isinstance(document, dict) else None
    text = escape(str(message or "The answer could not be read."))
    return f'<div class="sorry" role="alert"><b>{title}</b><p>{text}</p></div>'
