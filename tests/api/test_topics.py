"""POST /messages, PATCH and DELETE /messages/<topic>: create, change and delete topics."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kafka_http.records import NewRecord
from tests.api.conftest import ClientFactory, changed_environ
from tests.support.fake_broker import FakeBroker
from tests.support.key_file import KeyFile

NEW = {"topic": "orders", "partitions": 3, "replication_factor": 1, "config": {"retention.ms": "3600000"}}


@pytest.fixture
def client(make_client: ClientFactory) -> FlaskClient:
    return make_client(topic_admin=True)


def error(response: TestResponse) -> tuple[int, int, str]:
    return response.status_code, response.json["error"]["code"], response.json["error"]["message"]


def offsets(broker: FakeBroker, topic: str) -> dict[int, int]:
    return {
        each.partition: broker.offsets(topic, {each.partition: "earliest"})[each.partition]
        for each in broker.partitions(topic)
    }


# Create


def test_create_topic_returns_201_with_its_location_and_the_topic(client: FlaskClient) -> None:
    response = client.post("/messages", json=NEW)
    assert (response.status_code, response.headers["Location"]) == (201, "/messages/orders")
    assert response.json == client.get("/messages/orders").json
    assert response.json["config"] == {"retention.ms": "3600000"}
    assert [each["partition"] for each in response.json["partitions"]] == [0, 1, 2]
    assert client.put("/messages/orders", data=b"1").status_code == 200


def test_create_topic_needs_its_name_only(client: FlaskClient) -> None:
    response = client.post("/messages", data=b'{"topic": "orders"}')  # as curl -d sends it
    assert response.status_code == 201
    assert (len(response.json["partitions"]), response.json["config"]) == (1, {})


def test_create_topic_takes_numbers_and_booleans_as_settings(client: FlaskClient, broker: FakeBroker) -> None:
    config = {"retention.ms": 1000, "retention.bytes": -1, "max.message.bytes": "5"}
    assert client.post("/messages", json={"topic": "orders", "config": config}).json["config"] == {
        "retention.ms": "1000",
        "retention.bytes": "-1",
        "max.message.bytes": "5",
    }
    response = client.post("/messages", json={"topic": "bills", "config": {"retention.ms": True}})
    assert (response.status_code, "Invalid value true for configuration retention.ms" in response.text) == (422, True)


def test_create_topic_location_has_the_base_path(make_client: ClientFactory) -> None:
    client = make_client(topic_admin=True, base_url="https://example.org/kafka")
    assert client.post("/messages", json={"topic": "orders"}).headers["Location"] == "/kafka/messages/orders"


def test_create_topic_that_exists_returns_409(client: FlaskClient) -> None:
    assert error(client.post("/messages", json={"topic": "t"})) == (
        409,
        40906,
        "The topic t exists already. Nothing was done.",
    )


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "lacks the required field 'topic'"),
        ({"topic": 5}, 400, "topic must be a string"),
        ({"topic": "no/name"}, 400, "Illegal topic name"),
        ({"topic": ""}, 400, "Illegal topic name"),
        ({"topic": "__consumer_offsets"}, 400, "internal to Kafka"),
        ({"topic": "orders", "partition": 3}, 400, "Did you mean 'partitions'?"),
        ({"topic": "orders", "partitions": 0}, 400, "partitions must be"),
        ({"topic": "orders", "partitions": "3"}, 400, "partitions must be an integer"),
        ({"topic": "orders", "replication_factor": 0}, 400, "replication_factor must be"),
        ({"topic": "orders", "config": {"retention.ms": None}}, 400, "config"),
        ({"topic": "orders", "config": {"retention.years": 1}}, 422, "Unknown topic config name: retention.years"),
        ({"topic": "orders", "config": {"retention.ms": "long"}}, 422, "Invalid value long"),
        ({"topic": "orders", "replication_factor": 3}, 422, "replicate"),
        ({"topic": "orders", "partitions": 1_000_000}, 422, "number of partitions"),
        ({"topic": "orders", "config": {"retention.ms": "1" * 32_001}}, 422, "at most 32000 bytes, got 32001"),
        ({"topic": "orders", "config": {"retention.ms": "\xe9" * 16_001}}, 422, "at most 32000 bytes, got 32002"),
        ({"topic": "orders", "config": {"x" * 40_000: "1"}}, 422, "at most 32000 bytes, got 40000"),
    ],
)
def test_create_topic_with_an_invalid_body_creates_nothing(
    client: FlaskClient, broker: FakeBroker, body: dict[str, Any], status: int, text: str
) -> None:
    response = client.post("/messages", json=body)
    assert (response.status_code, text in response.text) == (status, True), response.text
    assert broker.topics() == ["t", "three"]


def test_error_about_a_setting_names_no_field_that_does_not_exist(client: FlaskClient) -> None:
    """The path config[...] became the field "..]"."""
    response = client.post("/messages", json={"topic": "orders", "config": {"retention.ms": None}})
    assert response.json["error"]["message"].startswith("config[...] must be a boolean or an integer")
    assert "field" not in response.json["error"]


def test_create_topic_rejects_bodies_that_are_no_object_and_unknown_parameters(client: FlaskClient) -> None:
    for body in (b"", b"{", b"[]", b'"orders"', b'{"topic": "orders\xff"}'):
        assert client.post("/messages", data=body).status_code == 400, body
    assert client.post("/messages?partitions=3", json={"topic": "orders"}).status_code == 400
    assert client.post("/messages", data=b" " * (1 << 20) + b"{}").status_code == 413


# Show


def test_topic_shows_the_settings_of_its_own_unless_acls_hide_them(client: FlaskClient, broker: FakeBroker) -> None:
    broker.create_topic("small", limit=100)
    assert client.get("/messages/small").json["config"] == {"max.message.bytes": "100"}
    broker.hides_configs = True
    response = client.get("/messages/small")
    assert (response.status_code, "config" in response.json) == (200, False)


# Change


def test_patch_changes_partitions_settings_and_first_offsets(client: FlaskClient, broker: FakeBroker) -> None:
    broker.publish("t", [NewRecord(b"%d" % each, partition=0) for each in range(5)], 1).result()
    body = {"partitions": 2, "config": {"retention.ms": "5000"}, "delete_before": "0:3"}
    response = client.patch("/messages/t", json=body)
    assert response.status_code == 200
    assert response.json == client.get("/messages/t").json
    assert response.json["config"] == {"retention.ms": "5000"}
    assert [(each["earliest"], each["latest"]) for each in response.json["partitions"]] == [(3, 5), (0, 0)]


def test_patch_with_null_resets_a_setting(client: FlaskClient) -> None:
    client.patch("/messages/t", json={"config": {"retention.ms": "1", "segment.ms": "2"}})
    assert client.patch("/messages/t", json={"config": {"retention.ms": None}}).json["config"] == {"segment.ms": "2"}


def test_patch_with_the_present_number_of_partitions_changes_nothing(client: FlaskClient) -> None:
    assert len(client.patch("/messages/three", json={"partitions": 3}).json["partitions"]) == 3


def test_patch_with_fewer_partitions_returns_422_with_the_number(client: FlaskClient, broker: FakeBroker) -> None:
    response = client.patch("/messages/three", json={"partitions": 2, "config": {"retention.ms": "1"}})
    assert (response.status_code, response.json["error"]["partitions"]) == (422, 3)
    assert "at least 3, got 2" in response.json["error"]["message"]
    assert broker.own_config("three") == {}


@pytest.mark.parametrize(
    ("position", "first"),
    [
        ("0:2", {0: 2, 1: 0, 2: 0}),
        ("3", {0: 3, 1: 3, 2: 3}),
        ("latest", {0: 5, 1: 5, 2: 5}),
        ("earliest", {0: 0, 1: 0, 2: 0}),
        ("-1", {0: 4, 1: 4, 2: 4}),
        ("0:latest,*:earliest", {0: 5, 1: 0, 2: 0}),
        ("@2020-01-01", {0: 0, 1: 0, 2: 0}),
        ("@2100-01-01", {0: 5, 1: 5, 2: 5}),
    ],
)
def test_delete_before_takes_positions(
    client: FlaskClient, broker: FakeBroker, position: str, first: dict[int, int]
) -> None:
    for partition in range(3):
        broker.publish("three", [NewRecord(b"x", partition=partition)] * 5, 1).result()
    assert client.patch("/messages/three", json={"delete_before": position}).status_code == 200
    assert offsets(broker, "three") == first


def test_delete_before_an_offset_that_is_deleted_already_does_nothing(client: FlaskClient, broker: FakeBroker) -> None:
    broker.publish("t", [NewRecord(b"x")] * 5, 1).result()
    for position in ("0:4", "0:1", "0:4"):
        assert client.patch("/messages/t", json={"delete_before": position}).status_code == 200
        assert offsets(broker, "t") == {0: 4}


def test_delete_before_beyond_the_end_returns_416_and_changes_nothing(client: FlaskClient, broker: FakeBroker) -> None:
    broker.publish("three", [NewRecord(b"x", partition=0)] * 5, 1).result()
    body = {"delete_before": "0:5,1:1", "partitions": 5, "config": {"retention.ms": "1"}}
    response = client.patch("/messages/three", json=body)
    assert response.status_code == 416
    assert response.json["error"]["partitions"] == [{"partition": 1, "offset": 1, "earliest": 0, "latest": 0}]
    assert (offsets(broker, "three"), broker.own_config("three")) == ({0: 0, 1: 0, 2: 0}, {})


def test_delete_before_in_a_compacted_topic_returns_422(client: FlaskClient, broker: FakeBroker) -> None:
    broker.create_topic("compacted", compacted=True)
    response = client.patch("/messages/compacted", json={"delete_before": "latest"})
    assert (response.status_code, "cleanup.policy is compact" in response.text) == (422, True)


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "changes nothing"),
        ({"config": {}}, 400, "changes nothing"),
        ({"partitons": 5}, 400, "Did you mean 'partitions'?"),
        ({"topic": "other"}, 400, "topic"),
        ({"delete_before": "committed"}, 400, "delete_before must be one of 42 | earliest | latest | -10"),
        ({"delete_before": "soon"}, 400, "delete_before must be one of"),
        ({"delete_before": 5}, 400, "delete_before must be a string"),
        ({"delete_before": "7:0"}, 404, "has no partition 7"),
        ({"partitions": 5, "config": {"retention.years": 1}}, 422, "Unknown topic config name"),
        ({"partitions": 10_004, "config": {"retention.ms": 1}}, 422, "at most 10003, got 10004"),
        ({"config": {"retention.ms": "1" * 32_001}}, 422, "at most 32000 bytes, got 32001"),
        ({"config": {"x" * 40_000: None}}, 422, "at most 32000 bytes, got 40000"),
    ],
)
def test_patch_with_an_invalid_body_changes_nothing(
    client: FlaskClient, broker: FakeBroker, body: dict[str, Any], status: int, text: str
) -> None:
    response = client.patch("/messages/three", json=body)
    assert (response.status_code, text in response.text) == (status, True), response.text
    assert (len(broker.partitions("three")), broker.own_config("three")) == (3, {})


# Delete


def test_delete_topic_returns_204_and_the_topic_is_gone(client: FlaskClient, broker: FakeBroker) -> None:
    response = client.delete("/messages/t")
    assert (response.status_code, response.data) == (204, b"")
    assert broker.topics() == ["three"]
    assert client.get("/messages/t").status_code == client.put("/messages/t", data=b"1").status_code == 404
    assert client.delete("/messages/t").status_code == 404


@pytest.mark.parametrize(
    "path", ["/messages/t/", "/messages//t", "//messages/t", "/messages/t//", "/messages/", "/messages//"]
)
@pytest.mark.parametrize("method", ["DELETE", "PATCH"])
def test_change_and_deletion_need_the_exact_path(
    client: FlaskClient, broker: FakeBroker, path: str, method: str
) -> None:
    """A shell variable for the consumer, the topic or the offset may have been empty."""
    body = {"partitions": 2, "delete_before": "latest"} if method == "PATCH" else None
    with changed_environ(client, PATH_INFO=path, RAW_URI=path):
        assert client.open("/messages/t", method=method, json=body).status_code in {404, 405}
    assert broker.topics() == ["t", "three"]
    assert len(broker.partitions("t")) == 1


def test_creation_needs_the_exact_path(client: FlaskClient, broker: FakeBroker) -> None:
    """The empty name of a topic in a publish must not create the topic that the message names."""
    for path in ("/messages/", "/messages//", "//messages"):
        with changed_environ(client, PATH_INFO=path, RAW_URI=path):
            assert client.post("/messages", json={"topic": "orders"}).status_code == 404, path
    assert broker.topics() == ["t", "three"]


def test_delete_with_a_query_does_nothing(client: FlaskClient, broker: FakeBroker) -> None:
    assert client.delete("/messages/t?before=5").status_code == 400
    assert "t" in broker.topics()


def test_internal_topics_cannot_be_changed_or_deleted(client: FlaskClient, broker: FakeBroker) -> None:
    broker.create_topic("__consumer_offsets")
    assert client.delete("/messages/__consumer_offsets").status_code == 400
    assert client.patch("/messages/__consumer_offsets", json={"partitions": 5}).status_code == 400
    assert len(broker.partitions("__consumer_offsets")) == 1


def test_administration_while_kafka_is_down_returns_503(client: FlaskClient, broker: FakeBroker) -> None:
    broker.down = True
    for method, path in (("POST", "/messages"), ("PATCH", "/messages/t"), ("DELETE", "/messages/t")):
        body = None if method == "DELETE" else {"topic": "x"} if method == "POST" else {"partitions": 2}
        assert client.open(path, method=method, json=body).status_code == 503, method


# Rights


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/messages"), ("PATCH", "/messages/t"), ("DELETE", "/messages/t")]
)
def test_administration_without_topic_admin_returns_403_before_anything_else(
    make_client: ClientFactory, broker: FakeBroker, method: str, path: str
) -> None:
    client = make_client()
    for sent in (path, f"{path}?unknown=1", path.replace("/t", "/no!")):
        response = client.open(sent, method=method, data=b"{")
        assert response.status_code == response.json["error"]["code"] // 100 == 403
        assert (response.json["error"]["code"], response.json["error"]["setting"]) == (40302, "topic_admin")
    assert broker.topics() == ["t", "three"]


def test_topic_admin_is_ignored_with_authentication(make_client: ClientFactory, tmp_path: Any) -> None:
    keys = KeyFile(tmp_path / "keys.toml", ("admin", "reader"))
    access = {"reader": {"read": ["*"], "publish": ["*"], "consumer": ["*"]}, "admin": {"admin": True}}
    client = make_client(topic_admin=True, auth={"keys": str(keys.path)}, access=access)
    refused = client.post("/messages", json=NEW, headers=keys.headers("reader"))
    assert (refused.status_code, refused.json["error"]["right"]) == (403, "admin")
    assert client.delete("/messages/t", headers=keys.headers("reader")).status_code == 403
    client = make_client(auth={"keys": str(keys.path)}, access=access)
    assert client.post("/messages", json=NEW, headers=keys.headers("admin")).status_code == 201
    assert client.delete("/messages/orders", headers=keys.headers("admin")).status_code == 204


# How to create a missing topic

CURL = """Create it: curl http://localhost/messages -d '{"topic": "nope"}'"""


@pytest.mark.parametrize("is_fast_path", [False, True], ids=["views", "fast path"])
@pytest.mark.parametrize("call", ["PUT /messages/nope", "POST /messages/nope"])
def test_publish_to_a_missing_topic_says_how_to_create_it(
    client: FlaskClient, make_client: ClientFactory, call: str
) -> None:
    method, path = call.split()
    for headers in ({}, {"Idempotency-Key": "one"}):
        message = error(client.open(path, method=method, json=[1], headers=headers))[2]
        assert message == f"Topic not found: nope. GET /messages lists the topics. {CURL}"
    off = error(make_client().open(path, method=method, json=[1]))
    assert off[:2] == (404, 40401)
    assert off[2].endswith("Create it in Kafka, or let clients create topics: set topic_admin (--topic-admin).")


@pytest.mark.parametrize(
    "call",
    ["GET /messages/nope", "PATCH /messages/nope", "DELETE /messages/nope", "GET /messages/nope/me/earliest"],
)
def test_calls_on_a_missing_topic_say_how_to_create_it(client: FlaskClient, call: str) -> None:
    method, path = call.split()
    body = {"partitions": 3} if method == "PATCH" else None
    assert error(client.open(path, method=method, json=body))[2].endswith(CURL)


@pytest.mark.parametrize("is_fast_path", [False, True], ids=["views", "fast path"])
def test_hint_names_the_url_that_the_client_uses(make_client: ClientFactory) -> None:
    client = make_client(topic_admin=True, base_url="https://example.org/kafka")
    assert (
        "curl https://example.org/kafka/messages -d" in client.put("/messages/nope", data=b"1").json["error"]["message"]
    )
    client = make_client(topic_admin=True, trusted_proxies=["127.0.0.1"])
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.org"}
    message = client.put("/messages/nope", data=b"1", headers=forwarded).json["error"]["message"]
    assert "curl https://example.org/messages -d" in message or 'POST /messages {"topic": "nope"}' in message


@pytest.mark.parametrize("is_fast_path", [False, True], ids=["views", "fast path"])
def test_hint_with_authentication_depends_on_the_right_admin(make_client: ClientFactory, tmp_path: Any) -> None:
    keys = KeyFile(tmp_path / "keys.toml", ("admin", "writer"))
    rights = {"publish": ["*"], "read": ["*"]}
    client = make_client(
        auth={"keys": str(keys.path)}, access={"writer": rights, "admin": {**rights, "admin": True}}, topic_admin=True
    )
    for method, path in (("PUT", "/messages/nope"), ("GET", "/messages/nope")):
        messages = {
            each: error(client.open(path, method=method, headers=keys.headers(each)))[2] for each in ("admin", "writer")
        }
        assert messages["admin"].endswith(CURL)
        assert messages["writer"].endswith("Only a principal with the right admin can create it.")


def test_hint_for_a_topic_that_is_hidden_does_not_name_topic_admin(make_client: ClientFactory, tmp_path: Any) -> None:
    """The access check refuses it before the views know the principal. topic_admin does not help its clients."""
    keys = KeyFile(tmp_path / "keys.toml", ("reader",))
    for topic_admin in (False, True):
        client = make_client(auth={"keys": str(keys.path)}, access={"reader": {"read": ["t"]}}, topic_admin=topic_admin)
        for topic in ("three", "nope"):
            message = error(client.get(f"/messages/{topic}", headers=keys.headers("reader")))[2]
            assert message.endswith("Only a principal with the right admin can create it.")


def test_hint_has_no_command_for_an_illegal_name(make_client: ClientFactory, tmp_path: Any) -> None:
    """A name from a URL must not become a part of a command."""
    keys = KeyFile(tmp_path / "keys.toml", ("reader",))
    client = make_client(auth={"keys": str(keys.path)}, access={"reader": {"read": ["t"]}})
    response = client.get("/messages/'; rm -rf ~;'", headers=keys.headers("reader"))
    assert (response.status_code, "reate it" in response.text) == (404, False)
