"""Streaming uploads: POST /messages/<topic> of NDJSON with `Accept: application/x-ndjson`."""

import json
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker

NDJSON = "application/x-ndjson"
HEADERS = {"Content-Type": NDJSON, "Accept": NDJSON}


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Body:
    """A chunked body of pieces, each read separately. A function is called to get its piece."""

    def __init__(self, pieces: Iterable[Any]) -> None:
        self._pieces = iter(pieces)

    def read1(self, size: int) -> bytes:
        piece = next(self._pieces, b"")
        if callable(piece):
            piece = piece()
        assert len(piece) <= size
        return bytes(piece)

    read = read1


def upload(client: FlaskClient, body: Any, path: str = "/messages/t", **headers: str) -> TestResponse:
    """Send a body: bytes with a length, or pieces as chunks."""
    given = HEADERS | {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, bytes):
        return client.post(path, data=body, headers=given, buffered=True)
    environ = {"wsgi.input": Body(body), "wsgi.input_terminated": True}
    return client.post(path, headers=given, environ_overrides=environ, buffered=True)


def lines_of(response: TestResponse) -> list[dict[str, Any]]:
    assert (response.status_code, response.content_type) == (200, NDJSON), response.text
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


def stored(broker: FakeBroker, topic: str = "t") -> list[tuple[bytes | None, bytes | None]]:
    return [(record.key, record.value) for record in broker.records(topic)]


def values(broker: FakeBroker, topic: str = "t") -> list[bytes | None]:
    return [value for _, value in stored(broker, topic)]


@pytest.mark.parametrize(
    "body", [b'1\n{"a": 2}\n\n"3"\r\n', b'1\n{"a": 2}\n"3"', [b"1", b"\n{", b'"a": 2}\n\n"3', b'"']]
)
def test_streaming_upload_publishes_and_counts_its_lines(client: FlaskClient, broker: FakeBroker, body: Any) -> None:
    *_, last = lines_of(upload(client, body))
    assert values(broker) == [b"1", b'{"a": 2}', b'"3"']
    assert last == {"records": 3, "partitions": {"0": 2}, "done": True}


def test_line_is_published_before_the_next_arrives(client: FlaskClient, broker: FakeBroker) -> None:
    seen = []

    def pieces() -> Iterator[bytes]:
        for number in range(3):
            yield b"%d\n" % number
            seen.append(values(broker))

    assert lines_of(upload(client, pieces()))[-1]["records"] == 3
    assert seen == [[b"0"], [b"0", b"1"], [b"0", b"1", b"2"]]


def test_first_progress_line_is_immediate_and_later_ones_are_merged(client: FlaskClient) -> None:
    first, *others = lines_of(upload(client, [b"1\n"] * 500))
    assert first == {"records": 1, "partitions": {"0": 0}}
    assert others[-1] == {"records": 500, "partitions": {"0": 499}, "done": True}
    assert len(others) < 5


def test_answer_end_sends_only_the_last_line(client: FlaskClient) -> None:
    response = upload(client, [b"1\n"] * 500, "/messages/t?answer=end")
    assert lines_of(response) == [{"records": 500, "partitions": {"0": 499}, "done": True}]


def test_ndjson_without_accept_header_is_published_as_a_whole(client: FlaskClient, broker: FakeBroker) -> None:
    for accept in ("*/*", "application/json", "application/json, application/x-ndjson;q=0.5"):
        response = upload(client, b"1\n2\n", Accept=accept)
        assert (response.content_type, len(response.json["records"])) == ("application/json", 2)
    assert upload(client, b"1\nx\n", Accept="*/*").status_code == 400
    assert len(values(broker)) == 6


def test_upload_with_lines_records_reads_each_line_as_record(client: FlaskClient, broker: FakeBroker) -> None:
    broker_lines = [
        {"key": "k", "value": {"n": 1}, "headers": {"h": "x"}, "timestamp": 5},
        {"value": None, "key": [1], "partition": 2, "offset": 7, "topic": "other"},
        {"value": "text", "format": "text"},
    ]
    body = "\n".join(json.dumps(each) for each in broker_lines).encode()
    last = lines_of(upload(client, body, "/messages/three?lines=records&partitions=keep"))[-1]
    assert last["records"] == 3
    assert {(b"k", b'{"n": 1}'), (b"[1]", None), (None, b"text")} == set(stored(broker, "three"))
    (first,) = [each for each in broker.records("three") if each.key == b"k"]
    assert (first.timestamp, list(first.headers)) == (5, [("h", b"x")])
    assert [each.value for each in broker.records("three") if each.partition == 2 and each.key == b"[1]"] == [None]


def test_attributes_of_an_upload_apply_to_all_records(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(topics={"t": {"value": "text"}})
    upload(client, b'"a"\n"b"\n', "/messages/t?key=k&timestamp=7", Kafka_Header_h="x")
    upload(client, b'"Yw=="\n', "/messages/t?format=binary&partition=0")
    assert stored(broker) == [(b"k", b"a"), (b"k", b"b"), (None, b"c")]
    assert [(each.timestamp, list(each.headers)) for each in broker.records("t")][:2] == [(7, [("h", b"x")])] * 2


@pytest.mark.parametrize(
    ("path", "bad", "expected"),
    [
        ("", b"{bad", (400, None)),
        ("?lines=records", b'{"key": 1}', (400, "value")),
        ("?lines=records", b'{"value": 1, "partition": -1}', (400, "partition")),
        ("?lines=records", b'{"value": 1, "surplus": 1}', (400, "surplus")),
        ("?lines=records", b'{"value": 1, "error": {}}', (400, "error")),
        ("?lines=records", b'{"value": 1, "format": "nope"}', (415, "value")),
        ("?lines=records", b'{"value": 1, "format": "text"}', (422, "value")),
        ("?lines=records&partitions=keep", b'{"value": 1, "partition": 9}', (40402, None)),
    ],
)
def test_invalid_line_ends_the_upload(
    client: FlaskClient, broker: FakeBroker, path: str, bad: bytes, expected: tuple[int, str | None]
) -> None:
    good = b'{"value": 1}\n' * 3
    for number, body in enumerate(([good + bad + b"\n" + good], [good, b"\n" + bad + b"\n" + good]), 1):
        *_, last = lines_of(upload(client, body, f"/messages/t{path}"))
        error = last.pop("error")
        assert (error["code"], error.get("field")) == expected
        assert error["record"] == 3
        assert last == {"records": 3, "partitions": {"0": 3 * number - 1}}
        assert len(values(broker)) == 3 * number


def test_invalid_line_is_named_by_index_and_line_number(client: FlaskClient) -> None:
    last = lines_of(upload(client, [b"1\n\n2", b"\n\n\n", b"bad\n"]))[-1]
    assert last["error"]["message"].startswith("records[2] (line 6) is not valid JSON")


@pytest.mark.parametrize(
    ("body", "path", "code"),
    [
        (b"bad\n1\n", "/messages/t", 400),
        (b"", "/messages/t", 400),
        (b"\n\r\n", "/messages/t", 400),
        (b"1\n", "/messages/nope", 40401),
        (b"1\n", "/messages/a b", 400),
        (b"1\n", "/messages/t?partition=4", 40402),
        (b"1\n", "/messages/t?format=nope", 415),
        (b"1\n", "/messages/t?format=text", 422),
        (b"1\n", "/messages/t?answer=start", 400),
        (b"1\n", "/messages/t?tombstone=true", 400),
        (b"1\n", "/messages/t?schema_id=3", 400),
    ],
)
def test_error_before_the_first_record_has_its_status(
    client: FlaskClient, broker: FakeBroker, body: bytes, path: str, code: int
) -> None:
    response = upload(client, body, path)
    assert response.json["error"]["code"] == code, response.text
    assert response.status_code == int(str(code)[:3])
    assert values(broker) == []


@pytest.mark.parametrize(
    ("path", "headers"),
    [("", {"Prefer": "respond-async"}), ("?callback=http://x.example", {}), ("", {"Idempotency_Key": "k"})],
)
def test_option_that_an_upload_does_not_support_returns_400(
    client: FlaskClient, broker: FakeBroker, path: str, headers: dict[str, str]
) -> None:
    response = upload(client, b"1\n", f"/messages/t{path}", **headers)
    assert response.status_code == 400
    assert "cannot be combined with a streaming publish" in response.json["error"]["message"]
    assert values(broker) == []


def test_max_body_bytes_applies_to_each_line(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(max_body_bytes=2000)
    line = b'"' + b"x" * 1998 + b'"'
    assert lines_of(upload(client, b"\n".join([line] * 20)))[-1]["records"] == 20
    assert lines_of(upload(client, [line[:1000], line[1000:] + b"\n"] * 20))[-1]["records"] == 20
    last = lines_of(upload(client, [line + b"\n", line[:1000], line[:1000] + b"x", line]))[-1]
    assert (last["records"], last["error"]["code"], last["error"]["limit"]) == (1, 413, 2000)
    assert upload(client, b"x" + line).status_code == 413
    assert len(values(broker)) == 41


def test_record_that_kafka_rejects_ends_the_upload(client: FlaskClient, broker: FakeBroker) -> None:
    broker.create_topic("small", limit=10)
    *_, last = lines_of(upload(client, [b"1\n2\n", b'"' + b"x" * 50 + b'"\n3\n']))
    assert last["records"] == 4
    *_, last = lines_of(upload(client, [b"1\n2\n", b'3\n"' + b"x" * 50 + b'"\n4\n5\n'], "/messages/small"))
    assert last.pop("error") == {
        "record": 3, "code": 413, "limit": 10,
        "message": "The message is larger than the 10 bytes that Kafka takes here.",
    }  # fmt: skip
    assert last == {"records": 3, "partitions": {"0": 2}, "written": [[4, 5]]}
    assert values(broker, "small") == [b"1", b"2", b"3", b"4", b"5"]


def test_broker_that_fails_during_an_upload_ends_it(client: FlaskClient, broker: FakeBroker) -> None:
    def go() -> bytes:
        broker.down = True
        return b"3\n4\n"

    *_, last = lines_of(upload(client, [b"1\n2\n", go]))
    assert (last["records"], last["error"]["code"]) == (2, 50302)
    assert not {"written", "unknown"} & last.keys()
    broker.down = False
    assert values(broker) == [b"1", b"2"]


def test_upload_while_broker_is_down_returns_503(client: FlaskClient, broker: FakeBroker) -> None:
    broker.down = True
    response = upload(client, b"1\n")
    assert (response.status_code, response.json["error"]["code"]) == (503, 50302)
    assert response.headers["Retry-After"]


def test_upload_while_broker_does_not_answer_returns_504(client: FlaskClient, broker: FakeBroker) -> None:
    def fall_silent() -> bytes:
        broker.silent = True
        return b"3\n4\n"

    *_, last = lines_of(upload(client, [b"1\n2\n", fall_silent], "/messages/t?timeout=0.3"))
    assert (last["records"], last["error"]["code"], last["unknown"]) == (2, 504, [[2, 3]])
    response = upload(client, b"1\n2\n", "/messages/t?timeout=0.3")
    assert (response.status_code, response.json["records"], response.json["unknown"]) == (504, 0, [[0, 1]])


def test_incomplete_body_ends_the_upload(client: FlaskClient, broker: FakeBroker) -> None:
    def break_off() -> bytes:
        raise OSError("gone")

    *_, last = lines_of(upload(client, [b"1\n2\n3", break_off]))
    assert (last["records"], last["error"]["code"]) == (2, 400)
    assert values(broker) == [b"1", b"2"]
    cut = {"wsgi.input": BytesIO(b"4\n5"), "CONTENT_LENGTH": "9"}
    short = client.post("/messages/t", headers=HEADERS, environ_overrides=cut, buffered=True)
    assert lines_of(short)[-1]["records"] == 1
    assert values(broker) == [b"1", b"2", b"4"]


def test_stopping_server_ends_the_upload(client: FlaskClient, broker: FakeBroker) -> None:
    def stop() -> bytes:
        client.application.extensions["kafka_http"].stop()
        return b"3\n"

    *_, last = lines_of(upload(client, [b"1\n2\n", stop, b"4\n"]))
    assert (last["records"], last["error"]["code"]) == (2, 503)
    assert values(broker) == [b"1", b"2"]


def test_stopping_server_ends_the_upload_while_kafka_does_not_answer(
    client: FlaskClient, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kafka_http.publish.upload_session.STOP_SECONDS", 0.2)

    def stop() -> bytes:
        broker.silent = True
        return b"2\n"

    def also() -> bytes:
        client.application.extensions["kafka_http"].stop()
        return b"3\n"

    *_, last = lines_of(upload(client, [b"1\n", stop, also], "/messages/t?timeout=60"))
    assert (last["records"], last["error"]["code"], last["unknown"]) == (1, 503, [[1, 1]])


def test_concurrent_uploads_are_limited_and_slots_released(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(threads=16)  # an eighth: two
    refused: list[TestResponse] = []

    def inner(pieces: list[Any]) -> Any:
        return lambda: (refused.append(upload(client, pieces)), b"1\n")[1]

    assert lines_of(upload(client, [b"1\n", inner([b"1\n", inner([b"1\n"])])]))[-1]["done"]
    third, second = refused
    assert (third.status_code, third.json["error"]["code"]) == (503, 503)
    assert third.headers["Retry-After"]
    assert lines_of(second)[-1]["done"]
    for _ in range(5):
        assert upload(client, b"bad").status_code == 400
        assert lines_of(upload(client, b"1"))[-1]["done"]


def test_upload_counts_in_max_in_flight(make_client: ClientFactory) -> None:
    client = make_client(max_in_flight=1 << 20)
    responses: list[TestResponse] = []

    def another() -> bytes:
        responses.append(upload(client, b"1\n"))
        return b"1\n"

    assert lines_of(upload(client, [another]))[-1]["done"]
    assert responses[0].status_code == 429
    assert lines_of(upload(client, b"1\n"))[-1]["done"]


def test_records_of_a_key_keep_their_order(client: FlaskClient, broker: FakeBroker) -> None:
    keys = [f"k{number % 7}" for number in range(5000)]
    body = "\n".join(json.dumps({"key": key, "value": number}) for number, key in enumerate(keys)).encode()
    last = lines_of(upload(client, body, "/messages/three?lines=records"))[-1]
    assert (last["records"], sum(last["partitions"].values())) == (5000, 5000 - 3)
    for key in set(keys):
        found = [int(value or b"") for each, value in stored(broker, "three") if each == key.encode()]
        assert found == [number for number, each in enumerate(keys) if each == key]


def test_upload_stops_reading_while_kafka_is_slow(client: FlaskClient, broker: FakeBroker) -> None:
    broker.silent = True
    response = upload(client, [b"1\n" * 1000] * 30, "/messages/t?timeout=0.5")
    assert (response.status_code, response.json["unknown"]) == (504, [[0, 9999]])
    broker.unanswered = 0
    line = b'"' + b"x" * 100_000 + b'"\n'
    response = upload(client, [line] * 100, "/messages/t?timeout=0.5")
    assert response.json["unknown"] == [[0, 41]], "what exceeds 4 MiB"
