"""Metadata and produce in the REST Proxy v2 API."""

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.errors import BrokerError, BrokerUnavailable, NotAuthorized, OutcomeUnknown, RetriableBrokerError
from kafka_http.records import NewRecord, RecordMetadata
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.fake_pending import completed

V2 = "application/vnd.kafka.v2+json"
JSON_V2 = "application/vnd.kafka.json.v2+json"
BINARY_V2 = "application/vnd.kafka.binary.v2+json"
ONE = {"records": [{"value": 1}]}


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def produce(
    client: FlaskClient, body: Any, content_type: str | None = JSON_V2, path: str = "/topics/t", **headers: str
) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, data=data, content_type=content_type, headers=headers)


def stored(broker: FakeBroker, topic: str = "t") -> list[tuple[bytes | None, bytes | None]]:
    return [(each.key, each.value) for each in broker.records(topic)]


def error(answer: Any) -> tuple[int, int, str]:
    """Return status, code and message of an error, and check that its body has no other fields."""
    assert answer.json.keys() == {"error_code", "message"}
    assert answer.content_type == V2
    return answer.status_code, answer.json["error_code"], answer.json["message"]


# metadata


def test_list_topics_leaves_out_internal_topics(client: FlaskClient, broker: FakeBroker) -> None:
    broker.create_topic("__consumer_offsets")
    assert client.get("/topics").json == ["t", "three"]


def test_topic_returns_configs_and_partitions(client: FlaskClient, broker: FakeBroker) -> None:
    broker.create_topic("compacted", compacted=True, limit=5000)
    broker.lose_leader("three", 1)
    answer = client.get("/topics/compacted").json
    assert answer.keys() == {"name", "configs", "partitions"}
    assert answer["name"] == "compacted"
    assert answer["configs"]["cleanup.policy"] == "compact"
    assert all(isinstance(each, str) for each in answer["configs"].values())
    replica = {"broker": 1, "leader": True, "in_sync": True}
    assert answer["partitions"] == [{"partition": 0, "leader": 1, "replicas": [replica]}]
    partitions = client.get("/topics/three").json["partitions"]
    assert [each["leader"] for each in partitions] == [1, -1, 1]
    assert partitions[1]["replicas"] == [{"broker": 1, "leader": False, "in_sync": False}]


def test_partitions_lists_replicas(client: FlaskClient) -> None:
    all_of_them = client.get("/topics/three/partitions").json
    assert [each["partition"] for each in all_of_them] == [0, 1, 2]
    assert client.get("/topics/three/partitions/2").json == all_of_them[2]
    assert all_of_them == client.get("/topics/three").json["partitions"]


def test_offsets_returns_beginning_and_end(client: FlaskClient, broker: FakeBroker) -> None:
    broker.publish("three", [NewRecord(b"x", partition=1)] * 3, 1).result()
    broker.delete_before("three", 1, 2)
    answer = client.get("/topics/three/partitions/1/offsets")
    assert answer.json == {"beginning_offset": 2, "end_offset": 3}


def test_brokers_lists_ids(client: FlaskClient) -> None:
    assert client.get("/brokers").json == {"brokers": [1]}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (V2, V2),
        (JSON_V2, V2),
        ("application/vnd.kafka.v1+json", V2),
        (f"text/html, {V2};q=0.1", V2),
        ("", V2),
        ("*/*", V2),
        ("application/json", "application/json"),
        ("text/html", "application/json"),
        ("application/vnd.kafka.v3+json", "application/json"),
        ("text/html, application/xhtml+xml;q=0", "application/json"),
    ],
)
def test_root_is_an_empty_object(client: FlaskClient, accept: str, content_type: str) -> None:
    answer = client.get("/", headers={"Accept": accept})
    assert (answer.status_code, answer.data, answer.content_type) == (200, b"{}\n", content_type)
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"
    assert client.head("/", headers={"Accept": accept}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["", "/partitions", "/partitions/0", "/partitions/0/offsets", "/partitions/x"],
)
def test_unknown_topic_returns_40401(client: FlaskClient, broker: FakeBroker, path: str) -> None:
    assert error(client.get(f"/topics/nope{path}")) == (404, 40401, "Topic not found.")
    assert client.get("/topics").json == ["t", "three"]


@pytest.mark.parametrize("partition", ["3", "-1", "x", "99999999999999999999", "1.0"])
@pytest.mark.parametrize("path", ["", "/offsets"])
def test_unknown_partition_returns_40402(client: FlaskClient, partition: str, path: str) -> None:
    answer = client.get(f"/topics/three/partitions/{partition}{path}")
    if path and not partition.lstrip("-").isdecimal():
        assert error(answer)[:2] == (404, 404), "the same as Karapace"
    else:
        assert error(answer) == (404, 40402, "Partition not found.")


def test_offsets_of_unknown_topic_with_invalid_partition_returns_40401(client: FlaskClient) -> None:
    assert error(client.get("/topics/nope/partitions/foo/offsets")) == (404, 40401, "Topic not found.")


@pytest.mark.parametrize("path", ["/topics/", "//topics", "/topics/t//partitions/", "/brokers//"])
def test_empty_path_segments_are_ignored(client: FlaskClient, path: str) -> None:
    assert client.get("/", environ_overrides={"PATH_INFO": path}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/topics", {"GET"}),
        ("PUT", "/topics/t", {"GET", "POST"}),
        ("POST", "/topics/t/partitions", {"GET"}),
        ("POST", "/topics/t/partitions/0/offsets", {"GET"}),
        ("PATCH", "/brokers", {"GET"}),
        ("POST", "/", {"GET"}),
    ],
)
def test_wrong_method_returns_405_with_allow(client: FlaskClient, method: str, path: str, allowed: set[str]) -> None:
    answer = client.open(path, method=method)
    assert error(answer)[:2] == (405, 405)
    assert set(answer.headers["Allow"].split(", ")) - {"HEAD", "OPTIONS"} == allowed


def test_metadata_without_broker_returns_503(client: FlaskClient, broker: FakeBroker) -> None:
    broker.down = True
    for answer in (client.get("/topics"), client.get("/topics/t"), client.get("/brokers"), produce(client, ONE)):
        assert error(answer)[:2] == (503, 50302)
        assert int(answer.headers["Retry-After"]) >= 1


def test_metadata_without_authorization_returns_40301(client: FlaskClient, broker: FakeBroker) -> None:
    broker.refused.add("t")
    assert error(client.get("/topics/t"))[:2] == (403, 40301)
    assert error(produce(client, ONE))[:2] == (403, 40301)


# types


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, V2),
        ("", V2),
        ("*/*", V2),
        ("application/*", V2),
        (V2, V2),
        (f"{V2}; charset=utf-8", V2),
        (JSON_V2, V2),
        ("application/vnd.kafka.avro.v2+json", V2),
        ("application/vnd.kafka.v1+json", V2),
        ("application/vnd.kafka+json", V2),
        ("application/json", "application/json"),
        ("APPLICATION/JSON", "application/json"),
        (f"{V2}, application/json", V2),
        (f"application/json, {V2}", V2),
        (f"application/json, {V2};q=0.9", "application/json"),
        (f"application/json;q=0.5, {V2};q=0.6", V2),
        (f"{V2};q=0, */*", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("application/json;q=0.1, */*", V2),
        ("application/vnd.kafka.v3+json, application/json", "application/json"),
    ],
)
def test_accept_selects_content_type(client: FlaskClient, accept: str | None, content_type: str) -> None:
    headers = {} if accept is None else {"Accept": accept}
    for answer in (client.get("/topics", headers=headers), client.get("/topics/nope", headers=headers)):
        assert answer.content_type == content_type
    assert produce(client, ONE, **headers).content_type == content_type


@pytest.mark.parametrize(
    "accept", ["text/html", "application/vnd.kafka.v3+json", f"{V2};q=0", "application/xml, text/*"]
)
def test_unsatisfiable_accept_returns_406(client: FlaskClient, broker: FakeBroker, accept: str) -> None:
    for answer in (client.get("/topics", headers={"Accept": accept}), produce(client, ONE, Accept=accept)):
        assert error(answer)[:2] == (406, 406)
        assert V2 in answer.json["message"]
    assert stored(broker) == []


@pytest.mark.parametrize(
    "content_type",
    [JSON_V2, None, "application/json", "application/json; charset=utf-8", "application/vnd.kafka.json.v1+json"],
)
def test_produce_json_stores_values_as_written(
    client: FlaskClient, broker: FakeBroker, content_type: str | None
) -> None:
    body = b'{"records": [{"key": "k", "value": {"n": 1.50, "big": 12345678901234567890123}}]}'
    assert produce(client, body, content_type).status_code == 200
    assert stored(broker) == [(b'"k"', b'{"n": 1.50, "big": 12345678901234567890123}')]


@pytest.mark.parametrize(
    "content_type",
    [
        BINARY_V2,
        "application/octet-stream",
        "application/vnd.kafka.binary.v1+json",
        V2,
        "application/vnd.kafka.v1+json",
        "application/vnd.kafka+json",
        f"{V2}; charset=utf-8",
    ],
)
def test_produce_binary_stores_decoded_base64(client: FlaskClient, broker: FakeBroker, content_type: str) -> None:
    body = {"records": [{"key": base64.b64encode(b"\xff").decode(), "value": base64.b64encode(b"\x00").decode()}]}
    assert produce(client, body, content_type).status_code == 200
    assert stored(broker) == [(b"\xff", b"\x00")]


@pytest.mark.parametrize(
    ("content_type", "says"),
    [
        ("application/vnd.kafka.v3+json", [JSON_V2, BINARY_V2]),
        ("application/vnd.kafka.json.v3+json", [JSON_V2, BINARY_V2]),
        ("text/plain", [JSON_V2, BINARY_V2, "text/plain"]),
        ("application/x-www-form-urlencoded", [JSON_V2]),
        ("application/vnd.kafka.avro.v2+json", ["schema_registry.url", "json", "binary"]),
        ("application/vnd.kafka.protobuf.v2+json", ["schema_registry.url"]),
        ("application/vnd.kafka.jsonschema.v2+json", ["schema_registry.url"]),
        ("application/vnd.kafka.nope.v2+json", ["'nope'", "json", "binary"]),
    ],
)
def test_produce_with_unknown_content_type_returns_415(
    client: FlaskClient, broker: FakeBroker, content_type: str, says: list[str]
) -> None:
    status, code, message = error(produce(client, ONE, content_type))
    assert (status, code) == (415, 415)
    assert all(each in message for each in says)
    assert stored(broker) == []


# produce


def test_produce_returns_offsets_and_schema_ids(client: FlaskClient) -> None:
    produce(client, ONE)
    answer = produce(client, {"records": [{"value": 1}, {"value": 2}]})
    assert answer.status_code == 200
    assert answer.json == {
        "offsets": [
            {"partition": 0, "offset": 1, "error_code": None, "error": None},
            {"partition": 0, "offset": 2, "error_code": None, "error": None},
        ],
        "key_schema_id": None,
        "value_schema_id": None,
    }


def test_produce_to_partition_applies_unless_a_record_has_its_own(client: FlaskClient) -> None:
    body = {"records": [{"value": 1}, {"value": 2, "partition": 2}, {"value": 3, "partition": None}]}
    answer = produce(client, body, path="/topics/three/partitions/1")
    assert [each["partition"] for each in answer.json["offsets"]] == [1, 2, 1]
    answer = produce(client, {"records": [{"value": 1, "partition": 2}]}, path="/topics/three")
    assert [each["partition"] for each in answer.json["offsets"]] == [2]


def test_produce_stores_headers_and_timestamp(client: FlaskClient, broker: FakeBroker) -> None:
    headers = [{"key": "a", "value": base64.b64encode(b"\xff").decode()}, {"key": "a", "value": None}, {"key": "b"}]
    produce(client, {"records": [{"value": 1, "headers": headers, "timestamp": 1790000000000}]})
    (record,) = broker.records("t")
    assert record.headers == [("a", b"\xff"), ("a", None), ("b", None)]
    assert record.timestamp == 1790000000000


@pytest.mark.parametrize("content_type", [JSON_V2, BINARY_V2, "application/vnd.kafka.text.v2+json"])
def test_produce_null_stores_null_in_every_format(client: FlaskClient, broker: FakeBroker, content_type: str) -> None:
    assert produce(client, {"records": [{"key": None, "value": None}, {}]}, content_type).status_code == 200
    assert stored(broker) == [(None, None), (None, None)]


@pytest.mark.parametrize("text", [b"0", b"false", b'""', b"[]", b"{}", b'"null"'])
def test_produce_of_falsy_values_stores_them_as_written(client: FlaskClient, broker: FakeBroker, text: bytes) -> None:
    produce(client, b'{"records": [{"key": %b, "value": %b}]}' % (text, text))
    assert stored(broker) == [(text, text)]


def test_produce_with_integers_in_quotes_is_accepted(client: FlaskClient, broker: FakeBroker) -> None:
    """Some clients quote all values."""
    body = {"records": [{"value": "0", "partition": "2", "timestamp": "1790000000000"}], "value_schema_id": None}
    answer = produce(client, body, path="/topics/three")
    assert (answer.status_code, answer.json["offsets"][0]["partition"]) == (200, 2)
    (record,) = broker.records("three")
    assert (record.value, record.timestamp) == (b'"0"', 1790000000000)


@pytest.mark.parametrize("partition", ["x", "", "-1", " 1", "9" * 20])
def test_produce_with_text_that_is_no_integer_returns_422(client: FlaskClient, partition: str) -> None:
    status, code, message = error(produce(client, {"records": [{"value": 0, "partition": partition}]}))
    assert (status, code) == (422, 422)
    assert message.startswith("records[0].partition must be ")


def test_produce_with_unknown_field_returns_422_that_names_it(client: FlaskClient, broker: FakeBroker) -> None:
    status, code, message = error(produce(client, {"records": [{"value": 1}], "value_shema_id": 1}))
    assert (status, code) == (422, 422)
    assert "unknown field 'value_shema_id'." in message
    assert "value_schema_id" in message
    assert stored(broker) == []


def test_produce_with_null_fields_ignores_them(client: FlaskClient) -> None:
    body = {
        "records": [{"value": 1, "partition": None, "timestamp": None, "headers": None}],
        "key_schema": None,
        "key_schema_id": None,
        "value_schema": None,
        "value_schema_id": None,
    }
    assert produce(client, body).status_code == 200


@pytest.mark.parametrize("records", ["x", 1, {}, True])
def test_produce_with_records_that_are_not_an_array_returns_400(
    client: FlaskClient, broker: FakeBroker, records: Any
) -> None:
    status, code, message = error(produce(client, {"records": records}))
    assert (status, code) == (400, 400)
    assert message.startswith("records must be ")
    assert stored(broker) == []


@pytest.mark.parametrize("body", [b"", b"nope", b'{"records": [', b"[]", b'"x"', b"1", b"null", b'{"a": "\xff"}'])
def test_produce_with_body_that_is_not_a_json_object_returns_400(client: FlaskClient, body: bytes) -> None:
    status, code, message = error(produce(client, body))
    assert (status, code) == (400, 400)
    assert message.startswith("Body ")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "records"),
        ({"records": []}, "no records"),
        ({"records": None}, "records"),
        ({"records": [1]}, "records[0]"),
        ({"records": [{"value": 1}, {"value": 1, "partition": "x"}]}, "records[1].partition"),
        ({"records": [{"value": 1, "partition": -1}]}, "records[0].partition"),
        ({"records": [{"value": 1, "timestamp": "now"}]}, "records[0].timestamp"),
        ({"records": [{"value": 1, "headers": {"a": "b"}}]}, "records[0].headers"),
        ({"records": [{"value": 1, "headers": [{"key": 1}]}]}, "records[0].headers[0].key"),
        ({"records": [{"value": 1}, {"valeu": 1}]}, "valeu"),
    ],
)
def test_produce_with_invalid_field_returns_422(client: FlaskClient, broker: FakeBroker, body: Any, says: str) -> None:
    status, code, message = error(produce(client, body))
    assert (status, code) == (422, 422)
    assert says in message
    assert stored(broker) == []


@pytest.mark.parametrize(
    ("record", "field"),
    [({"value": "%%%"}, "value"), ({"key": "a", "value": "AA=="}, "key"), ({"value": 5}, "value")],
)
def test_produce_with_invalid_base64_returns_400(
    client: FlaskClient, broker: FakeBroker, record: Any, field: str
) -> None:
    status, code, message = error(produce(client, {"records": [{"value": "AA=="}, record]}, BINARY_V2))
    assert (status, code) == (400, 400)
    assert f"records[1].{field}" in message
    assert "base64" in message
    assert stored(broker) == []


def test_produce_with_invalid_base64_in_header_returns_400(client: FlaskClient) -> None:
    headers = [{"key": "h", "value": "%"}]
    status, code, message = error(produce(client, {"records": [{"value": 1}, {"value": 1, "headers": headers}]}))
    assert (status, code) == (400, 400)
    assert "records[1].headers.h" in message


def test_produce_value_that_cannot_be_serialized_returns_422(client: FlaskClient, broker: FakeBroker) -> None:
    answer = produce(client, {"records": [{"value": "a"}, {"value": 1}]}, "application/vnd.kafka.text.v2+json")
    status, code, message = error(answer)
    assert (status, code) == (422, 422)
    assert "records[1].value" in message
    assert stored(broker) == []


@pytest.mark.parametrize("path", ["/topics/nope", "/topics/nope/partitions/0", "/topics/nope/partitions/x"])
def test_produce_to_unknown_topic_returns_40401(client: FlaskClient, broker: FakeBroker, path: str) -> None:
    assert error(produce(client, ONE, path=path)) == (404, 40401, "Topic not found.")
    assert broker.topics() == ["t", "three"]


@pytest.mark.parametrize("partition", ["3", "x", "-1"])
def test_produce_to_unknown_partition_returns_40402(client: FlaskClient, broker: FakeBroker, partition: str) -> None:
    answer = produce(client, ONE, path=f"/topics/three/partitions/{partition}")
    assert error(answer) == (404, 40402, "Partition not found.")
    assert stored(broker, "three") == []


def test_produce_with_auto_create_topics_creates_topic(client: FlaskClient, broker: FakeBroker) -> None:
    broker.auto_create_topics = True
    assert produce(client, ONE, path="/topics/new").status_code == 200
    assert error(client.get("/topics/other")) == (404, 40401, "Topic not found.")


def test_produce_with_body_over_max_body_bytes_returns_413(make_client: ClientFactory) -> None:
    assert error(produce(make_client(max_body_bytes=1024), {"records": [{"value": "x" * 2000}]}))[:2] == (413, 413)


def test_produce_of_record_over_the_limit_of_the_broker_is_an_error_of_its_record(
    client: FlaskClient, broker: FakeBroker
) -> None:
    broker.message_limit = 1000
    large = {"value": "x" * 2000}
    assert error(produce(client, {"records": [large]}))[:2] == (413, 413)
    assert error(produce(client, {"records": [large, large]}))[:2] == (413, 413)
    answer = produce(client, {"records": [large, {"value": 1}]})
    assert answer.status_code == 200
    failed, written = answer.json["offsets"]
    assert (failed["partition"], failed["offset"], failed["error_code"]) == (None, None, 50002)
    assert "1000" in failed["error"]
    assert (written["offset"], written["error_code"]) == (0, None)


def test_produce_without_answer_of_broker_returns_504(make_client: ClientFactory, broker: FakeBroker) -> None:
    broker.silent = True
    status, code, message = error(produce(make_client(timeout=0.1), ONE))
    assert (status, code) == (504, 504)
    assert "may have been written" in message


def test_produce_over_max_in_flight_returns_42901(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(max_in_flight=1500, timeout=2)
    large = {"records": [{"value": "x" * 1000}]}
    broker.silent = True
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: client.application.test_client().put("/messages/t", data=b"x" * 1000))
        while not broker.unanswered and not first.done():
            time.sleep(0.01)
        answer = produce(client, large)
        assert error(answer)[:2] == (429, 42901)
        assert int(answer.headers["Retry-After"]) >= 1
        assert first.result().status_code == 504


class Outcomes:
    """A broker whose produce returns the given results."""

    def __init__(self, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
        self._broker = broker
        self._monkeypatch = monkeypatch

    def are(self, *outcomes: Any) -> Any:
        self._monkeypatch.setattr(self._broker, "publish", lambda *_, **__: completed(outcomes))
        return {"records": [{"value": 1}] * len(outcomes)}


@pytest.fixture
def outcomes(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> Outcomes:
    return Outcomes(broker, monkeypatch)


WRITTEN = RecordMetadata(0, 7, 1)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (BrokerError("No."), 50002),
        (RetriableBrokerError("Not yet."), 50003),
        (OutcomeUnknown("Who knows."), 50003),
        (BrokerUnavailable("Gone."), 50003),
    ],
)
def test_produce_with_failed_records_returns_200_with_their_errors(
    client: FlaskClient, outcomes: Outcomes, failure: Any, code: int
) -> None:
    answer = produce(client, outcomes.are(WRITTEN, failure))
    assert answer.status_code == 200
    assert answer.json["offsets"] == [
        {"partition": 0, "offset": 7, "error_code": None, "error": None},
        {"partition": None, "offset": None, "error_code": code, "error": failure.message},
    ]


def test_produce_with_all_records_failed_returns_200(client: FlaskClient, outcomes: Outcomes) -> None:
    answer = produce(client, outcomes.are(BrokerError("No."), RetriableBrokerError("Not yet.")))
    assert answer.status_code == 200
    assert [each["error_code"] for each in answer.json["offsets"]] == [50002, 50003]


def test_produce_without_authorization_fails_the_request(client: FlaskClient, outcomes: Outcomes) -> None:
    answer = produce(client, outcomes.are(WRITTEN, NotAuthorized("Not you.")))
    assert error(answer) == (403, 40301, "Not you.")


@pytest.mark.parametrize(
    ("failure", "status"), [(OutcomeUnknown("Who knows."), 504), (BrokerUnavailable("Gone."), 503)]
)
def test_produce_with_same_error_for_all_records_fails_the_request(
    client: FlaskClient, outcomes: Outcomes, failure: Any, status: int
) -> None:
    assert error(produce(client, outcomes.are(failure, failure)))[::2] == (status, failure.message)


def test_produce_with_prefer_strict_returns_207_or_error(client: FlaskClient, outcomes: Outcomes) -> None:
    body = outcomes.are(WRITTEN, BrokerError("No."))
    usual = produce(client, body)
    strict = produce(client, body, Prefer="wait=5, Strict")
    assert (strict.status_code, strict.json) == (207, usual.json)
    assert strict.headers["Preference-Applied"] == "strict"
    assert "Preference-Applied" not in usual.headers
    assert produce(client, outcomes.are(WRITTEN), Prefer="strict").status_code == 200
    answer = produce(client, outcomes.are(RetriableBrokerError("Not yet.")), Prefer="strict")
    assert error(answer) == (500, 50003, "Not yet.")
    answer = produce(client, outcomes.are(RetriableBrokerError("Not yet."), BrokerError("No.")), Prefer="strict")
    assert (answer.status_code, answer.json["error_code"]) == (500, 50003)
    assert [each["error_code"] for each in answer.json["offsets"]] == [50003, 50002]


# the same parser under /messages


def test_v2_body_under_messages_uses_error_codes_of_messages(client: FlaskClient) -> None:
    answer = produce(client, {"records": [{"value": 1, "partition": "x"}]}, path="/messages/t")
    assert (answer.status_code, answer.json["error"]["code"]) == (400, 400)
    assert (answer.json["error"]["record"], answer.json["error"]["field"]) == (0, "partition")
