"""The choice of a media type for Accept headers that real clients send."""

import pytest

from kafka_http.errors import NotAcceptable
from kafka_http.web.negotiation import EVENTS, JSON, NDJSON, OCTETS, V2, Accept, best_of, v2_response_type

JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
"""The default of Java's HttpURLConnection up to version 11."""
OFFERS = (JSON, OCTETS, EVENTS, NDJSON)


@pytest.mark.parametrize(
    ("accept", "best"),
    [
        (None, JSON),
        ("", JSON),
        (JAVA, JSON),
        ("*", JSON),
        ("*;q=.2", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("APPLICATION/JSON", JSON),
        ("application/json; charset=utf-8", JSON),
        ("application/json;charset=utf-8;q=0.5, application/x-ndjson;q=0.4", JSON),
        ("text/event-stream;charset=UTF-8, */*", EVENTS),
        ("text/event-stream, */*", EVENTS),
        ("*/*, text/event-stream", EVENTS),
        ("text/event-stream;q=.3, application/json;q=.2", EVENTS),
        ('application/x-ndjson; p="a, b; q=0"', NDJSON),
        ('text/plain; p="application/json,", application/octet-stream', OCTETS),
        ("application/x-ndjson;q=1.", NDJSON),
        ("application/x-ndjson; Q=0.9 , application/json;q=0.8", NDJSON),
        ("application/json;q=0, */*", OCTETS),
        ("application/json;q=high, application/x-ndjson", NDJSON),
        ("gibberish, application/x-ndjson", NDJSON),
        ("/, //, a/b/c, ;q=1, ,, application/x-ndjson", NDJSON),
        ("gibberish", JSON),
        ("application/json;level=1;q=0.1, application/json;q=0.5, application/x-ndjson;q=0.4", JSON),
    ],
)
def test_best_of_returns_the_preferred_offer(accept: str | None, best: str) -> None:
    assert best_of(Accept.parse(accept), OFFERS) == best


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "*/*;q=0", "*;q=.0", "image/*"])
def test_best_of_without_acceptable_offer_raises(accept: str) -> None:
    with pytest.raises(NotAcceptable):
        best_of(Accept.parse(accept), OFFERS)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (JAVA, V2),
        ("*; q=.2", V2),
        ("application/json; charset=utf-8", JSON),
        ("application/json;q=.9, application/vnd.kafka.v2+json;q=.8", JSON),
        ("application/vnd.kafka.v2+json;charset=utf-8;q=.1", V2),
        ("gibberish, application/json", JSON),
    ],
)
def test_v2_response_type_is_the_preferred_one(accept: str, media_type: str) -> None:
    assert v2_response_type(accept) == media_type
