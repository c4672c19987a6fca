"""Envoy's matchers on one request, from proto JSON.

Invariant: three answers: yes, no, and None where it depends on what is not known here (a token's
claims, chance). Not knowing is never taken for a yes or a no.

Source: Envoy's `RouteMatch`, `HeaderMatcher`, `StringMatcher`, and their documentation of missing
headers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from dockermesh.client.inspect.dump import Json
from dockermesh.config.rules.regex import covers

Answer = bool | None


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a proxy sees it. `path` has the query, `authority` is the Host; names of headers
    are lower case.
    """

    method: str
    scheme: str
    authority: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def plain_path(self) -> str:
        """The path without query and fragment."""
        return self.path.partition("?")[0].partition("#")[0]

    @property
    def parameters(self) -> dict[str, str]:
        """The query's parameters; of one that is there twice, the first."""
        found: dict[str, str] = {}
        for name, value in parse_qsl(
            self.path.partition("?")[2], keep_blank_values=True
        ):
            found.setdefault(name, value)
        return found

    def header(self, name: str) -> str | None:
        """A header, or a pseudo header of HTTP/2."""
        pseudo = {
            ":method": self.method,
            ":scheme": self.scheme,
            ":authority": self.authority,
            ":path": self.path,
        }
        name = name.lower()
        return pseudo.get(
            name, self.authority if name == "host" else self.headers.get(name)
        )


def both(answers: Iterable[Answer]) -> Answer:
    """Whether all hold."""
    found = list(answers)
    return False if False in found else None if None in found else True


def either(answers: Iterable[Answer]) -> Answer:
    """Whether any holds."""
    found = list(answers)
    return True if True in found else None if None in found else False


def negated(answer: Answer) -> Answer:
    """The opposite."""
    return None if answer is None else not answer


def text_matches(matcher: Json, text: str) -> Answer:
    """A `StringMatcher`."""
    ignore_case = bool(matcher.get("ignore_case"))
    fold = str.lower if ignore_case else str
    given = fold(text)

    for kind, holds in (
        ("exact", lambda wanted: given == wanted),
        ("prefix", given.startswith),
        ("suffix", given.endswith),
        ("contains", lambda wanted: wanted in given),
    ):
        if kind in matcher:
            return bool(holds(fold(str(matcher[kind]))))

    if "safe_regex" in matcher:
        return covers(str(matcher["safe_regex"].get("regex", "")), text)
    # An empty StringMatcher is `exact: ""`, which JSON leaves out.
    return text == "" if not matcher else None


def header_matches(matcher: Json, request: Request) -> Answer:
    """A `HeaderMatcher`."""
    value = request.header(str(matcher.get("name", "")))
    inverted = bool(matcher.get("invert_match"))

    if "present_match" in matcher:
        answer: Answer = (value is not None) == bool(matcher["present_match"])
        return negated(answer) if inverted else answer

    if value is None:
        # A header that is not there matches nothing, inverted matchers included.
        if not matcher.get("treat_missing_header_as_empty"):
            return False
        value = ""

    answer = _value_matches(matcher, value)
    return negated(answer) if inverted else answer


def _value_matches(matcher: Json, value: str) -> Answer:
    if "string_match" in matcher:
        return text_matches(matcher["string_match"], value)

    if "range_match" in matcher:
        span = matcher["range_match"]
        # The end is not in the range.
        is_number = value.lstrip("+-").isdigit()
        return is_number and int(span.get("start", 0)) <= int(value) < int(
            span.get("end", 0)
        )

    # Deprecated fields of before `string_match`, which EnvoyFilters may still bring.
    for kind in ("exact", "prefix", "suffix", "contains"):
        if f"{kind}_match" in matcher:
            return text_matches({kind: matcher[f"{kind}_match"]}, value)

    if "safe_regex_match" in matcher:
        return text_matches({"safe_regex": matcher["safe_regex_match"]}, value)
    return None


def parameter_matches(matcher: Json, request: Request) -> Answer:
    """A `QueryParameterMatcher`."""
    value = request.parameters.get(str(matcher.get("name", "")))
    if "string_match" in matcher:
        return False if value is None else text_matches(matcher["string_match"], value)
    return (value is not None) == bool(matcher.get("present_match", True))


def path_matches(match: Json, request: Request) -> Answer:
    """The condition of a `RouteMatch` on the path."""
    fold = str.lower if match.get("case_sensitive") is False else str
    path = fold(request.plain_path)
    if "prefix" in match:
        return path.startswith(fold(str(match["prefix"])))
    if "path" in match:
        return path == fold(str(match["path"]))
    if "path_separated_prefix" in match:
        prefix = fold(str(match["path_separated_prefix"]))
        return path == prefix or path.startswith(f"{prefix}/")
    # Envoy does not apply case_sensitive to regular expressions.
    if "safe_regex" in match:
        return covers(str(match["safe_regex"].get("regex", "")), request.plain_path)
    return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a route takes a request, and if not, or not surely, why."""

    answer: Answer
    reason: str = ""


def route_matches(match: Json, request: Request) -> Verdict:
    """Whether a route takes the request."""
    unsure = ""
    for answer, reason in _conditions(match, request):
        if answer is False:
            return Verdict(False, reason)
        if answer is None:
            unsure = unsure or reason
    return Verdict(None, unsure) if unsure else Verdict(True)


def _conditions(match: Json, request: Request) -> Iterable[tuple[Answer, str]]:
    yield path_matches(match, request), f"the path is not {_path_text(match)}"
    for matcher in match.get("headers", ()):
        yield (
            header_matches(matcher, request),
            f"header {matcher.get('name')} is {_not(matcher)}",
        )

    for matcher in match.get("query_parameters", ()):
        yield (
            parameter_matches(matcher, request),
            f"query parameter {matcher.get('name')} is {_not(matcher)}",
        )

    for known in (
        "runtime_fraction",
        "dynamic_metadata",
        "filter_state",
        "grpc",
        "tls_context",
        "cookies",
    ):
        if known in match:
            yield None, f"it depends on {known}"


def _path_text(match: Json) -> str:
    for kind, text in (
        ("path", "{}"),
        ("prefix", "{}*"),
        ("path_separated_prefix", "{}[/*]"),
    ):
        if kind in match:
            return text.format(match[kind])
    return f"like {match.get('safe_regex', {}).get('regex', '')}"


def _not(matcher: Json) -> str:
    negation = "" if matcher.get("invert_match") else "not "
    wanted = matcher.get("string_match", {})
    for kind, value in wanted.items():
        if kind in {"exact", "prefix", "suffix", "contains"}:
            return f"{negation}{'' if kind == 'exact' else kind + ' '}{value!r}"
        if kind == "safe_regex":
            return f"{negation}like {value.get('regex', '')}"
    return f"{negation}there"
