"""What panels ask: PromQL, and panels that several boards have."""

from __future__ import annotations

from grafana import COLUMNS, Panel

DURATION = "istio_request_duration_milliseconds"
REQUESTS = "istio_requests_total"
SOURCE_SIDE = 'reporter="source"'
SERVER_SIDE = 'reporter="destination"'
FAILED = 'response_code=~"5..|0"'
QUANTILES = ("0.5", "0.9", "0.99")


def row(title: str) -> Panel:
    """A heading."""
    return Panel(title, {}, kind="row", width=COLUMNS)


def number(title: str, query: str, unit: str = "short", about: str = "") -> Panel:
    """A single figure."""
    return Panel(title, {"": query}, unit, "stat", 4, about)


def rate(metric: str, labels: str = "", by: str = "") -> str:
    """How much a counter grows in a second."""
    grouped = f"sum by ({by}) " if by else "sum"
    return f"{grouped}(rate({metric}{{{labels}}}[$__rate_interval]))"


def or_none(query: str) -> str:
    """The same, and 0 where there is nothing yet."""
    return f"({query} or vector(0))"


def success(labels: str, by: str = "") -> str:
    """Which share of the requests succeeds; 1 while all do."""
    failed = rate(REQUESTS, f"{labels},{FAILED}", by)
    every = rate(REQUESTS, labels, by)
    return f"1 - (({failed} or 0 * {every}) / ({every} > 0))"


def quantile(share: str, metric: str, labels: str = "", by: str = "") -> str:
    """A quantile of a histogram."""
    grouped = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, grouped)})"


def quantiles(metric: str, labels: str = "") -> dict[str, str]:
    """Three of them, by legend."""
    return {
        f"p{float(share) * 100:g}": quantile(share, metric, labels)
        for share in QUANTILES
    }


def requests(labels: str, by: str, legend: str) -> list[Panel]:
    """Requests, those that fail, and how long they take."""
    return [
        Panel("Requests", {legend: rate(REQUESTS, labels, by)}, "reqps"),
        Panel("Success", {legend: success(labels, by)}, "percentunit"),
        Panel(
            "Requests by code",
            {"{{response_code}}": rate(REQUESTS, labels, "response_code")},
            "reqps",
        ),
        Panel("Duration", quantiles(DURATION, labels), "ms"),
        Panel("Duration, p99", {legend: quantile("0.99", DURATION, labels, by)}, "ms"),
        Panel(
            "Size, p90",
            {
                "requests": quantile("0.9", "istio_request_bytes", labels),
                "responses": quantile("0.9", "istio_response_bytes", labels),
            },
            "bytes",
        ),
    ]


def connections(labels: str, by: str, legend: str) -> list[Panel]:
    """TCP: bytes and connections; bytes count when a connection ends."""
    return [
        Panel(
            "TCP bytes",
            {
                f"sent {legend}": rate("istio_tcp_sent_bytes_total", labels, by),
                f"received {legend}": rate(
                    "istio_tcp_received_bytes_total", labels, by
                ),
            },
            "Bps",
            about="Counted when a connection ends.",
        ),
        Panel(
            "TCP connections",
            {
                f"opened {legend}": rate(
                    "istio_tcp_connections_opened_total", labels, by
                ),
                f"closed {legend}": rate(
                    "istio_tcp_connections_closed_total", labels, by
                ),
            },
            "cps",
        ),
    ]


def shares(by: str) -> dict[str, str]:
    """The columns of a table with a line for each value of these labels."""
    return {
        "requests/s": rate(REQUESTS, SOURCE_SIDE, by),
        "success": success(SOURCE_SIDE, by),
        **{
            f"p{float(share) * 100:g} ms": quantile(share, DURATION, SOURCE_SIDE, by)
            for share in QUANTILES
        },
    }
