"""What the records of one publish may cost: their number, their memory, the time until they are parsed."""

import json
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kafka_http.serializers.text import TextSerializer
from tests.api.conftest import ClientFactory
from tests.attempts import wait_for
from tests.fakes import FakeBroker

JSON = "application/json"
NDJSON = "application/x-ndjson"
JSON_V2 = "application/vnd.kafka.json.v2+json"
BINARY_V2 = "application/vnd.kafka.binary.v2+json"
MULTIPART = "multipart/mixed; boundary=b"
LIMIT = 5
STREAM_HINT = "application/x-ndjson"

Body = Callable[[int], bytes]


def records_of(count: int, value: str = "1") -> bytes:
    return b'{"records": [%b]}' % b", ".join([b'{"value": %b}' % value.encode()] * count)


def parts_of(count: int) -> bytes:
    return b"--b\r\n\r\n1\r\n" * count + b"--b--\r\n"


WAYS: dict[str, tuple[str, str, Body]] = {
    "array": ("/messages/t", JSON, lambda n: b" [ %b ] " % b" , ".join([b'{"a": [1, "]", 2]}'] * n)),
    "scalars": ("/messages/t", JSON, lambda n: b"[%b]" % b",".join([b'"a,b\\",c"'] * n)),
    "envelope": ("/messages/t", JSON, lambda n: records_of(n, '{"a": [1, {}, "{}", {}]}')),
    "escaped envelope": ("/messages/t", JSON, lambda n: records_of(n).replace(b"records", b"\\u0072ecords")),
    "lines": ("/messages/t", NDJSON, lambda n: b"\n1\n \n" * n),
    "record lines": ("/messages/t?lines=records", NDJSON, lambda n: b'{"value": 1}\r\n\r\n' * n),
    "multipart": ("/messages/t", MULTIPART, parts_of),
    "v2 type": ("/messages/t", JSON_V2, records_of),
    "v2": ("/topics/t", JSON_V2, lambda n: records_of(n, '{"a": [1, {}, "{}", {}]}')),
    "v2 partition": ("/topics/t/partitions/0", JSON_V2, records_of),
    "v2 binary": ("/topics/t", BINARY_V2, lambda n: records_of(n, '"YQ=="')),
}
MANNERS: dict[str, dict[str, str]] = {"now": {}, "later": {"Prefer": "respond-async"}, "key": {"Idempotency-Key": "k"}}


@pytest.fixture(params=[False, True], ids=["views", "threadless"])
def is_threadless(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=WAYS.values(), ids=list(WAYS))
def way(request: pytest.FixtureRequest) -> tuple[str, str, Body]:
    found: tuple[str, str, Body] = request.param
    return found


def written(broker: FakeBroker) -> int:
    return len(broker.records("t"))


def error_of(answer: TestResponse) -> tuple[int, str]:
    said = answer.json
    error = said.get("error", said)
    return answer.status_code, error["message"]


@pytest.mark.parametrize("manner", MANNERS.values(), ids=list(MANNERS))
def test_publish_of_more_records_than_max_records_returns_413(
    make_client: ClientFactory, broker: FakeBroker, way: tuple[str, str, Body], manner: dict[str, str]
) -> None:
    client = make_client(max_records=LIMIT)
    path, content_type, body = way
    answer = client.post(path, data=body(LIMIT + 1), content_type=content_type, headers=manner)
    status, message = error_of(answer)
    assert status == 413, answer.text
    assert "max_records" in message
    assert str(LIMIT) in message
    assert STREAM_HINT in message
    assert "Nothing was written" in message
    assert written(broker) == 0


@pytest.mark.parametrize("manner", [MANNERS["now"], MANNERS["key"]], ids=["now", "key"])
def test_publish_of_max_records_is_written(
    make_client: ClientFactory, broker: FakeBroker, way: tuple[str, str, Body], manner: dict[str, str]
) -> None:
    client = make_client(max_records=LIMIT)
    path, content_type, body = way
    answer = client.post(path, data=body(LIMIT), content_type=content_type, headers=manner)
    assert answer.status_code == 200, answer.text
    assert written(broker) == LIMIT


@pytest.mark.parametrize("body", [b"[1,1,1,1,1,1,", b"[1:1,1,1,1,1,1]", b"[,,,,,,,]", b"[[[[[[[", b'["a,,,,,,,]'])
def test_malformed_list_returns_400_or_413_and_writes_nothing(
    make_client: ClientFactory, broker: FakeBroker, body: bytes
) -> None:
    answer = make_client(max_records=LIMIT).post("/messages/t", data=body, content_type=JSON)
    assert answer.status_code in {400, 413}, answer.text
    assert written(broker) == 0


def test_one_object_with_many_members_is_one_message(make_client: ClientFactory, broker: FakeBroker) -> None:
    body = json.dumps({"records": 1, **dict.fromkeys(map(str, range(50)), 1)}).encode()
    for each in (body, b'{"records": [1], "other": [1,1,1,1,1,1,1,1]}', b'{"a\\\\": [1,1,1,1,1,1,1,1,1]}'):
        assert make_client(max_records=LIMIT).post("/messages/t", data=each, content_type=JSON).status_code == 200
    assert written(broker) == 3


def test_stream_of_lines_is_not_limited_by_max_records(make_client: ClientFactory, broker: FakeBroker) -> None:
    headers = {"Accept": NDJSON}
    answer = make_client(max_records=LIMIT).post(
        "/messages/t", data=b"1\n" * 50, content_type=NDJSON, headers=headers
    )
    assert answer.status_code == 200
    assert written(broker) == 50


def test_stream_of_lines_with_too_many_headers_ends_with_413(make_client: ClientFactory, broker: FakeBroker) -> None:
    body = b'{"value": 1}\n' + HEADERS["lines"][2] + b'\n{"value": 2}\n'
    answer = make_client(max_records=LIMIT).post(
        "/messages/t?lines=records", data=body, content_type=NDJSON, headers={"Accept": NDJSON}
    )
    last = json.loads(answer.data.splitlines()[-1])
    assert (last["records"], last["error"]["code"]) == (1, 413)
    assert written(broker) == 1


HEADERS: dict[str, tuple[str, str, bytes]] = {
    "list": ("/messages/t", JSON, b'{"records": [{"value": 1, "headers": [%b]}]}' % b",".join([b'["a", "b"]'] * 51)),
    "object": (
        "/messages/t",
        JSON,
        b'{"records": [{"value": 1, "headers": {%b}}]}' % b",".join(b'"%d": "b"' % each for each in range(51)),
    ),
    "in sum": (
        "/messages/t",
        JSON,
        b'{"records": [%b]}' % b",".join([b'{"value": 1, "headers": [%b]}' % b",".join([b'["a", "b"]'] * 13)] * 4),
    ),
    "lines": (
        "/messages/t?lines=records",
        NDJSON,
        b'{"value": 1, "headers": [%b]}' % b",".join([b'["a", "b"]'] * 51),
    ),
    "v2": (
        "/topics/t",
        JSON_V2,
        b'{"records": [{"value": 1, "headers": [%b]}]}' % b",".join([b'{"key": "a"}'] * 51),
    ),
    "multipart": ("/messages/t", MULTIPART, b"--b\r\n" + b"Kafka-Header-a: b\r\n" * 51 + b"\r\n1\r\n--b--\r\n"),
}


@pytest.mark.parametrize(("path", "content_type", "body"), HEADERS.values(), ids=list(HEADERS))
def test_publish_of_too_many_headers_returns_413(
    make_client: ClientFactory, broker: FakeBroker, path: str, content_type: str, body: bytes
) -> None:
    """A header takes as much memory as a record: ten for each record that may be."""
    answer = make_client(max_records=LIMIT).post(path, data=body, content_type=content_type)
    status, message = error_of(answer)
    assert status == 413, answer.text
    assert "50 headers" in message
    assert written(broker) == 0
    answer = make_client(max_records=LIMIT + 1).post(path, data=body, content_type=content_type)
    assert answer.status_code == 200, answer.text


def test_a_header_value_with_many_commas_is_one_header(make_client: ClientFactory, broker: FakeBroker) -> None:
    record = {"value": 1, "headers": [["a", "," * 500], ["b", None]]}
    assert make_client(max_records=LIMIT).post("/messages/t", json={"records": [record]}).status_code == 200


LARGE: dict[str, tuple[str, str, bytes]] = {
    "array": ("/messages/t", JSON, b"[" + b"1," * 100_000 + b"1]"),
    "lists": ("/messages/t", JSON, b"[" + b"[]," * 100_000 + b"1]"),
    "envelope": ("/messages/t", JSON, b'{"records":[' + b'{"value":1},' * 30_000 + b'{"value":1}]}'),
    "v2": ("/topics/t", JSON_V2, b'{"records":[' + b'{"value":1},' * 30_000 + b'{"value":1}]}'),
    "lines": ("/messages/t", NDJSON, b"1\n" * 100_000),
}


@pytest.mark.parametrize(("path", "content_type", "body"), LARGE.values(), ids=list(LARGE))
@pytest.mark.parametrize("is_threadless", [False])
def test_refusal_of_too_many_records_takes_little_memory(
    make_client: ClientFactory, broker: FakeBroker, path: str, content_type: str, body: bytes
) -> None:
    """5 million records in 10 MB took 4.1 GB, and no answer came in 170 s."""
    client = make_client(max_records=1000)
    tracemalloc.start()
    try:
        answer = client.post(path, data=body, content_type=content_type)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 413
    assert written(broker) == 0
    assert peak < 4 * len(body) + (1 << 20)


@pytest.mark.parametrize("is_threadless", [False])
def test_many_empty_lines_take_little_memory(client: FlaskClient) -> None:
    body = b"\n" * 3_000_000 + b"1\n"
    assert client.post("/messages/t", data=b"1", content_type=NDJSON).status_code == 200
    tracemalloc.start()
    try:
        assert client.post("/messages/t", data=body, content_type=NDJSON).status_code == 200
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(body)  # a list of all lines takes 8 times as much
    answer = client.post("/messages/t", data=body + b"{\n", content_type=NDJSON)
    assert "line 3000002" in error_of(answer)[1]


@pytest.mark.parametrize("is_threadless", [False])
def test_a_record_counts_800_bytes_in_flight(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(max_in_flight=10_000)

    def publish(count: int, timeout: float) -> TestResponse:
        path = f"/messages/t?timeout={timeout}"
        return client.application.test_client().post(path, data=b"1\n" * count, content_type=NDJSON)

    broker.silent = True
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(publish, 10, 3)
        wait_for(lambda: broker.unanswered)
        answer = publish(3, 0.1)
        assert (answer.status_code, answer.json["error"]["code"]) == (429, 42901)
        assert publish(2, 0.1).status_code == 504
        assert first.result().status_code == 504
    broker.silent = False
    assert publish(1000, 5).status_code == 200  # the only one
    assert publish(10, 5).status_code == 200


SLOW: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("/messages/t?format=text&timeout=0.3", {}, MANNERS["now"]),
    ("/messages/t?format=text&timeout=0.3", {}, MANNERS["later"]),
    ("/messages/t?format=text&timeout=0.3", {}, MANNERS["key"]),
    ("/topics/t", {"content_type": "application/vnd.kafka.text.v2+json"}, MANNERS["now"]),
]


@pytest.mark.parametrize("case", SLOW)
def test_timeout_covers_what_comes_before_kafka(
    make_client: ClientFactory,
    broker: FakeBroker,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[str, dict[str, Any], dict[str, str]],
) -> None:
    """The answer says that nothing was written: a 504 would leave that open."""

    def serialize(*_: object) -> bytes:
        time.sleep(0.05)
        return b"x"

    monkeypatch.setattr(TextSerializer, "serialize", serialize)
    monkeypatch.setattr(TextSerializer, "immediate", False)
    path, changed, headers = case
    body = records_of(100, '"x"')
    client = make_client(timeout=0.3)
    began = time.monotonic()
    answer = client.post(path, data=body, **({"content_type": JSON} | changed), headers=headers)
    status, message = error_of(answer)
    assert (status, answer.headers["Retry-After"]) == (503, "1"), answer.text
    assert "Nothing was written" in message
    assert time.monotonic() - began < 4  # of 5 that all records take
    assert written(broker) == 0


def test_publish_with_timeout_0_is_handed_over(client: FlaskClient, broker: FakeBroker) -> None:
    broker.silent = True
    assert client.put("/messages/t?timeout=0", data=b"x").status_code == 504
    assert broker.unanswered == 1


def test_body_of_a_consumer_call_over_its_limit_returns_413(client: FlaskClient) -> None:
    body = b'{"a.b": [' + b"[]," * 400_000 + b"1]}"
    answer = client.post("/consumers/g", data=body, content_type="application/vnd.kafka.v2+json")
    assert (answer.status_code, answer.json["error_code"]) == (413, 413)
    assert "1048576 bytes" in answer.json["message"]
