"""Random invalid requests return no 5xx and no traceback."""

import json
from typing import Any

from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kafka_http.app import create_app
from kafka_http.config.sources import load_config
from kafka_http.records import NewRecord
from tests.support.fake_broker import FakeBroker

METHODS = st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH"])
WORDS = st.text(min_size=1, max_size=12) | st.sampled_from(
    ["t", "three", "nope", "c", ".", "..", "a b", "%2F", "\x00", "é"]
)
NUMBERS = st.integers(-(2**65), 2**65).map(str)
OFFSETS = (
    st.sampled_from(
        ["0", "earliest", "latest", "committed", "-3", "@0", "@2026-11-21", "0:0", "*:latest", "0:1,1:2", "0:"]
    )
    | NUMBERS
    | st.text("0123456789:,@*-+TZ.earliest", max_size=20)
)
TOPICS = st.sampled_from(["t", "t", "t", "three", "three", "nope"])
VALUES = (
    st.sampled_from(
        ["true", "records", "keep", "text", "json", "binary", "previous", "read_committed", "0", "0,1", "", "0.001"]
    )
    | NUMBERS
    | st.text(max_size=8)
)


def queries(*names: str) -> st.SearchStrategy[dict[str, str]]:
    """Queries of a few parameters, which the call mostly knows."""
    return st.dictionaries(st.sampled_from(names), VALUES, max_size=2)


HEADER_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=10)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Kafka-Key",
            "Kafka-Key-Base64",
            "Kafka-Partition",
            "Kafka-Timestamp",
            "Kafka-Header-A",
            "Kafka-Header-Base64-B",
            "traceparent",
            "ce-id",
            "Accept",
            "Content-Encoding",
            "Host",
            "Origin",
            "Sec-Fetch-Site",
            "X-Forwarded-Host",
            "X-Forwarded-Port",
            "X-Forwarded-Prefix",
            "Forwarded",
            "X-Request-Id",
            "Prefer",
        ]
    ),
    HEADER_TEXT | st.sampled_from(["application/octet-stream", "application/vnd.kafka.json.v2+json", "AA==", "0"]),
    max_size=3,
)
CONTENT_TYPES = st.sampled_from(
    [
        None,
        "",
        "application/json",
        "application/x-ndjson",
        "multipart/mixed; boundary=b",
        'multipart/form-data; boundary="',
        "multipart/mixed",
        "application/vnd.kafka.json.v2+json",
        "application/vnd.kafka.binary.v2+json",
        "application/vnd.kafka.nope.v2+json",
        "application/vnd.kafka.v2+json",
        "application/octet-stream",
        "text/plain",
        "application/json; charset=utf-16",
        ";;;",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.dictionaries(
    st.sampled_from(
        ["value", "key", "partition", "timestamp", "headers", "format", "key_format", "offset", "error", "other"]
    ),
    JSON | st.sampled_from(["text", "binary", "json", {"base64": "AA=="}, [["a", None]]]),
    max_size=4,
)
ENVELOPES = st.fixed_dictionaries({"records": st.lists(RECORDS, max_size=3)})
MULTIPART = st.lists(
    st.sampled_from(
        [
            b"--b",
            b"--b--",
            b"\r\n",
            b"\n",
            b":",
            b"Kafka-Key: k",
            b"Kafka-Partition: 1",
            b"Kafka-Key",
            b"\x00\xff",
            b"value",
        ]
    ),
    max_size=14,
).map(b"".join)
BODIES = st.one_of(
    st.binary(max_size=40),
    (JSON | ENVELOPES).map(lambda value: json.dumps(value).encode()),
    st.lists(RECORDS, max_size=3).map(lambda lines: "\n".join(map(json.dumps, lines)).encode()),
    st.tuples(ENVELOPES.map(lambda value: json.dumps(value).encode()), st.integers(0, 60)).map(
        lambda cut: cut[0][: cut[1]]
    ),
    MULTIPART,
)
V2_PATHS = st.one_of(
    st.tuples(st.just("/topics/"), TOPICS, st.sampled_from(["", "/", "/partitions", "/partitions/0", "/partitions/x"])),
    st.tuples(st.just("/topics/"), TOPICS, st.just("/partitions/"), WORDS | NUMBERS, st.sampled_from(["", "/offsets"])),
    st.tuples(st.just("/consumers/"), st.just("g") | WORDS),
)
PLACES = st.fixed_dictionaries(
    {"topic": TOPICS | JSON, "partition": st.integers(-1, 3) | JSON},
    optional={
        "offset": st.integers(-1, 5) | JSON,
        "metadata": JSON,
        "timestamp": st.sampled_from(["2026-11-21T10:00:00Z", "0001-01-01", "9999-12-31T23:59:59-12:00"]) | JSON,
    },
)
V2_FIELDS = {
    "name": st.sampled_from(["a", "b", "c"]) | JSON,
    "format": st.sampled_from(["json", "binary", "avro"]) | JSON,
    "auto.offset.reset": st.sampled_from(["earliest", "latest"]) | JSON,
    "fetch.min.bytes": NUMBERS | JSON,
    "max.poll.records": st.just("2") | NUMBERS | JSON,
    "consumer.request.timeout.ms": st.just("1"),
    "topics": st.lists(TOPICS | WORDS, max_size=2) | JSON,
    "topic_pattern": st.sampled_from(["t.*", "(", "[a-z]+"]) | JSON,
    "partitions": st.lists(PLACES, max_size=2) | JSON,
    "offsets": st.lists(PLACES, max_size=2) | JSON,
    "timestamps": st.lists(PLACES, max_size=2) | JSON,
    "records": st.lists(RECORDS, max_size=2) | JSON,
}
V2_BODIES = st.one_of(
    st.fixed_dictionaries({}, optional={"records": V2_FIELDS["records"]}),
    st.fixed_dictionaries(
        {"name": V2_FIELDS["name"], "consumer.request.timeout.ms": st.just("1")},
        optional={each: V2_FIELDS[each] for each in ("format", "auto.offset.reset", "fetch.min.bytes")},
    ),
    st.dictionaries(st.text(max_size=5) | st.sampled_from(sorted(V2_FIELDS)), JSON, max_size=4),
).map(lambda value: json.dumps(value).encode())


def with_body(method: str, path: str, *fields: str) -> st.SearchStrategy[tuple[str, str, bytes]]:
    """Calls of an instance whose body mostly has some of these fields."""
    body = st.fixed_dictionaries({}, optional={each: V2_FIELDS[each] for each in fields}).map(
        lambda value: json.dumps(value).encode()
    )
    return st.tuples(st.just(method), st.just(path), body | body | st.just(b"") | BODIES)


INSTANCE_CALLS = st.one_of(
    with_body("POST", "/subscription", "topics", "topic_pattern"),
    with_body("POST", "/assignments", "partitions"),
    with_body("POST", "/positions", "offsets", "timestamps"),
    with_body("POST", "/positions/beginning", "partitions"),
    with_body("POST", "/positions/end", "partitions"),
    with_body("POST", "/offsets", "offsets"),
    with_body("GET", "/offsets", "partitions"),
    st.tuples(
        st.sampled_from(["GET", "GET", "GET", "DELETE"]),
        st.sampled_from(["/records", "/records", "/records", "/subscription", "/assignments", ""]),
        st.just(b""),
    ),
)


def client_of_a_filled_broker() -> FlaskClient:
    broker = FakeBroker()
    broker.create_topic("t")
    broker.create_topic("three", partitions=3)
    for topic in ("t", "three"):
        broker.producer.publish(
            topic, [NewRecord(value, key=value) for value in (b"1", b"\xff", None, b"text")], 1
        ).result()
    app = create_app(load_config({"max_body_bytes": 1024}, environ={}), broker)
    app.testing = False
    return app.test_client()


client = client_of_a_filled_broker()


bounded = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@bounded
@given(
    st.sampled_from(["PUT", "POST", "POST", "POST"]),
    TOPICS,
    queries("key", "partition", "timestamp", "format", "timeout", "tombstone", "lines", "partitions"),
    HEADERS,
    st.tuples(CONTENT_TYPES, BODIES),
)
def test_random_publishes_return_no_5xx(
    method: str, topic: str, query: dict[str, str], headers: dict[str, str], content: Any
) -> None:
    send(method, f"/messages/{topic}", query, headers, *content)


@bounded
@given(
    st.sampled_from(["GET", "GET", "PUT", "DELETE"]),
    st.tuples(TOPICS, st.sampled_from(["c", "c", "d"]) | WORDS, OFFSETS),
    queries("partition", "limit", "max_bytes", "wait", "format", "ack", "isolation", "reset"),
    HEADERS,
)
def test_random_positions_return_no_5xx(
    method: str, path: tuple[str, ...], query: dict[str, str], headers: dict[str, str]
) -> None:
    if query.get("wait", "")[:1].isdigit():
        query["wait"] = "0.001"
    send(method, "/messages/" + "/".join(path), query, headers, None, b"")


@bounded
@given(
    METHODS,
    V2_PATHS,
    queries("topic", "partition", "max_bytes", "max_poll_records"),
    HEADERS,
    st.tuples(CONTENT_TYPES, BODIES | V2_BODIES),
)
def test_random_v2_calls_return_no_5xx(
    method: str, path: tuple[str, ...], query: dict[str, str], headers: dict[str, str], content: Any
) -> None:
    send(method, "".join(path), {**query, "timeout": "1"}, headers, *content)


@bounded
@given(
    st.sampled_from("abc"),
    INSTANCE_CALLS,
    queries("topic", "partition", "max_bytes", "max_poll_records"),
    HEADERS,
    st.sampled_from(["application/vnd.kafka.v2+json", "application/vnd.kafka.v2+json", "", "text/plain"]),
)
def test_random_instance_calls_return_no_5xx(
    name: str, call: tuple[str, str, bytes], query: dict[str, str], headers: dict[str, str], content_type: str
) -> None:
    made = {"name": name, "format": "json" if name == "a" else "binary", "consumer.request.timeout.ms": 1}
    assert client.post("/consumers/g", json=made).status_code in {200, 409}
    method, path, body = call
    path = f"/consumers/g/instances/{name}{path}"
    send(method, path, {**query, "timeout": "1"}, headers, content_type, body)


@bounded
@given(METHODS, st.lists(WORDS | st.just("messages"), max_size=5), queries("key", "x"), HEADERS, BODIES)
def test_random_requests_return_no_5xx(
    method: str, path: list[str], query: dict[str, str], headers: dict[str, str], body: bytes
) -> None:
    send(method, "/" + "/".join(path), query, headers, "text/plain", body)


def send(  # noqa: PLR0917  a request has that many parts
    method: str, path: str, query: dict[str, str], headers: dict[str, str], content_type: str | None, body: bytes
) -> None:
    response = client.open(
        "/",
        method=method,
        query_string=query,
        headers=headers,
        content_type=content_type,
        data=body,
        environ_overrides={"PATH_INFO": path.encode().decode("latin-1")},
    )
    assert response.status_code < 500 or response.json["error_code"] == 503, response.text
    check_form(response)


def check_form(response: Any) -> None:
    """Check that an error is JSON of one of the two shapes with a message."""
    assert response.headers["Cache-Control"] == "no-store"
    assert b"Traceback" not in response.data
    if response.status_code >= 400 and response.data:
        error = response.json.get(
            "error", {"code": response.json.get("error_code"), "message": response.json.get("message")}
        )
        assert error["code"] >= 400
        assert error["message"]
