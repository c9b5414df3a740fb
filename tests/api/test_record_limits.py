"""The limits of one publish: the number of its records, their memory, the time to parse them."""

import json
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kafka_http.schemas.schemaless_serializers import TextSerializer
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.polling import wait_for

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


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=WAYS.values(), ids=list(WAYS))
def way(request: pytest.FixtureRequest) -> tuple[str, str, Body]:
    found: tuple[str, str, Body] = request.param
    return found


def written(broker: FakeBroker) -> int:
    return len(broker.records("t"))


def error_of(response: TestResponse) -> tuple[int, str]:
    said = response.json
    error = said.get("error", said)
    return response.status_code, error["message"]


@pytest.mark.parametrize("manner", MANNERS.values(), ids=list(MANNERS))
def test_publish_of_more_records_than_max_records_returns_413(
    make_client: ClientFactory, broker: FakeBroker, way: tuple[str, str, Body], manner: dict[str, str]
) -> None:
    client = make_client(max_records=LIMIT)
    path, content_type, body = way
    response = client.post(path, data=body(LIMIT + 1), content_type=content_type, headers=manner)
    status, message = error_of(response)
    assert status == 413, response.text
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
    response = client.post(path, data=body(LIMIT), content_type=content_type, headers=manner)
    assert response.status_code == 200, response.text
    assert written(broker) == LIMIT


@pytest.mark.parametrize("body", [b"[1,1,1,1,1,1,", b"[1:1,1,1,1,1,1]", b"[,,,,,,,]", b"[[[[[[[", b'["a,,,,,,,]'])
def test_malformed_list_returns_400_or_413_and_writes_nothing(
    make_client: ClientFactory, broker: FakeBroker, body: bytes
) -> None:
    response = make_client(max_records=LIMIT).post("/messages/t", data=body, content_type=JSON)
    assert response.status_code in {400, 413}, response.text
    assert written(broker) == 0


def test_json_object_without_records_list_is_one_message(make_client: ClientFactory, broker: FakeBroker) -> None:
    body = json.dumps({"records": 1, **dict.fromkeys(map(str, range(50)), 1)}).encode()
    for each in (body, b'{"records": [1], "other": [1,1,1,1,1,1,1,1]}', b'{"a\\\\": [1,1,1,1,1,1,1,1,1]}'):
        assert make_client(max_records=LIMIT).post("/messages/t", data=each, content_type=JSON).status_code == 200
    assert written(broker) == 3


def test_streaming_upload_is_not_limited_by_max_records(make_client: ClientFactory, broker: FakeBroker) -> None:
    headers = {"Accept": NDJSON}
    response = make_client(max_records=LIMIT).post(
        "/messages/t", data=b"1\n" * 50, content_type=NDJSON, headers=headers
    )
    assert response.status_code == 200
    assert written(broker) == 50


def test_streaming_upload_with_too_many_headers_ends_with_413(make_client: ClientFactory, broker: FakeBroker) -> None:
    body = b'{"value": 1}\n' + HEADERS["lines"][2] + b'\n{"value": 2}\n'
    response = make_client(max_records=LIMIT).post(
        "/messages/t?lines=records", data=body, content_type=NDJSON, headers={"Accept": NDJSON}
    )
    last = json.loads(response.data.splitlines()[-1])
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
    """A header takes as much memory as a record. Ten are allowed for each record of max_records."""
    response = make_client(max_records=LIMIT).post(path, data=body, content_type=content_type)
    status, message = error_of(response)
    assert status == 413, response.text
    assert "50 headers" in message
    assert written(broker) == 0
    response = make_client(max_records=LIMIT + 1).post(path, data=body, content_type=content_type)
    assert response.status_code == 200, response.text


def test_header_value_with_many_commas_is_one_header(make_client: ClientFactory, broker: FakeBroker) -> None:
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
@pytest.mark.parametrize("is_fast_path", [False])
def test_rejection_of_too_many_records_takes_little_memory(
    make_client: ClientFactory, broker: FakeBroker, path: str, content_type: str, body: bytes
) -> None:
    """5 million records in 10 MB took 4.1 GB, without a response for 170 s."""
    client = make_client(max_records=1000)
    tracemalloc.start()
    try:
        response = client.post(path, data=body, content_type=content_type)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert response.status_code == 413
    assert written(broker) == 0
    assert peak < 4 * len(body) + (1 << 20)


V2 = ("/topics/t", JSON_V2)
MESSAGES = ("/messages/t", JSON)
LINES = ("/messages/t?lines=records", NDJSON)


def listed(count: int, element: bytes = b'{"value":1}') -> bytes:
    return b"[%b]" % b",".join([element] * count)


def with_headers(count: int, element: bytes = b'["a","b"]') -> bytes:
    """Return a record without its end."""
    return b'{"value":1,"headers":' + listed(count, element)


def object_headers(count: int) -> bytes:
    return b'{"value":1,"headers":{%b}' % b",".join([b'"a":"b"'] * count)


Evasion = tuple[tuple[str, str], int, Body]
"""Path and type, status, body of so many records or headers."""
EVASIONS: dict[str, Evasion] = {
    "v2 without end": (V2, 413, lambda n: b'{"records":' + listed(n)),
    "v2 list without end": (V2, 413, lambda n: b'{"records":' + listed(n)[:-1] + b","),
    "v2 with more behind": (V2, 413, lambda n: b'{"records":' + listed(n) + b"}x"),
    "v2 with a colon behind": (V2, 413, lambda n: b'{"records":' + listed(n) + b":1}"),
    "v2 with a broken record": (V2, 413, lambda n: b'{"records":' + listed(n)[:-1] + b",}"),
    "v2 with a wrong field": (V2, 413, lambda n: b'{"records":' + listed(n) + b',"value_schema":[1]}'),
    "v2 with an unknown field": (V2, 413, lambda n: b'{"records":' + listed(n) + b',"x":1}'),
    "v2 long list first": (V2, 413, lambda n: b'{"records":' + listed(n) + b',"records":[{"value":1}]}'),
    "v2 long list second": (V2, 413, lambda n: b'{"records":[{"value":1}], "records" : ' + listed(n) + b"}"),
    "v2 escaped name": (V2, 413, lambda n: b'{"\\u0072ecords":' + listed(n) + b',"records":[{"value":1}]}'),
    "v2 two halves": (V2, 413, lambda n: b'{"records":%b,"records":%b}' % (listed(n // 2), listed(n - n // 2))),
    "v2 type": (("/messages/t", JSON_V2), 413, lambda n: b'{"records":' + listed(n)),
    "envelope without end": (MESSAGES, 400, lambda n: b'{"records":' + listed(n)),
    "envelope with more behind": (MESSAGES, 400, lambda n: b'{"records":' + listed(n) + b"}x"),
    "envelope with another member": (MESSAGES, 200, lambda n: b'{"records":' + listed(n) + b',"x":1}'),
    "envelope, long list first": (MESSAGES, 413, lambda n: b'{"records":' + listed(n) + b',"records":[{"value":1}]}'),
    "array without end": (MESSAGES, 413, lambda n: listed(n)[:-1]),
}
HEADER_EVASIONS: dict[str, Evasion] = {
    "list first": (MESSAGES, 413, lambda n: b'{"records":[' + with_headers(n) + b',"headers":[]}]}'),
    "list second": (MESSAGES, 413, lambda n: b'{"records":[{"headers":null,' + with_headers(n)[1:] + b"}]}"),
    "object first": (MESSAGES, 413, lambda n: b'{"records":[' + object_headers(n) + b',"headers":{}}]}'),
    "escaped name": (
        MESSAGES,
        413,
        lambda n: b'{"records":[' + with_headers(n).replace(b"headers", b"\\u0068eaders") + b',"headers":[]}]}',
    ),
    "records of another list": (
        MESSAGES,
        413,
        lambda n: b'{"records":[' + with_headers(n) + b'}],"records":[{"value":1}]}',
    ),
    "without end": (MESSAGES, 400, lambda n: b'{"records":[' + object_headers(n) + b"}]"),
    "another member": (MESSAGES, 200, lambda n: b'{"records":[' + object_headers(n) + b'}],"x":1}'),
    "v2 first": (V2, 413, lambda n: b'{"records":[' + with_headers(n, b'{"key":"a"}') + b',"headers":[]}]}'),
    "v2 without end": (V2, 413, lambda n: b'{"records":[' + with_headers(n, b'{"key":"a"}') + b"}]"),
    "v2 with a colon behind": (V2, 413, lambda n: b'{"records":[' + with_headers(n, b'{"key":"a"}') + b":1}:"),
    "v2 list without end": (V2, 413, lambda n: b'{"records":[' + with_headers(n, b'{"key":"a"}')[:-1] + b',{"a":'),
    "v2 in sum, without end": (
        V2,
        413,
        lambda n: b'{"records":[' + b",".join([with_headers(n // 4 + 1, b'{"key":"a"}') + b"}"] * 4) + b",{",
    ),
    "line": (LINES, 413, lambda n: with_headers(n) + b',"headers":[]}'),
    "line without end": (LINES, 413, with_headers),
}
ALL_EVASIONS = [(each, "records") for each in EVASIONS.values()] + [
    (each, "headers") for each in HEADER_EVASIONS.values()
]
NAMES_OF_EVASIONS = [*EVASIONS, *(f"headers: {each}" for each in HEADER_EVASIONS)]


@pytest.mark.parametrize(("evasion", "what"), ALL_EVASIONS, ids=NAMES_OF_EVASIONS)
def test_records_in_malformed_bodies_and_repeated_members_are_counted(
    make_client: ClientFactory, broker: FakeBroker, evasion: Evasion, what: str
) -> None:
    """Records were counted only in valid bodies, and only in the last of two members of a name."""
    (path, content_type), status, body = evasion
    limit = LIMIT if what == "records" else 10 * LIMIT
    response = make_client(max_records=LIMIT).post(path, data=body(limit + 1), content_type=content_type)
    assert response.status_code == status, response.text
    if status == 200:  # one message: the whole body
        assert written(broker) == 1
        return
    message = error_of(response)[1]
    assert (f"{limit} {what}" if status == 413 else "not valid JSON") in message
    assert written(broker) == 0


@pytest.mark.parametrize(("evasion", "what"), ALL_EVASIONS, ids=NAMES_OF_EVASIONS)
@pytest.mark.parametrize("is_fast_path", [False])
def test_body_that_evades_the_record_count_takes_little_memory(
    make_client: ClientFactory, evasion: Evasion, what: str
) -> None:
    """63 MB of v2 records without the closing brace took 1.7 GB before the 400."""
    (path, content_type), status, body = evasion
    sent = body(30_000 if what == "records" else 90_000)
    client = make_client(max_records=1000)
    tracemalloc.start()
    try:
        response = client.post(path, data=sent, content_type=content_type)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert response.status_code == status
    assert peak < 4 * len(sent) + (1 << 20)


def test_streaming_upload_with_a_repeated_headers_member_ends_with_413(
    make_client: ClientFactory, broker: FakeBroker
) -> None:
    body = b'{"value": 1}\n' + HEADER_EVASIONS["line"][2](51) + b"\n"
    response = make_client(max_records=LIMIT).post(
        "/messages/t?lines=records", data=body, content_type=NDJSON, headers={"Accept": NDJSON}
    )
    last = json.loads(response.data.splitlines()[-1])
    assert (last["records"], last["error"]["code"]) == (1, 413)
    assert written(broker) == 1


@pytest.mark.parametrize(("path", "content_type"), [V2, MESSAGES], ids=["v2", "messages"])
@pytest.mark.parametrize(
    "member", [b'"records":[]', b'"\\u0072ecords":[{"headers":null},{"x":[1,1,1,1,1,1]}]'], ids=["empty", "escaped"]
)
def test_body_with_many_records_members_returns_400_or_413(
    make_client: ClientFactory, broker: FakeBroker, path: str, content_type: str, member: bytes
) -> None:
    body = b'{%b,"records":%b}' % (b",".join([member] * 20_000), listed(LIMIT + 1))
    response = make_client(max_records=LIMIT).post(path, data=body, content_type=content_type)
    assert response.status_code in {400, 413}, response.text
    assert written(broker) == 0


@pytest.mark.parametrize(("path", "content_type"), [V2, MESSAGES], ids=["v2", "messages"])
def test_records_and_headers_members_inside_values_are_not_counted(
    make_client: ClientFactory, broker: FakeBroker, path: str, content_type: str
) -> None:
    value = json.dumps({"records": [{}] * 60, "headers": [["a", "b"]] * 60, "\u00e4": "\u00e4"}).encode()
    body = b'{"records":[{"value":2},{"value":2}],\r\n\t"records" : ' + listed(2, b'{"value":%b}' % value) + b"} "
    response = make_client(max_records=LIMIT).post(path, data=body, content_type=content_type)
    assert response.status_code == 200, response.text
    assert [json.loads(each.value or b"") for each in broker.records("t")] == [json.loads(value)] * 2


def test_counted_v2_body_has_the_usual_error_messages(make_client: ClientFactory) -> None:
    records = b'{"records":' + listed(LIMIT, b'{"value":{"a":[1,1,{},{},{}]}}')
    for body, message in (
        (records + b',"x":1}', "unknown field 'x'. Known fields: records"),
        (records + b',"value_schema":[1]}', "value_schema must be a string or null, got an array"),
        (records + b"}x", "trailing characters"),
        (records, "incomplete"),
        (b'{"records":{"0":%b}}' % listed(LIMIT + 1), "records must be an array, got an object"),
    ):
        status, said = error_of(make_client(max_records=LIMIT).post("/topics/t", data=body, content_type=JSON_V2))
        assert status in {400, 422}
        assert message in said


@pytest.mark.parametrize("is_fast_path", [False])
def test_body_of_many_empty_lines_takes_little_memory(client: FlaskClient) -> None:
    body = b"\n" * 3_000_000 + b"1\n"
    assert client.post("/messages/t", data=b"1", content_type=NDJSON).status_code == 200
    tracemalloc.start()
    try:
        assert client.post("/messages/t", data=body, content_type=NDJSON).status_code == 200
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(body)  # a list of all lines takes 8 times as much
    response = client.post("/messages/t", data=body + b"{\n", content_type=NDJSON)
    assert "line 3000002" in error_of(response)[1]


@pytest.mark.parametrize("is_fast_path", [False])
def test_record_counts_800_bytes_in_flight(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(max_in_flight=10_000)

    def publish(count: int, timeout: float) -> TestResponse:
        path = f"/messages/t?timeout={timeout}"
        return client.application.test_client().post(path, data=b"1\n" * count, content_type=NDJSON)

    broker.silent = True
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(publish, 10, 3)
        wait_for(lambda: broker.unanswered)
        response = publish(3, 0.1)
        assert (response.status_code, response.json["error"]["code"]) == (429, 42901)
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
def test_timeout_includes_the_time_before_kafka(
    make_client: ClientFactory,
    broker: FakeBroker,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[str, dict[str, Any], dict[str, str]],
) -> None:
    """The response says that nothing was written. A 504 would leave that open."""
    serialized: list[object] = []

    def serialize(*arguments: object) -> bytes:
        serialized.append(arguments)
        time.sleep(0.05)
        return b"x"

    monkeypatch.setattr(TextSerializer, "serialize", serialize)
    monkeypatch.setattr(TextSerializer, "immediate", False)
    path, changed, headers = case
    body = records_of(100, '"x"')
    client = make_client(timeout=0.3)
    response = client.post(path, data=body, **({"content_type": JSON} | changed), headers=headers)
    status, message = error_of(response)
    assert (status, response.headers["Retry-After"]) == (503, "1"), response.text
    assert "Nothing was written" in message
    assert len(serialized) < 100  # of 100: the rest is not serialized
    assert written(broker) == 0


def test_publish_with_timeout_0_is_sent_to_kafka(client: FlaskClient, broker: FakeBroker) -> None:
    broker.silent = True
    assert client.put("/messages/t?timeout=0", data=b"x").status_code == 504
    assert broker.unanswered == 1


def test_consumer_call_body_over_1_mib_returns_413(client: FlaskClient) -> None:
    body = b'{"a.b": [' + b"[]," * 400_000 + b"1]}"
    response = client.post("/consumers/g", data=body, content_type="application/vnd.kafka.v2+json")
    assert (response.status_code, response.json["error_code"]) == (413, 413)
    assert "1048576 bytes" in response.json["message"]
