"""GET /messages/<topic>/<consumer>/<offset>: pages."""

import base64
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask.testing import FlaskClient

from kafka_http.records import NewRecord
from tests.support.fake_broker import FakeBroker
from tests.support.polling import scaled

NOON = 1_790_000_000_000


def put(broker: FakeBroker, topic: str, *values: bytes | None, partition: int = 0, **more: Any) -> None:
    broker.producer.publish(topic, [NewRecord(value, partition=partition, **more) for value in values], 1).result()


def values(response: Any) -> list[Any]:
    assert response.status_code == 200, response.text
    return [record["value"] for record in response.json["records"]]


@pytest.fixture
def five(broker: FakeBroker) -> None:
    """Messages 0 to 4 in `t`, at NOON and each second after it."""
    for number in range(5):
        put(broker, "t", b"%d" % number, timestamp=NOON + number * 1000)


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ("0", [0, 1, 2, 3, 4]),
        ("3", [3, 4]),
        ("5", []),
        ("0:3", [3, 4]),
        ("0:earliest", [0, 1, 2, 3, 4]),
        ("0:latest", []),
        ("*:earliest", [0, 1, 2, 3, 4]),
        ("earliest", [0, 1, 2, 3, 4]),
        ("latest", []),
        ("committed", [0, 1, 2, 3, 4]),
        ("committed?reset=latest", []),
        ("-2", [3, 4]),
        ("-0", []),
        ("-100", [0, 1, 2, 3, 4]),
        (f"@{NOON + 2000}", [2, 3, 4]),
        (f"@{NOON + 1}", [1, 2, 3, 4]),
        (f"@{NOON + 4001}", []),
        ("@" + datetime.fromtimestamp((NOON + 3000) / 1000, UTC).isoformat().replace("+00:00", "Z"), [3, 4]),
        ("@1900-01-01", [0, 1, 2, 3, 4]),
    ],
)
def test_read_starts_at_the_position(client: FlaskClient, offset: str, expected: list[int]) -> None:
    response = client.get(f"/messages/t/c/{offset}")
    assert values(response) == expected
    assert response.json["next"] == ("0:5" if offset.startswith("0:") else "0:5,*:earliest")
    assert response.json["ack"] == ("0:4" if expected else None)


@pytest.mark.usefixtures("five")
def test_read_from_committed_starts_after_the_acknowledged_message(client: FlaskClient) -> None:
    client.delete("/messages/t/c/2")
    assert values(client.get("/messages/t/c/committed")) == [3, 4]
    assert values(client.get("/messages/t/else/committed")) == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("five")
def test_read_from_a_committed_offset_removed_by_retention_uses_reset(client: FlaskClient, broker: FakeBroker) -> None:
    client.delete("/messages/t/c/0")
    broker.delete_before("t", 0, 3)
    assert values(client.get("/messages/t/c/committed")) == [3, 4]
    assert values(client.get("/messages/t/c/committed?reset=latest")) == []


@pytest.mark.parametrize(
    ("offset", "expected", "position"),
    [
        ("0:1,2:0", ["a1", "c0", "c1"], "0:2,2:2"),
        ("2:1,0:0", ["a0", "a1", "c1"], "0:2,2:2"),
        ("0:latest,*:earliest", ["b0", "c0", "c1"], "0:2,1:1,2:2,*:earliest"),
        ("1:earliest,*:latest", ["b0"], "0:2,1:1,2:2,*:earliest"),
        ("-1", ["a1", "b0", "c1"], "0:2,1:1,2:2,*:earliest"),
        ("earliest?partition=1", ["b0"], "1:1"),
        ("1?partition=0,2", ["a1", "c1"], "0:2,2:2"),
        ("1", ["a1", "c1"], "0:2,1:1,2:2,*:earliest"),
    ],
)
def test_read_of_selected_partitions_returns_their_messages(
    client: FlaskClient, broker: FakeBroker, offset: str, expected: list[str], position: str
) -> None:
    put(broker, "three", b"a0", b"a1", partition=0)
    put(broker, "three", b"b0", partition=1)
    put(broker, "three", b"c0", b"c1", partition=2)
    response = client.get(f"/messages/three/c/{offset}")
    assert values(response) == expected
    assert response.json["next"] == position


def test_record_is_shown_with_all_fields(client: FlaskClient, broker: FakeBroker) -> None:
    put(
        broker,
        "t",
        b'{"a": 1.00}',
        key=b"k",
        timestamp=NOON,
        headers=[("h", b"x"), ("b", b"\xff"), ("n", None), ("h", b"y")],
    )
    response = client.get("/messages/t/c/earliest")
    assert '"value":{"a": 1.00}' in response.text
    assert response.json == {
        "topic": "t",
        "consumer": "c",
        "records": [
            {
                "partition": 0,
                "offset": 0,
                "timestamp": NOON,
                "key": "k",
                "value": {"a": 1.0},
                "headers": [["h", "x"], ["b", {"base64": "/w=="}], ["n", None], ["h", "y"]],
                "format": "json",
            }
        ],
        "next": "0:1,*:earliest",
        "ack": "0:0",
    }
    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("stored", "value", "format_"),
    [
        (b'"s"', "s", "json"),
        (b"12", 12, "json"),
        (b" [1] ", [1], "json"),
        (b"text", "text", "text"),
        (b"", "", "text"),
        (b"null", "null", "text"),
        (b" null\n", " null\n", "text"),
        ("é".encode(), "é", "text"),
        (b"\xff", "/w==", "binary"),
        (b'"\xff"', "Iv8i", "binary"),
        (None, None, None),
        pytest.param(b"[" * 200_000 + b"]" * 200_000, "[" * 200_000 + "]" * 200_000, "text", id="nested too deeply"),
    ],
)
def test_format_of_a_value_is_detected(
    client: FlaskClient, broker: FakeBroker, stored: bytes, value: Any, format_: str | None
) -> None:
    put(broker, "t", stored)
    (record,) = client.get("/messages/t/c/earliest").json["records"]
    assert (record["value"], record["format"]) == (value, format_)


@pytest.mark.parametrize(
    ("stored", "format_", "value"),
    [
        (b"12", "text", "12"),
        (b"12", "binary", "MTI="),
        (b"12", "json", 12),
        (b"null", "json", "null"),
        (None, "json", None),
    ],
)
def test_value_is_decoded_by_the_requested_format(
    client: FlaskClient, broker: FakeBroker, stored: bytes, format_: str, value: Any
) -> None:
    put(broker, "t", stored)
    assert values(client.get(f"/messages/t/c/earliest?format={format_}")) == [value]


def test_value_that_the_format_cannot_decode_is_an_error(client: FlaskClient, broker: FakeBroker) -> None:
    put(broker, "t", b"1", b"{", b"3", key=b"k")
    first, second, third = client.get("/messages/t/c/earliest?format=json").json["records"]
    assert (first["value"], third["value"]) == (1, 3)
    assert "value" not in second
    assert second["error"]["code"] == 422
    assert (second["key"], second["offset"]) == ("k", 1)


def test_key_that_is_not_utf8_is_shown_in_base64(client: FlaskClient, broker: FakeBroker) -> None:
    put(broker, "t", b"1", key=b"\xff")
    (record,) = client.get("/messages/t/c/earliest").json["records"]
    assert (record["key"], record["key_format"]) == ("/w==", "binary")


def test_page_can_be_published_again(client: FlaskClient, broker: FakeBroker) -> None:
    put(
        broker,
        "t",
        b'{"a": 1.00}',
        b"text",
        b"\xff",
        None,
        b"null",
        b"",
        key=b"\xfe",
        timestamp=5,
        headers=[("h", b"\xff"), ("n", None)],
    )
    put(broker, "t", b"1")
    text = client.get("/messages/t/c/earliest").text
    lines = re.sub(r'\},\{"partition"', '}\n{"partition"', text[text.index("[") + 1 : text.rindex("]")])
    response = client.post("/messages/three?lines=records&partition=1", data=lines, content_type="application/x-ndjson")
    assert response.status_code == 200, response.text
    copied = [(each.key, each.value, each.headers) for each in broker.records("three")]
    assert copied == [(each.key, each.value, each.headers) for each in broker.records("t")]
    assert broker.records("three")[0].timestamp == 5


@pytest.mark.usefixtures("five")
def test_limit_limits_the_messages_of_a_page(client: FlaskClient) -> None:
    response = client.get("/messages/t/c/earliest?limit=2")
    assert values(response) == [0, 1]
    assert (response.json["next"], response.json["ack"]) == ("0:2,*:earliest", "0:1")


def test_max_bytes_limits_the_size_of_a_page(client: FlaskClient, broker: FakeBroker) -> None:
    put(broker, "t", b"1" * 1000, b"2" * 1000, b"3" * 1000)
    assert len(values(client.get("/messages/t/c/earliest?max_bytes=1"))) == 1
    assert len(values(client.get("/messages/t/c/earliest?max_bytes=2500"))) == 2


def test_next_links_lead_to_the_end_of_the_topic(client: FlaskClient, broker: FakeBroker) -> None:
    for partition in range(3):
        put(broker, "three", *(b"%d" % (partition * 100 + n) for n in range(17)), partition=partition)
    url, seen = "/messages/three/c/earliest?limit=4", []
    for _ in range(30):
        response = client.get(url)
        seen += values(response)
        if not response.json["records"]:
            break
        link = urlsplit(re.fullmatch(r'<(.+)>; rel="next"', response.headers["Link"])[1])
        assert "limit=4" in link.query
        url = f"{link.path}?{link.query}"
    assert sorted(seen) == sorted(partition * 100 + n for partition in range(3) for n in range(17))
    assert response.json["next"] == "0:17,1:17,2:17,*:earliest"


@pytest.mark.parametrize("query", ["limit=1", "limit=2", "max_bytes=1"])
def test_small_pages_read_all_partitions(client: FlaskClient, broker: FakeBroker, query: str) -> None:
    for partition in range(3):
        put(broker, "three", *[b"%d" % partition] * 500, partition=partition)
    position, seen = "earliest", set()
    for _ in range(60):
        response = client.get(f"/messages/three/c/{position}?{query}").json
        seen |= {record["partition"] for record in response["records"]}
        position = response["next"]
    assert seen == {0, 1, 2}


def test_next_link_omits_partition_and_keeps_other_parameters(client: FlaskClient, broker: FakeBroker) -> None:
    response = client.get("/messages/three/a%20b%2Cc/earliest?partition=1&format=text&wait=0")
    assert response.headers["Link"] == '<http://localhost/messages/three/a%20b,c/1:0?format=text&wait=0>; rel="next"'


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "kafka.example.org", "X-Forwarded-Prefix": "/rest"},
        {
            "Forwarded": 'for=1.2.3.4;host=evil, for=5.6.7.8;proto=https;host="kafka.example.org"',
            "X-Forwarded-Prefix": "/rest",
        },
    ],
)
def test_next_link_behind_a_proxy_uses_forwarded_headers(make_client: Any, headers: dict[str, str]) -> None:
    response = make_client().get("/messages/t/c/earliest", headers=headers)
    assert response.headers["Link"].startswith("<https://kafka.example.org/rest/messages/t/c/0:0,*:earliest>")
    strict = make_client(trusted_proxies="10.0.0.1")
    assert (
        strict.get("/messages/t/c/earliest", headers=headers).headers["Link"].startswith("<http://localhost/messages/")
    )
    named = make_client(base_url="https://me.example.org/x")
    assert (
        named.get("/messages/t/c/earliest", headers=headers)
        .headers["Link"]
        .startswith("<https://me.example.org/x/messages/")
    )


@pytest.mark.parametrize("prefix", ["::", "a, b:c", "rest"])
def test_forwarded_prefix_without_a_slash_becomes_a_path(client: FlaskClient, prefix: str) -> None:
    link = client.get("/messages/t/c/earliest", headers={"X-Forwarded-Prefix": prefix}).headers["Link"]
    assert link.startswith(f"<http://localhost/{prefix.rpartition(',')[2].strip()}/messages/t/c/0:0,*:earliest>")


def test_wait_ends_when_a_message_arrives(client: FlaskClient, broker: FakeBroker) -> None:
    timer = threading.Timer(0.2, put, (broker, "three", b"1"), {"partition": 2})
    timer.start()
    started = time.monotonic()
    assert values(client.get("/messages/three/c/latest?wait=10")) == [1]
    assert 0.1 < time.monotonic() - started < scaled(5)
    timer.join()


def test_wait_ends_after_its_time(client: FlaskClient) -> None:
    started = time.monotonic()
    response = client.get("/messages/three/c/latest?wait=0.3")
    assert values(response) == []
    assert 0.25 < time.monotonic() - started < scaled(5)
    assert response.json["next"] == "0:0,1:0,2:0,*:earliest"


def test_wait_ends_when_the_server_stops(client: FlaskClient) -> None:
    lifecycle = client.application.extensions["kafka_http"]
    threading.Timer(0.2, lifecycle.stop).start()
    started = time.monotonic()
    assert values(client.get("/messages/t/c/latest?wait=30")) == []
    assert time.monotonic() - started < scaled(5)


def test_at_most_half_of_the_threads_wait(make_client: Any) -> None:
    application = make_client(threads=4).application
    together = threading.Barrier(6)

    def read(_: int) -> float:
        together.wait(5)
        started = time.monotonic()
        assert values(application.test_client().get("/messages/t/c/latest?wait=1")) == []
        return time.monotonic() - started

    with ThreadPoolExecutor(6) as pool:
        took = list(pool.map(read, range(6)))
    waited = sorted(took)[-2:]
    assert all(seconds > 0.9 for seconds in waited)
    assert sum(seconds > max(0.9, waited[0] - 0.1) for seconds in took) == 2, "the others were answered before"


@pytest.mark.usefixtures("five")
def test_ack_previous_commits_the_position_of_the_read(client: FlaskClient) -> None:
    assert values(client.get("/messages/t/c/0:2?ack=previous")) == [2, 3, 4]
    assert values(client.get("/messages/t/c/committed")) == [2, 3, 4]
    assert values(client.get("/messages/t/c/0:1?ack=previous")) == [1, 2, 3, 4]
    assert values(client.get("/messages/t/c/committed")) == [2, 3, 4]
    assert client.get("/messages/t/c/0:9?ack=previous").status_code == 416
    assert values(client.get("/messages/t/c/committed")) == [2, 3, 4]


@pytest.mark.parametrize(
    "offset",
    [
        "x",
        "1.5",
        "+1",
        "0:",
        ":0",
        "0:1,",
        "0:1,0:2",
        "0-1",
        "1:-1",
        "*:5",
        "*:earliest,*:latest",
        "@",
        "@soon",
        "9" * 20,
        "0:9999999999999999999",
        "--1",
        "Earliest",
        "0:committed",
    ],
)
def test_malformed_position_returns_400(client: FlaskClient, offset: str) -> None:
    response = client.get(f"/messages/t/c/{offset}")
    assert response.status_code == 400
    assert "0:42,3:17" in response.json["error"]["message"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=100001", "limit"),
        ("limit=x", "limit"),
        ("max_bytes=0", "max_bytes"),
        ("wait=61", "wait"),
        ("wait=-1", "wait"),
        ("wait=nan", "wait"),
        ("partition=x", "partition"),
        ("partition=", "partition"),
        ("isolation=none", "isolation"),
        ("ack=all", "ack"),
        ("reset=x", "reset"),
        ("limt=5", "limt"),
    ],
)
def test_invalid_parameter_returns_400(client: FlaskClient, query: str, field: str) -> None:
    response = client.get(f"/messages/t/c/earliest?{query}")
    assert (response.status_code, response.json["error"]["field"]) == (400, field)


@pytest.mark.parametrize("offset", ["0:0", "0:0,1:0", "*:earliest", "0:latest"])
def test_partition_with_a_position_of_partitions_returns_400(client: FlaskClient, offset: str) -> None:
    response = client.get(f"/messages/three/c/{offset}?partition=0")
    assert (response.status_code, response.json["error"]["field"]) == (400, "partition")


def test_partition_with_a_time_is_accepted(client: FlaskClient) -> None:
    assert client.get("/messages/three/c/@2026-11-21T10:00:00Z?partition=0").status_code == 200


@pytest.mark.parametrize("path", ["nope/c/earliest", "nope/c/0:5", "nope/c/committed", "nope/c/-5", "nope/c/@5"])
def test_read_of_an_unknown_topic_returns_404(client: FlaskClient, broker: FakeBroker, path: str) -> None:
    response = client.get(f"/messages/{path}")
    assert (response.status_code, response.json["error"]["code"]) == (404, 40401)
    assert broker.log.topics() == ["t", "three"]


@pytest.mark.parametrize(
    "path", ["three/c/3:0", "three/c/earliest?partition=3", "three/c/3:latest", "three/c/3:latest,*:earliest"]
)
def test_read_of_an_unknown_partition_returns_404(client: FlaskClient, path: str) -> None:
    response = client.get(f"/messages/{path}")
    assert (response.status_code, response.json["error"]["code"]) == (404, 40402)


def test_read_of_an_offset_out_of_range_returns_416(client: FlaskClient, broker: FakeBroker) -> None:
    put(broker, "three", b"1", b"2", partition=1)
    response = client.get("/messages/three/c/1")
    assert (response.status_code, response.json["error"]["code"]) == (416, 416)
    assert response.json["error"]["message"].endswith("add ?reset=earliest or ?reset=latest.")
    assert response.json["error"]["partitions"] == [
        {"partition": 0, "offset": 1, "earliest": 0, "latest": 0},
        {"partition": 2, "offset": 1, "earliest": 0, "latest": 0},
    ]


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "application/json;q=0",
        "application/vnd.kafka.nope.v2+json",
    ],
)
def test_unsupported_accept_returns_406(client: FlaskClient, accept: str) -> None:
    response = client.get("/messages/t/c/earliest", headers={"Accept": accept})
    assert (response.status_code, response.json["error"]["code"]) == (406, 406)
    assert "application/octet-stream" in response.json["error"]["message"]


@pytest.mark.parametrize("accept", ["*/*", "application/*", "text/html,*/*;q=0.8", "application/json;q=0.5", None])
def test_page_is_json_by_default(client: FlaskClient, accept: str | None) -> None:
    response = client.get("/messages/t/c/earliest", headers={"Accept": accept} if accept else {})
    assert response.content_type == "application/json"


OCTETS = {"Accept": "application/octet-stream"}


def test_raw_read_returns_one_message_byte_for_byte(client: FlaskClient, broker: FakeBroker) -> None:
    headers = [
        ("Trace-Id", b"abc"),
        ("raw", b"\xff"),
        ("a", b"1"),
        ("a", b"2"),
        ("no token", b"x"),
        ("null", None),
        ("base64-x", b"p"),
        ("sp", b" x"),
    ]
    put(broker, "t", b"\x00\xff", b"second", key=b"k", timestamp=NOON, headers=headers)
    response = client.get("/messages/t/c/earliest", headers=OCTETS)
    assert (response.status_code, response.data) == (200, b"\x00\xff")
    assert response.content_type == "application/octet-stream"
    got = response.headers
    assert (got["Kafka-Partition"], got["Kafka-Offset"], got["Kafka-Timestamp"], got["Kafka-Key"]) == (
        "0",
        "0",
        str(NOON),
        "k",
    )
    assert (got["Kafka-Next"], got["Kafka-Ack"], got["Kafka-Headers-Omitted"]) == ("0:1,*:earliest", "0:0", "2")
    assert got["Link"].startswith("<http://localhost/messages/t/c/0:1,*:earliest>")
    assert (got["Kafka-Header-Trace-Id"], got["Kafka-Header-Base64-raw"]) == ("abc", "/w==")
    assert got.getlist("Kafka-Header-a") == ["1", "2"]
    assert (got["Kafka-Header-Base64-base64-x"], got["Kafka-Header-Base64-sp"]) == ("cA==", "IHg=")
    assert "Kafka-Tombstone" not in got


def test_octet_stream_has_at_most_eighty_headers_of_a_message(client: FlaskClient, broker: FakeBroker) -> None:
    """Python's HTTP client rejects a response with more than 100 headers."""
    broker.publish("t", [NewRecord(b"x", headers=[(f"h{each}", b"1") for each in range(120)])], 5).result()

    answer = client.get("/messages/t/c/earliest", headers={"Accept": "application/octet-stream"})

    assert len(answer.headers) < 100
    assert answer.headers["Kafka-Header-h79"] == "1"
    assert answer.headers["Kafka-Headers-Omitted"] == "40"


def test_raw_read_of_a_tombstone_has_its_key(client: FlaskClient, broker: FakeBroker) -> None:
    put(broker, "t", None, key="é".encode())
    response = client.get("/messages/t/c/earliest", headers=OCTETS)
    assert (response.status_code, response.data, response.headers["Kafka-Tombstone"]) == (200, b"", "true")
    assert response.headers["Kafka-Key-Base64"] == base64.b64encode("é".encode()).decode()


def test_raw_read_without_a_message_returns_204(client: FlaskClient) -> None:
    response = client.get("/messages/t/c/earliest", headers=OCTETS)
    assert (response.status_code, response.data) == (204, b"")
    assert response.headers["Kafka-Next"] == "0:0,*:earliest"
    assert "Kafka-Ack" not in response.headers


def test_read_as_v2_json_returns_an_array(client: FlaskClient, broker: FakeBroker) -> None:
    put(broker, "t", b'{"a": 1.0}', key=b'"k"', timestamp=NOON, headers=[("h", b"x")])
    put(broker, "t", b"no json", None, key=b"k")
    response = client.get("/messages/t/c/earliest", headers={"Accept": "application/vnd.kafka.json.v2+json"})
    assert response.content_type == "application/vnd.kafka.json.v2+json"
    first, second, third = response.json
    assert first == {
        "topic": "t",
        "key": "k",
        "value": {"a": 1.0},
        "partition": 0,
        "offset": 0,
        "timestamp": NOON,
        "headers": [{"key": "h", "value": "eA=="}],
    }
    assert (second["key"], second["value"], second["error"]["error_code"]) == ("aw==", "bm8ganNvbg==", 40801)
    assert (third["value"], third["error"]["error_code"]) == (None, 40801)
    assert (response.headers["Kafka-Next"], response.headers["Kafka-Ack"]) == ("0:3,*:earliest", "0:2")


def test_read_as_v2_binary_returns_an_array(client: FlaskClient, broker: FakeBroker) -> None:
    put(broker, "t", b"\xff", None)
    response = client.get("/messages/t/c/earliest", headers={"Accept": "application/vnd.kafka.binary.v2+json"})
    assert [(each["key"], each["value"]) for each in response.json] == [(None, "/w=="), (None, None)]


def test_head_of_a_read_returns_405(client: FlaskClient) -> None:
    response = client.head("/messages/t/c/earliest")
    assert response.status_code == 405
    assert "GET" in response.headers["Allow"]


@pytest.mark.parametrize("consumer", ["x" * 250, "a%00b", "a%0Ab", ".", ".."])
def test_invalid_consumer_name_returns_400(client: FlaskClient, consumer: str) -> None:
    for call in (client.get, client.delete, client.put):
        assert call(f"/messages/t/{consumer}/0").status_code == 400
    assert client.get(f"/messages/t/{consumer}").status_code == 400
    assert client.delete(f"/messages/t/{consumer}").status_code == 400


def test_read_while_broker_is_down_returns_503(client: FlaskClient, broker: FakeBroker) -> None:
    broker.down = True
    for path in ("t/c/earliest", "t/c/0:0", "t/c/committed", "t/c", "t", ""):
        response = client.get(f"/messages/{path}")
        assert (response.status_code, response.json["error"]["code"]) == (503, 50302)
        assert "Retry-After" in response.headers


def test_next_of_all_partitions_includes_partitions_added_later(client: FlaskClient, broker: FakeBroker) -> None:
    """A client that followed `next` never saw them."""
    page = client.get("/messages/three/c/latest").json
    assert page["next"] == "0:0,1:0,2:0,*:earliest"
    broker.add_partitions("three")
    put(broker, "three", b"1", b"2", partition=3)
    page = client.get(f"/messages/three/c/{page['next']}").json
    assert [each["value"] for each in page["records"]] == [1, 2]
    assert (page["next"], page["ack"]) == ("0:0,1:0,2:0,3:2,*:earliest", "3:1")


@pytest.mark.usefixtures("five")
def test_ack_previous_with_next_of_all_partitions_commits_added_partitions(
    client: FlaskClient, broker: FakeBroker
) -> None:
    page = client.get("/messages/t/c/earliest?limit=2").json
    assert page["next"] == "0:2,*:earliest"
    broker.add_partitions("t")
    put(broker, "t", b"5", partition=1)
    assert sorted(values(client.get(f"/messages/t/c/{page['next']}?ack=previous"))) == [2, 3, 4, 5]
    assert broker.committed("c", "t", [0, 1]) == {0: 2, 1: 0}


@pytest.mark.parametrize("offset", ["0:0,1:0", "earliest?partition=0,1", "0?partition=0,1"])
def test_next_of_named_partitions_contains_only_these(client: FlaskClient, offset: str) -> None:
    response = client.get(f"/messages/three/c/{offset}")
    assert response.json["next"] == "0:0,1:0"
    assert response.headers["Link"].startswith("<http://localhost/messages/three/c/0:0,1:0>")


def test_last_messages_skip_offsets_without_records(client: FlaskClient, broker: FakeBroker) -> None:
    """On a transactional topic the last offset is a control record, so `-1` was always empty."""
    for number in range(5):
        put(broker, "t", b"%d" % number)
        broker.pass_over("t", count=3)
    assert values(client.get("/messages/t/c/-1")) == [4]
    assert values(client.get("/messages/t/c/-3")) == [2, 3, 4]
    assert values(client.get("/messages/t/c/-9")) == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize("offset", ["1", "0:1", "0:1,*:earliest", "0:9", "9?partition=0"])
@pytest.mark.parametrize(("reset", "expected"), [("earliest", [3, 4]), ("latest", [])])
def test_reset_applies_to_every_position(
    client: FlaskClient, broker: FakeBroker, offset: str, reset: str, expected: list[int]
) -> None:
    broker.delete_before("t", 0, 3)
    path = f"/messages/t/c/{offset}"
    assert client.get(path).status_code == 416
    response = client.get(f"{path}{'&' if '?' in path else '?'}reset={reset}")
    assert values(response) == expected
    assert response.json["next"].startswith("0:5")


@pytest.mark.parametrize("offset", ["0:1,1:1", "0:9,1:1"])
def test_ack_previous_with_reset_commits_only_offsets_of_the_log(
    client: FlaskClient, broker: FakeBroker, offset: str
) -> None:
    put(broker, "three", *[b"0"] * 5, partition=0)
    put(broker, "three", *[b"1"] * 5, partition=1)
    broker.delete_before("three", 0, 3)
    assert client.get(f"/messages/three/c/{offset}?ack=previous").status_code == 416
    assert broker.committed("c", "three", [0, 1]) == {}
    assert client.get(f"/messages/three/c/{offset}?ack=previous&reset=latest").status_code == 200
    assert broker.committed("c", "three", [0, 1]) == {1: 1}


def test_wait_ends_when_a_message_arrives_in_a_new_partition(client: FlaskClient, broker: FakeBroker) -> None:
    def add() -> None:
        broker.add_partitions("three")
        put(broker, "three", b"1", partition=3)

    timer = threading.Timer(0.2, add)
    timer.start()
    started = time.monotonic()
    response = client.get("/messages/three/c/0:0,*:latest?wait=30")
    timer.join()
    assert values(response) == [1]
    assert time.monotonic() - started < scaled(10)
    assert response.json["next"] == "0:0,1:0,2:0,3:1,*:earliest"
