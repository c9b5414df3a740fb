"""Streams with `contains` and `key`: a search through a topic on the server."""

import json
from contextlib import closing
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.records import NewRecord
from kafka_http.web.messages import stream_body
from tests.api.test_streams import NDJSON, put, stream
from tests.support.fake_broker import FakeBroker


def found(client: FlaskClient, query: str, offset: str = "earliest", topic: str = "t") -> list[Any]:
    """The (partition, offset) of the messages that a search finds."""
    with stream(client, f"/messages/{topic}/me/{offset}?until=end&{query}", NDJSON) as lines:
        return [(each["partition"], each["offset"]) for each in lines.lines()]


@pytest.fixture(autouse=True)
def _messages(broker: FakeBroker) -> None:
    put(broker, "t", b'{"name": "Ada", "city": "S\\u00e3o Paulo"}', key=b"a-1")
    put(broker, "t", b'say "hi" to Ada', key=b"b-2")
    put(broker, "t", None, key=b"a-1")
    put(broker, "t", b'{"said": "say \\"hi\\""}', headers=(("source", b"shop-7"), ("none", None)))
    put(broker, "t", b"\xff\xfe", key=b"\xff")


@pytest.mark.parametrize(
    ("query", "offsets"),
    [
        ("contains=Ada", [0, 1]),
        ("contains=ada", []),
        ("contains=São", [0]),
        ('contains="hi"', [1, 3]),
        ("contains=shop-7", [3]),
        ("contains=b-", [1]),
        ("contains=partition", []),
        ("key=a-1", [0, 2]),
        ("key=a", []),
        ("key=a-1&contains=Ada", [0]),
        ("key=b-2&contains=Paulo", []),
    ],
)
def test_search_finds_text_in_keys_values_and_headers(client: FlaskClient, query: str, offsets: list[int]) -> None:
    """A text is found as it is stored, and in the forms that JSON gives it."""
    assert found(client, query) == [(0, each) for each in offsets]


@pytest.mark.parametrize("value", [b'"\\u00E9/1"', b'"\\u00e9/1"', b'"\xc3\xa9/1"', b'"\\u00e9\\/1"', b'"\\u00E9\\/1"'])
def test_search_finds_text_and_key_however_json_escapes_it(
    client: FlaskClient, broker: FakeBroker, value: bytes
) -> None:
    """Java's writers use upper case, PHP escapes slashes, and a key as JSON was found only if it was ASCII."""
    put(broker, "t", value, key=value)
    assert found(client, "contains=é/1") == [(0, 5)]
    assert found(client, "key=é/1") == [(0, 5)]


def test_search_finds_what_a_format_shows(client: FlaskClient, broker: FakeBroker) -> None:
    put(broker, "t", b"\x00\x01", b"\x02\x03", key=b"7")
    assert found(client, "format=binary&contains=AgM=", topic="t") == [(0, 6)]
    assert found(client, "key_format=json&key=7", topic="t") == [(0, 5), (0, 6)]


def test_search_starts_at_the_position_and_reads_all_partitions(client: FlaskClient, broker: FakeBroker) -> None:
    for partition in range(3):
        put(broker, "three", b"x", b"yes", b"yes", partition=partition)
    assert sorted(found(client, "contains=yes", "0:2,1:0,2:3", "three")) == [(0, 2), (1, 1), (1, 2)]
    assert sorted(found(client, "contains=yes&partition=2", topic="three")) == [(2, 1), (2, 2)]


def test_limit_of_a_search_counts_what_is_found(client: FlaskClient, broker: FakeBroker) -> None:
    broker.producer.publish("t", [NewRecord(b"%d" % each, partition=0) for each in range(5000)], 1).result()
    assert found(client, "contains=99&limit=3") == [(0, 5 + each) for each in (99, 199, 299)]
    many = (499, 1499, 2499, 3499, 4499, *range(4990, 4994))
    assert found(client, "contains=499&limit=9") == [(0, 5 + each) for each in many]


def test_search_reports_how_much_was_scanned(client: FlaskClient, broker: FakeBroker) -> None:
    broker.producer.publish("t", [NewRecord(b"%d" % each, partition=0) for each in range(5000)], 1).result()
    with stream(client, "/messages/t/me/3?until=end&contains=77777") as events:
        *reports, end = events.rest()
        assert {each.type for each in reports} == {"progress"}
        assert reports[-1].json == {"scanned": 5002}
        assert events.parser.ids[-2:] == ["0:5005,*:earliest", "0:5005,*:earliest;end"]
        assert (end.type, end.json) == ("end", {"next": "0:5005,*:earliest"})


def test_search_reports_progress_while_nothing_is_found(
    client: FlaskClient, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client can tell a long search from a broken connection, and continue it at the last id."""
    monkeypatch.setattr(stream_body, "PROGRESS_SECONDS", 0)
    broker.producer.publish("t", [NewRecord(b"%d" % each, partition=0) for each in range(9000)], 1).result()
    with stream(client, "/messages/t/me/earliest?until=end&contains=77777") as events:
        scanned = [each.json["scanned"] for each in events.rest() if each.type == "progress"]
    assert len(scanned) > 2
    assert scanned == sorted(scanned)
    assert scanned[-1] == 9005


def test_search_continues_at_the_last_event_id(client: FlaskClient) -> None:
    path = "/messages/t/me/earliest?until=end&contains=Ada"
    with stream(client, path, NDJSON, Last_Event_ID="0:1,*:earliest") as lines:
        assert [each["offset"] for each in lines.lines()] == [1]


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("contains=x", "until", "need until=end"),
        ("key=x", "until", "need until=end"),
        ("contains=&until=end", "contains", "1 to 1000 characters, got 0"),
        (f"key={'x' * 1001}&until=end", "key", "1 to 1000 characters, got 1001"),
    ],
)
def test_wrong_search_is_rejected(client: FlaskClient, query: str, field: str, message: str) -> None:
    with closing(client.get(f"/messages/t/me/earliest?{query}", headers={"Accept": NDJSON})) as response:
        error = json.loads(response.data)["error"]
    assert (response.status_code, error["field"]) == (400, field)
    assert message in error["message"]


def test_page_with_search_says_that_only_streams_search(client: FlaskClient) -> None:
    error = client.get("/messages/t/me/earliest?contains=x").json["error"]
    assert error["code"] == 400
    assert "stream" in error["message"]
