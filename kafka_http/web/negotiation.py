"""Media types: what a body is, and what a client wants to get."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from kafka_http.core.formats import Formats
from kafka_http.errors import FormatMismatch, NotAcceptable, UnsupportedFormat

JSON = "application/json"
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
OCTETS = "application/octet-stream"
V2 = "application/vnd.kafka.v2+json"
_KAFKA = re.compile(r"application/vnd\.kafka(?:\.(?P<format>[a-z0-9_-]+))?\.v(?P<version>[0-9]+)\+json")
_NO_FORMAT = {V2, "application/vnd.kafka.v1+json", "application/vnd.kafka+json"}
_REMEMBERED = 128
"""Header values, of which a client sends the same again and again."""
_LATER_VERSION = re.compile(r"\.v(?![12]\b)[0-9]")


class ContentType(NamedTuple):
    """A request's Content-Type: its media type in lower case ('' for none), and the boundary of a multipart one."""

    media_type: str
    boundary: str | None

    @classmethod
    @lru_cache(_REMEMBERED)
    def parse(cls, header: str | None) -> "ContentType":
        media_type, options = parse_options_header(header)
        return cls(media_type.lower(), options.get("boundary"))


def kafka_format(media_type: str, formats: Formats) -> str | None:
    """The format that an `application/vnd.kafka.<format>.v2+json` names, None for another type.

    v1 is taken as v2. Raises `UnsupportedFormat` where it names none, one that is not there, or another version.
    """
    match = _KAFKA.fullmatch(media_type)
    if match is None:
        return None
    if match["format"] is None or match["version"] not in {"1", "2"}:
        there = ", ".join(kafka_types(formats))
        raise UnsupportedFormat(f"{media_type} names no format that is taken here; these do: {there}.")
    formats.check(match["format"])
    return match["format"]


def kafka_types(formats: Formats) -> list[str]:
    return [kafka_type(name) for name in formats.names]


def best_of(accept: MIMEAccept, offers: Sequence[str]) -> str:
    """The offer that the client likes best; the first where it says nothing. Raises `NotAcceptable`, listing them."""
    if not accept:
        return offers[0]
    best = accept.best_match(offers)
    if best is None:
        raise NotAcceptable(f"Nothing in the Accept header is to be had here; there is: {', '.join(offers)}.")
    return best


def kafka_type(format_: str) -> str:
    return f"application/vnd.kafka.{format_}.v2+json"


def produced_format(content_type: str | None, formats: Formats) -> str:
    """The format of a v2 produce request. Raises `UnsupportedFormat`.

    It is the one that the type names. JSON and no type mean `json`. A type of the API that names no format means
    `binary`, as in Karapace: a client library depends on it.
    """
    media_type = ContentType.parse(content_type).media_type
    if media_type in {"", JSON}:
        return "json"
    format_ = "binary" if media_type in {OCTETS, *_NO_FORMAT} else kafka_format(media_type, formats)
    if format_ is None:
        there = ", ".join((*kafka_types(formats), JSON, OCTETS))
        raise UnsupportedFormat(f"Records cannot be of the type {media_type[:100]!r}. There are: {there}.")
    return format_


def check_v2_content_type(content_type: str | None) -> None:
    """Raise `UnsupportedFormat` where the body of a v2 call other than produce is not JSON by its type."""
    media_type = ContentType.parse(content_type).media_type
    if media_type not in {"", JSON, OCTETS} and not _is_v2(media_type):
        raise UnsupportedFormat(f"A body of the type {media_type[:100]!r} is not taken here: send {V2} or {JSON}.")


@lru_cache(_REMEMBERED)
def v2_answer_type(accept: str | None) -> str:
    """The type of a v2 answer other than records: ours, or `application/json` for who likes that better.

    Any of the API's types stands for ours. `accept` is the header. Raises `NotAcceptable`.
    """
    wanted = _Wanted(parse_accept_header(accept, MIMEAccept))
    ours, json = wanted.quality(V2), wanted.quality(JSON)
    if not ours and not json:
        raise NotAcceptable(f"Nothing in the Accept header is to be had here; there is: {V2}, {JSON}.")
    is_json = json > ours or (json == ours and JSON in wanted.types and V2 not in wanted.types)
    return JSON if is_json else V2


def names_v2(accept: MIMEAccept) -> bool:
    """Whether a client asks for one of the API's types by its name."""
    return V2 in _Wanted(accept).types


def check_records_type(accept: MIMEAccept, format_: str) -> None:
    """Raise `FormatMismatch` where a client wants records in another format than its instance's alone."""
    wanted, ours = _Wanted(accept, by_format=True), kafka_type(format_)
    if wanted.types.get(ours) != 0 and any(wanted.quality(each) for each in (ours, V2, JSON, OCTETS)):
        return
    if any(_KAFKA.fullmatch(each) and _is_v2(each) for each in wanted.types):
        raise FormatMismatch
    raise NotAcceptable(f"Nothing in the Accept header is to be had here; there is: {ours}, {JSON}.")


class _Wanted:
    """An Accept header without parameters: how much each type is liked. All of the API's types stand for `V2`, or
    (`by_format`) those that name a format for that of version 2."""

    def __init__(self, accept: MIMEAccept, *, by_format: bool = False) -> None:
        self.types: dict[str, float] = {}
        for value, quality in accept or [("*/*", 1.0)]:
            name = value.partition(";")[0].strip().lower()
            if _is_v2(name):
                match = _KAFKA.fullmatch(name)
                name = kafka_type(match["format"]) if by_format and match and match["format"] else V2
            self.types[name] = max(quality, self.types.get(name, 0))

    def quality(self, media_type: str) -> float:
        """How much a type is liked: what is said of itself counts more than what is said of all."""
        for each in (media_type, "application/*", "*/*"):
            if each in self.types:
                return self.types[each]
        return 0


def _is_v2(media_type: str) -> bool:
    """Whether it is one of the API's types, version 1 being as good as 2."""
    return media_type.startswith("application/vnd.kafka") and not _LATER_VERSION.search(media_type)
