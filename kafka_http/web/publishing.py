"""A publish of the /messages dialect: from a request's parts to records."""

from werkzeug.datastructures import Headers

from kafka_http.core.formats import Formats
from kafka_http.errors import InvalidRequest
from kafka_http.records import ProducerRecord
from kafka_http.web.attributes import request_attributes
from kafka_http.web.envelopes import parse_json, parse_lines, parse_record_lines
from kafka_http.web.multipart import parse_multipart
from kafka_http.web.negotiation import JSON, NDJSON, ContentType, kafka_format
from kafka_http.web.query import Query
from kafka_http.web.v2_records import parse_v2

PUBLISH_PARAMETERS = ("key", "partition", "timestamp", "format", "timeout", "tombstone", "lines", "partitions")


def parse_publish(method: str, headers: Headers, query: Query, body: bytes, formats: Formats) -> list[ProducerRecord]:
    """The records that a PUT or POST means. Raises `InvalidRequest`, `UnsupportedFormat`."""
    content_type = ContentType.parse(headers.get("Content-Type"))
    format_ = query.text("format")
    if format_ is not None:
        formats.check(format_)
    attributes = request_attributes(query, list(headers.items()))
    if query.flag("tombstone"):
        if body:
            raise InvalidRequest("tombstone=true is a null: send no body with it.", field="tombstone")
        records = [ProducerRecord(None)]
    else:
        records = _parse_body(method, content_type, query, body, formats)
    return [attributes.fill(record) for record in records]


def _parse_body(
    method: str, content_type: ContentType, query: Query, body: bytes, formats: Formats
) -> list[ProducerRecord]:
    media_type = content_type.media_type if method == "POST" else ""
    format_ = query.text("format")
    if media_type != NDJSON and (query.text("lines") or query.text("partitions")):
        raise InvalidRequest(f"lines and partitions go with a POST of {NDJSON}.", field="lines")
    if media_type == JSON:
        return parse_json(body, format_)
    if media_type == NDJSON:
        keep = query.choice("partitions", ("keep", ""), "") == "keep"
        if query.choice("lines", ("records", "values"), "values") == "records":
            return parse_record_lines(body, format_, keep)
        return parse_lines(body, format_)
    if (name := kafka_format(media_type, formats)) is not None and format_ in {None, name}:
        return parse_v2(body, name)
    if format_ is not None:
        raise InvalidRequest(
            f"format says how a value in JSON is serialised; a {method} of {content_type.media_type or 'no type'} "
            "is stored byte for byte: leave it away.",
            field="format",
        )
    if media_type in {"multipart/mixed", "multipart/form-data"}:
        return parse_multipart(body, content_type.boundary)
    return [ProducerRecord(body)]
