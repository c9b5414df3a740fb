"""Media types: what a body is, and what a client wants to get."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_options_header

from kafka_http.core.formats import Formats
from kafka_http.errors import NotAcceptable, UnsupportedFormat

JSON = "application/json"
NDJSON = "application/x-ndjson"
OCTETS = "application/octet-stream"
_KAFKA = re.compile(r"application/vnd\.kafka(?:\.(?P<format>[a-z0-9_-]+))?\.v(?P<version>[0-9]+)\+json")


class ContentType(NamedTuple):
    """A request's Content-Type: its media type in lower case ('' for none), and the boundary of a multipart one."""

    media_type: str
    boundary: str | None

    @classmethod
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
    return [f"application/vnd.kafka.{name}.v2+json" for name in formats.names]


def best_of(accept: MIMEAccept, offers: Sequence[str]) -> str:
    """The offer that the client likes best; the first where it says nothing. Raises `NotAcceptable`, listing them."""
    if not accept:
        return offers[0]
    best = accept.best_match(offers)
    if best is None:
        raise NotAcceptable(f"Nothing in the Accept header is to be had here; there is: {', '.join(offers)}.")
    return best
