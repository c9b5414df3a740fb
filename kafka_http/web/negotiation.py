"""Media types: the Content-Type of a body, and the choice of a response's type by the Accept header."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from werkzeug.http import parse_options_header

from kafka_http.errors import FormatMismatch, NotAcceptable, UnsupportedFormat
from kafka_http.schemas.formats import Formats

JSON = "application/json"
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
OCTETS = "application/octet-stream"
V2 = "application/vnd.kafka.v2+json"
_KAFKA = re.compile(r"application/vnd\.kafka(?:\.(?P<format>[a-z0-9_-]+))?\.v(?P<version>[0-9]+)\+json")
_NO_FORMAT = {V2, "application/vnd.kafka.v1+json", "application/vnd.kafka+json"}
_CACHED_HEADERS = 128
"""Clients send the same header values again and again."""
_MEDIA_RANGE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+")
_DECIMAL = re.compile(r"0?\.[0-9]+|0\.?|1(\.0*)?")
_LATER_VERSION = re.compile(r"\.v(?![12]\b)[0-9]")


class Accept:
    """An Accept header: its media ranges, in lower case, and the quality of each.

    Parameters other than `q` are ignored, and so are malformed entries. Without entries, every type is acceptable.
    """

    def __init__(self, entries: Iterable[tuple[str, float]]) -> None:
        self.types: dict[str, float] = {}
        for media_range, quality in entries:
            self.types[media_range] = max(quality, self.types.get(media_range, 0))

    @classmethod
    @lru_cache(_CACHED_HEADERS)
    def parse(cls, header: str | None) -> "Accept":
        return cls(filter(None, map(_parsed_entry, (header or "").lower().split(","))))

    def match(self, media_type: str) -> tuple[float, int]:
        """Return the quality of a type, from 0 to 1, and how specific the matching range is."""
        if not self.types:
            return 1, 0
        for specificity, each in ((2, media_type), (1, f"{media_type.partition('/')[0]}/*"), (0, "*/*")):
            if each in self.types:
                return self.types[each], specificity
        return 0, 0

    def quality(self, media_type: str) -> float:
        return self.match(media_type)[0]

    def as_v2(self, *, by_format: bool = False) -> "Accept":
        """Return this header with every type of the v2 API replaced by `V2`.

        With `by_format`, a type that names a format keeps it and becomes version 2.
        """
        return Accept((_v2_range(each, by_format), quality) for each, quality in self.types.items())


def _parsed_entry(entry: str) -> tuple[str, float] | None:
    """Parse a media range and its quality. Return None for a malformed entry, such as a part of a quoted parameter."""
    media_range, *parameters = (each.strip() for each in entry.split(";"))
    if media_range == "*":  # Java's HttpURLConnection sends it
        media_range = "*/*"
    pairs = (each.partition("=") for each in parameters)
    quality = next((value.strip() for name, _, value in pairs if name.strip() == "q"), "1")
    if not _MEDIA_RANGE.fullmatch(media_range) or not _DECIMAL.fullmatch(quality):
        return None
    return media_range, float(quality)


def _v2_range(media_range: str, by_format: bool) -> str:
    if not _is_v2(media_range):
        return media_range
    match = _KAFKA.fullmatch(media_range)
    return kafka_type(match["format"]) if by_format and match and match["format"] else V2


class ContentType(NamedTuple):
    """A request's Content-Type: its media type in lower case ('' for none), and the boundary if it is multipart."""

    media_type: str
    boundary: str | None

    @classmethod
    @lru_cache(_CACHED_HEADERS)
    def parse(cls, header: str | None) -> "ContentType":
        media_type, options = parse_options_header(header)
        return cls(media_type.lower(), options.get("boundary"))


def is_streaming_upload(method: str, accept: str | None, content_type: str | None) -> bool:
    """Whether a publish with these headers publishes while its body arrives: NDJSON that prefers an NDJSON response."""
    if method != "POST" or accept is None or NDJSON not in accept.lower():
        return False
    accepted = Accept.parse(accept)
    return ContentType.parse(content_type).media_type == NDJSON and accepted.match(NDJSON) > accepted.match(JSON)


def kafka_format(media_type: str, formats: Formats) -> str | None:
    """Return the format in `application/vnd.kafka.<format>.v2+json`, None for another type.

    v1 counts as v2. Raises `UnsupportedFormat` for a missing or unknown format, or another version.
    """
    match = _KAFKA.fullmatch(media_type)
    if match is None:
        return None
    if match["format"] is None or match["version"] not in {"1", "2"}:
        supported = ", ".join(kafka_types(formats))
        raise UnsupportedFormat(f"{media_type} does not name a supported format. Supported: {supported}.")
    formats.check(match["format"])
    return match["format"]


def kafka_types(formats: Formats) -> list[str]:
    """Return the v2 media types of all formats."""
    return [kafka_type(name) for name in formats.names]


def best_of(accept: Accept, offers: Sequence[str]) -> str:
    """Return the offer with the highest quality; of equal ones the most specifically accepted, then the first.

    Raises `NotAcceptable`, which lists the offers.
    """
    best = max(offers, key=accept.match)
    if not accept.quality(best):
        raise _not_acceptable(*offers)
    return best


def _not_acceptable(*offers: str) -> NotAcceptable:
    return NotAcceptable(f"None of the types in the Accept header is available. Available: {', '.join(offers)}.")


def kafka_type(format_: str) -> str:
    """Return the v2 media type of a format."""
    return f"application/vnd.kafka.{format_}.v2+json"


def produce_format(content_type: str | None, formats: Formats) -> str:
    """Return the format of the records in a v2 produce request. Raises `UnsupportedFormat`.

    JSON and no Content-Type mean `json`. A type of the API without a format means `binary`, as in Karapace: a client
    library depends on it.
    """
    media_type = ContentType.parse(content_type).media_type
    if media_type in {"", JSON}:
        return "json"
    format_ = "binary" if media_type in {OCTETS, *_NO_FORMAT} else kafka_format(media_type, formats)
    if format_ is None:
        supported = ", ".join((*kafka_types(formats), JSON, OCTETS))
        raise UnsupportedFormat(f"Records of type {media_type[:100]!r} are not supported. Supported: {supported}.")
    return format_


def check_v2_content_type(content_type: str | None) -> None:
    """Check that the body of a v2 call other than produce is JSON by its type. Raises `UnsupportedFormat`."""
    media_type = ContentType.parse(content_type).media_type
    if media_type not in {"", JSON, OCTETS} and not _is_v2(media_type):
        raise UnsupportedFormat(f"A body of type {media_type[:100]!r} is not supported. Send {V2} or {JSON}.")


@lru_cache(_CACHED_HEADERS)
def v2_response_type(accept: str | None) -> str:
    """Return the type of a v2 response other than records: `V2`, or `application/json` if the client prefers it.

    Each type of the API counts as `V2`. `accept` is the header. Raises `NotAcceptable`.
    """
    accepted = Accept.parse(accept).as_v2()
    v2, json = accepted.quality(V2), accepted.quality(JSON)
    if not v2 and not json:
        raise _not_acceptable(V2, JSON)
    is_json = json > v2 or (json == v2 and JSON in accepted.types and V2 not in accepted.types)
    return JSON if is_json else V2


def check_records_type(accept: str | None, format_: str) -> None:
    """Check that a client accepts records in its instance's format. Raises `FormatMismatch`, `NotAcceptable`."""
    accepted, own_type = Accept.parse(accept).as_v2(by_format=True), kafka_type(format_)
    if accepted.types.get(own_type) != 0 and any(accepted.quality(each) for each in (own_type, V2, JSON, OCTETS)):
        return
    if any(_KAFKA.fullmatch(each) and _is_v2(each) for each in accepted.types):
        raise FormatMismatch
    raise _not_acceptable(own_type, JSON)


def _is_v2(media_type: str) -> bool:
    """Whether it is a type of the v2 API. Version 1 counts as 2."""
    return media_type.startswith("application/vnd.kafka") and not _LATER_VERSION.search(media_type)
