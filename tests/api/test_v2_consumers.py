"""Consumer instances of the REST Proxy v2 API, with an inline daemon and a fake broker."""

import base64
import json
import re
import threading
import time
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.records import NewRecord
from tests.api.conftest import ClientFactory, changed_environ
from tests.support.fake_broker import FakeBroker
from tests.support.v2_consumer import (
    AVRO_V2,
    BINARY_V2,
    JSON_V2,
    NOT_FOUND,
    ONE_WAY,
    PARTITIONS,
    V2,
    Consumer,
    error,
    refer,
    send,
    write,
)

# create


def test_create_without_body_returns_instance_with_generated_name(client: FlaskClient, broker: FakeBroker) -> None:
    answer = client.post("/consumers/g")
    assert (answer.status_code, answer.content_type) == (200, V2)
    name = answer.json["instance_id"]
    assert re.fullmatch(r"rest-consumer-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name)
    assert answer.json == {"instance_id": name, "base_uri": f"http://localhost/consumers/g/instances/{name}"}
    write(broker, b"\xff")
    send(client, "POST", f"/consumers/g/instances/{name}/subscription", {"topics": ["t"]})
    answer = client.get(f"/consumers/g/instances/{name}/records")
    assert answer.content_type == BINARY_V2
    assert [each["value"] for each in answer.json] == [base64.b64encode(b"\xff").decode()]


@pytest.mark.parametrize("body", [b"{}", b"  {}  ", b'{"name": null, "id": null, "format": null}'])
def test_create_with_empty_object_generates_name(client: FlaskClient, body: bytes) -> None:
    assert send(client, "POST", "/consumers/g", body).json["instance_id"].startswith("rest-consumer-")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"name": "a.B_c-1"}, "a.B_c-1"),
        ({"name": "x" * 200}, "x" * 200),
        ({"id": "mine"}, "mine"),
        ({"id": "1", "name": "n"}, "n"),
    ],
)
def test_create_with_name_or_id_uses_it(client: FlaskClient, body: Any, name: str) -> None:
    answer = send(client, "POST", "/consumers/g", body).json
    assert answer == {"instance_id": name, "base_uri": f"http://localhost/consumers/g/instances/{name}"}


@pytest.mark.parametrize(
    ("name", "quoted"),
    [("host:8080", "host%3A8080"), ("a@b", "a%40b"), ("a b", "a%20b"), ("é", "%C3%A9"), ("a%2Fb", "a%252Fb")],
)
def test_create_with_printable_name_returns_base_uri_that_works(
    client: FlaskClient, broker: FakeBroker, name: str, quoted: str
) -> None:
    answer = send(client, "POST", "/consumers/g", {"name": name, "format": "json"}).json
    assert answer == {"instance_id": name, "base_uri": f"http://localhost/consumers/g/instances/{quoted}"}
    path = answer["base_uri"].removeprefix("http://localhost")
    assert send(client, "POST", f"{path}/subscription", {"topics": ["t"]}).status_code == 204
    write(broker, b"1")
    assert [each["value"] for each in client.get(f"{path}/records").json] == [1]
    (member_id,) = broker.memberships.member_ids("g")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", member_id), "Kafka allows no other characters"
    assert client.delete(path).status_code == 204


def test_create_with_slash_in_name_quotes_it(client: FlaskClient) -> None:
    answer = send(client, "POST", "/consumers/g", {"name": "a/b"}).json
    assert answer["base_uri"] == "http://localhost/consumers/g/instances/a%2Fb"


@pytest.mark.parametrize("name", ["", "a\nb", "\u200b", "x" * 201, ".", "..", 5, ["a"], {"a": 1}, True])
@pytest.mark.parametrize("field", ["name", "id"])
def test_create_with_invalid_name_returns_422(client: FlaskClient, field: str, name: Any) -> None:
    status, code, message = error(send(client, "POST", "/consumers/g", {field: name}))
    assert (status, code) == (422, 422)
    assert "name" in message


@pytest.mark.parametrize("group", ["x" * 250, "a%0ab", ".."])
def test_create_with_invalid_group_returns_422(client: FlaskClient, group: str) -> None:
    assert error(client.post(f"/consumers/{group}"))[:2] == (422, 422)


def test_base_uri_quotes_the_group(client: FlaskClient) -> None:
    answer = send(client, "POST", "/consumers/my%20group", {"name": "c"}).json
    assert answer["base_uri"] == "http://localhost/consumers/my%20group/instances/c"
    assert client.delete("/consumers/my%20group/instances/c").status_code == 204


@pytest.mark.parametrize(
    "settings",
    [
        {"format": "json"},
        {"format": "JSON"},
        {"format": "binary"},
        {"format": "text"},
        {"auto.offset.reset": "latest"},
        {"auto.commit.enable": "false"},
        {"enable.auto.commit": False},
        {"fetch.min.bytes": 1000, "fetch.max.bytes": "1000000", "max.poll.records": "5"},
        {"fetch.min.bytes": -1},
        {"isolation.level": "read_committed"},
        {"consumer.request.timeout.ms": "500"},
        {"some.other.setting": [1], "x.y": None},
    ],
)
def test_create_with_valid_settings_returns_200(client: FlaskClient, settings: Any) -> None:
    assert send(client, "POST", "/consumers/g", settings).status_code == 200


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"format": "nope"}, ["format", "'nope'", "json", "binary"]),
        ({"format": "avro"}, ["format", "schema_registry.url"]),
        ({"auto.offset.reset": "sometimes"}, ["auto.offset.reset", "earliest", "latest"]),
        ({"auto.commit.enable": "perhaps"}, ["auto.commit.enable", "true"]),
        ({"enable.auto.commit": 1}, ["enable.auto.commit", "true"]),
        ({"fetch.min.bytes": "many"}, ["fetch.min.bytes", "many"]),
        ({"fetch.max.bytes": 0}, ["fetch.max.bytes"]),
        ({"max.poll.records": 1.5}, ["max.poll.records"]),
        ({"isolation.level": "snapshot"}, ["isolation.level", "read_committed"]),
        ({"consumer.request.timeout.ms": -1}, ["consumer.request.timeout.ms"]),
    ],
)
def test_create_with_invalid_setting_returns_42204(client: FlaskClient, settings: Any, says: list[str]) -> None:
    status, code, message = error(send(client, "POST", "/consumers/g", {"name": "c", **settings}))
    assert (status, code) == (422, 42204)
    assert message.startswith("Invalid consumer configuration: ")
    assert all(each in message for each in says)
    assert error(client.delete("/consumers/g/instances/c")) == NOT_FOUND


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("auto.comit.enable", "auto.commit.enable"),
        ("auto.offset.rest", "auto.offset.reset"),
        ("Enable.Auto.Commit", "enable.auto.commit"),
        ("auto_offset_reset", "auto.offset.reset"),
        ("fetch.nim.bytes", "fetch.min.bytes"),
        ("formt", "format"),
    ],
)
def test_create_with_misspelled_setting_returns_42204_with_suggestion(
    client: FlaskClient, field: str, meant: str
) -> None:
    status, code, message = error(send(client, "POST", "/consumers/g", {"name": "c", field: "json"}))
    assert (status, code) == (422, 42204)
    assert message.startswith(f"Invalid consumer configuration: {field}: ")
    assert message.endswith(f"Did you mean {meant}?")
    assert error(client.delete("/consumers/g/instances/c")) == NOT_FOUND


def test_create_with_setting_of_another_server_logs_it_at_debug(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", "kafka_http.web.rest_v2.consumer_bodies"):
        assert send(client, "POST", "/consumers/g", {"request.timeout.ms": 5, "group.id": "g"}).status_code == 200
    assert [each.levelname for each in caplog.records if "request.timeout.ms" in each.message] == ["DEBUG"]


def test_create_with_group_instance_id_returns_42204(client: FlaskClient) -> None:
    status, code, message = error(send(client, "POST", "/consumers/g", {"group.instance.id": "me"}))
    assert (status, code) == (422, 42204)
    assert "group.instance.id" in message
    assert "Leave the field out" in message


@pytest.mark.parametrize(("field", "value"), [("format", ["json"]), ("max.poll.records", {}), ("surname", "x")])
def test_create_with_invalid_field_returns_422(client: FlaskClient, field: str, value: Any) -> None:
    status, code, message = error(send(client, "POST", "/consumers/g", {field: value}))
    assert (status, code) == (422, 422)
    assert field in message


@pytest.mark.parametrize("body", [b"[]", b"nope", b'"c"', b"1"])
def test_create_with_body_that_is_not_a_json_object_returns_400(client: FlaskClient, body: bytes) -> None:
    assert error(send(client, "POST", "/consumers/g", body))[:2] == (400, 400)


def test_create_with_existing_name_returns_40902(client: FlaskClient) -> None:
    Consumer(client)
    Consumer(client, group="other")
    assert error(send(client, "POST", "/consumers/g", {"name": "c"})) == (
        409,
        40902,
        "Consumer with specified consumer ID already exists in the specified consumer group.",
    )


def test_create_over_max_consumer_instances_returns_503_with_retry_after(make_client: ClientFactory) -> None:
    client = make_client(max_consumer_instances=1)
    consumer = Consumer(client)
    answer = client.post("/consumers/g")
    assert error(answer)[:2] == (503, 503)
    assert int(answer.headers["Retry-After"]) >= 1
    consumer.done("DELETE", "")
    assert client.post("/consumers/g").status_code == 200


@pytest.mark.parametrize(("reset", "seen"), [("earliest", ["old", "new"]), ("latest", ["new"])])
@pytest.mark.parametrize("how", ["setting", "field", "field over setting"])
def test_new_group_starts_at_auto_offset_reset(
    make_client: ClientFactory, broker: FakeBroker, how: str, reset: str, seen: list[str]
) -> None:
    other = "latest" if reset == "earliest" else "earliest"
    of_the_server = {"field": "earliest", "setting": reset}.get(how, other)
    client = make_client(consumer_auto_offset_reset=of_the_server)
    write(broker, b'"old"')
    consumer = Consumer(client, **({} if how == "setting" else {"auto.offset.reset": reset})).subscribed()
    first = consumer.values(timeout=100)
    write(broker, b'"new"')
    assert first + consumer.values() == seen


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({}, "http://localhost"),
        ({"Host": "kafka:8082"}, "http://kafka:8082"),
        ({"X-Forwarded-Host": "example.org"}, "http://example.org"),
        (
            {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.org:8443", "X-Forwarded-Prefix": "/rest"},
            "https://example.org:8443/rest",
        ),
        ({"Forwarded": 'for=1.2.3.4;proto=https;host="example.org:81"'}, "https://example.org:81"),
        ({"Forwarded": "host=one.org;proto=https", "X-Forwarded-Host": "two.org"}, "https://one.org"),
        ({"X-Forwarded-Host": "my_service:8080"}, "http://my_service:8080"),
        ({"X-Forwarded-Host": "[1::2::3]"}, "http://localhost"),
        ({"X-Forwarded-Host": "a..b"}, "http://localhost"),
        ({"Host": "a_b.localhost:"}, "http://a_b.localhost"),
    ],
)
def test_base_uri_behind_trusted_proxy_uses_forwarded_headers(
    make_client: ClientFactory, headers: dict[str, str], base: str
) -> None:
    answer = send(make_client(allowed_hosts=["kafka"]), "POST", "/consumers/g", {"name": "c"}, **headers)
    assert answer.json["base_uri"] == f"{base}/consumers/g/instances/c"


@pytest.mark.parametrize("host", ["[1::2::3]", "a..b", "kafka:99999"])
def test_create_with_malformed_host_returns_400_and_creates_nothing(make_client: ClientFactory, host: str) -> None:
    client = make_client(bind="0.0.0.0:8082")
    with changed_environ(client, HTTP_HOST=host):
        assert error(send(client, "POST", "/consumers/g", {"name": "c"}))[:2] == (400, 400)
    assert send(client, "POST", "/consumers/g", {"name": "c"}).status_code == 200


def test_base_uri_from_untrusted_address_ignores_forwarded_headers(client: FlaskClient) -> None:
    answer = client.post(
        "/consumers/g",
        json={"name": "c"},
        headers={"X-Forwarded-Host": "evil.org", "Forwarded": "host=evil.org"},
        environ_overrides={"REMOTE_ADDR": "203.0.113.5"},
    )
    assert answer.json["base_uri"] == "http://localhost/consumers/g/instances/c"


def test_base_uri_uses_the_base_url_setting(make_client: ClientFactory) -> None:
    client = make_client(base_url="https://kafka.example.org/rest/")
    answer = send(client, "POST", "/consumers/g", {"name": "c"}, **{"X-Forwarded-Host": "other.org"})
    assert answer.json["base_uri"] == "https://kafka.example.org/rest/consumers/g/instances/c"


# delete, and calls of unknown instances


def test_delete_removes_instance_and_frees_its_name(client: FlaskClient) -> None:
    consumer = Consumer(client)
    consumer.done("DELETE", "")
    assert error(consumer.call("DELETE")) == NOT_FOUND
    Consumer(client)


@pytest.mark.parametrize("content_type", [V2, JSON_V2, "text/plain"])
def test_post_without_body_deletes_instance(client: FlaskClient, content_type: str) -> None:
    consumer = Consumer(client)
    answer = consumer.call("POST", "", {"records": []})
    assert error(answer)[:2] == (400, 400)
    assert consumer.call("POST", "", None, **{"Content-Type": content_type}).status_code == 204
    assert error(consumer.call("POST")) == NOT_FOUND


CALLS = [
    ("DELETE", "", None),
    ("POST", "", None),
    ("POST", "/subscription", {"topics": ["t"]}),
    ("GET", "/subscription", None),
    ("DELETE", "/subscription", None),
    ("POST", "/assignments", PARTITIONS),
    ("GET", "/assignments", None),
    ("POST", "/positions", {"offsets": [{"topic": "t", "partition": 0, "offset": 0}]}),
    ("POST", "/positions", {"timestamps": [{"topic": "t", "partition": 0, "timestamp": "2026-11-21T10:00:00Z"}]}),
    ("POST", "/positions/beginning", PARTITIONS),
    ("POST", "/positions/end", PARTITIONS),
    ("POST", "/offsets", None),
    ("GET", "/offsets", PARTITIONS),
    ("GET", "/offsets?topic=t&partition=0", None),
    ("GET", "/records", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_call_of_unknown_instance_returns_40403(client: FlaskClient, method: str, path: str, body: Any) -> None:
    Consumer(client)
    assert error(send(client, method, f"/consumers/g/instances/other{path}", body)) == NOT_FOUND
    assert error(send(client, method, f"/consumers/other/instances/c{path}", body)) == NOT_FOUND


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
@pytest.mark.parametrize("content_type", [None, "application/json", JSON_V2, AVRO_V2, "application/vnd.kafka.v1+json"])
def test_all_calls_accept_all_v2_media_types(
    client: FlaskClient, method: str, path: str, body: Any, content_type: str | None
) -> None:
    consumer = Consumer(client)
    if "subscription" not in path:
        consumer.assigned()
    answer = client.open(
        consumer.path + path,
        method=method,
        data=None if body is None else json.dumps(body),
        headers={"Accept": "application/json"} if content_type is None else {"Accept": content_type},
        content_type=content_type,
    )
    if path == "/records" and content_type == AVRO_V2:
        assert answer.status_code == 406
    else:
        assert answer.status_code in {200, 204}, answer.text


@pytest.mark.parametrize(("method", "path", "body"), [call for call in CALLS if call[2] is not None])
@pytest.mark.parametrize("content_type", ["text/plain", "application/vnd.kafka.v3+json"])
def test_unknown_content_type_returns_415(
    client: FlaskClient, method: str, path: str, body: Any, content_type: str
) -> None:
    answer = Consumer(client).assigned().call(method, path, body, **{"Content-Type": content_type})
    assert error(answer)[:2] == (415, 415)
    assert V2 in answer.json["message"]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
@pytest.mark.parametrize("accept", ["text/html", "application/vnd.kafka.v3+json"])
def test_unsatisfiable_accept_returns_406(client: FlaskClient, method: str, path: str, body: Any, accept: str) -> None:
    consumer = Consumer(client)
    assert error(consumer.call(method, path, body, Accept=accept))[:2] == (406, 406)
    consumer.done("DELETE", "")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/consumers/g", {"GET", "POST", "DELETE"}),
        ("GET", "/consumers/g/instances/c", {"DELETE", "POST"}),
        ("PUT", "/consumers/g/instances/c/subscription", {"GET", "POST", "DELETE"}),
        ("GET", "/consumers/g/instances/c/positions", {"POST"}),
        ("POST", "/consumers/g/instances/c/records", {"GET"}),
    ],
)
def test_wrong_method_returns_405_with_allow(client: FlaskClient, method: str, path: str, allowed: set[str]) -> None:
    answer = client.open(path, method=method)
    assert error(answer)[:2] == (405, 405)
    assert set(answer.headers["Allow"].split(", ")) - {"HEAD", "OPTIONS"} == allowed


def test_head_of_records_returns_405_and_reads_nothing(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1")
    consumer = Consumer(client).assigned()
    assert client.head(f"{consumer.path}/records").status_code == 405
    assert consumer.values() == [1]


def test_empty_path_segments_are_ignored(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1")
    answer = client.post("/", json={"name": "c", "format": "json"}, environ_overrides={"PATH_INFO": "//consumers//g/"})
    assert answer.status_code == 200
    for path, body in (("subscription/", {"topics": ["t"]}), ("positions//beginning/", PARTITIONS)):
        overrides = {"PATH_INFO": f"/consumers/g/instances//c/{path}"}
        assert client.post("/", json=body, environ_overrides=overrides).status_code == 204
    answer = client.get("/", environ_overrides={"PATH_INFO": "/consumers/g/instances/c/records/"})
    assert [each["value"] for each in answer.json] == [1]
    answer = client.delete("/", environ_overrides={"PATH_INFO": "/consumers/g/instances/c/"})
    assert answer.status_code == 204


# subscription


def test_subscription_replaces_the_one_before(client: FlaskClient, broker: FakeBroker) -> None:
    consumer = Consumer(client)
    assert consumer.call("GET", "/subscription").json == {"topics": []}
    consumer.subscribed("t", "three")
    assert consumer.call("GET", "/subscription").json == {"topics": ["t", "three"]}
    write(broker, b"1")
    write(broker, b"2", topic="three", partition=2)
    assert sorted(consumer.values()) == [1, 2]
    consumer.subscribed("three")
    assert consumer.call("GET", "/subscription").json == {"topics": ["three"]}
    write(broker, b"3")
    write(broker, b"4", topic="three", partition=1)
    assert consumer.values() == [4]
    consumer.done("DELETE", "/subscription")
    assert consumer.call("GET", "/subscription").json == {"topics": []}
    assert error(consumer.call("GET", "/records"))[:2] == (409, 40903)


def test_subscription_with_pattern_reads_matching_topics(client: FlaskClient, broker: FakeBroker) -> None:
    for topic in ("orders-1", "orders-2", "my-orders-1", "orders-"):
        broker.create_topic(topic)
        write(broker, json.dumps(topic).encode(), topic=topic)
    consumer = Consumer(client)
    consumer.done("POST", "/subscription", {"topic_pattern": "orders-[0-9]"})
    assert consumer.call("GET", "/subscription").json == {"topics": ["orders-1", "orders-2"]}
    assert sorted(consumer.values()) == ["orders-1", "orders-2"]


@pytest.mark.parametrize("pattern", ["(", "(?=x)", r"(a)\1", "a" * 257])
def test_subscription_with_invalid_pattern_returns_422(client: FlaskClient, pattern: str) -> None:
    status, code, message = error(Consumer(client).call("POST", "/subscription", {"topic_pattern": pattern}))
    assert (status, code) == (422, 422)
    assert "topic_pattern" in message


@pytest.mark.parametrize(
    "body",
    [{}, {"topics": ["t"], "topic_pattern": "t"}, {"topics": [], "topic_pattern": ""}, {"topics": None}],
)
def test_subscription_with_both_or_neither_of_topics_and_pattern_returns_40903(client: FlaskClient, body: Any) -> None:
    assert error(Consumer(client).call("POST", "/subscription", body)) == (409, 40903, ONE_WAY)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"topics": "t"}, "topics"),
        ({"topics": [1]}, "topics"),
        ({"topics": {"t": 1}}, "topics"),
        ({"topic_pattern": 1}, "topic_pattern"),
        ({"topic_pattern": ["t"]}, "topic_pattern"),
        ({"topics": ["with space"]}, "topics[0]"),
    ],
)
def test_subscription_with_field_of_wrong_type_returns_422(client: FlaskClient, body: Any, field: str) -> None:
    status, code, message = error(Consumer(client).call("POST", "/subscription", body))
    assert (status, code) == (422, 422)
    assert field in message


@pytest.mark.parametrize("body", [{"topics": []}, {"topics": [], "topic_pattern": None}])
@pytest.mark.parametrize("how", ["subscribed", "assigned"])
def test_subscription_to_no_topics_unsubscribes(client: FlaskClient, broker: FakeBroker, how: str, body: Any) -> None:
    write(broker, b"0", b"1")
    consumer = getattr(Consumer(client), how)()
    assert consumer.values() == [0, 1]
    consumer.done("POST", "/subscription", body)
    assert consumer.call("GET", "/subscription").json == {"topics": []}
    assert consumer.call("GET", "/assignments").json == {"partitions": []}
    assert error(consumer.call("GET", "/records"))[:2] == (409, 40903)
    assert consumer.committed() == [("t", 0, 2)], "auto commit commits delivered records"
    consumer.assigned(("three", 0))


@pytest.mark.parametrize(
    ("path", "body", "known"),
    [
        ("/subscription", {"topics": ["t"], "pattern": "x"}, "topics, topic_pattern"),
        ("/assignments", {**PARTITIONS, "topics": []}, "partitions"),
        ("/positions", {"offsets": [], "timestamp": []}, "offsets, timestamps"),
        ("/positions/beginning", {**PARTITIONS, "offsets": []}, "partitions"),
        ("/positions/end", {**PARTITIONS, "offsets": []}, "partitions"),
        ("/offsets", PARTITIONS, "offsets"),
        ("/offsets", {"Offsets": [{**refer("t", 0), "offset": 0}]}, "offsets"),
        ("/offsets", {"offsets": None, "offset": 1}, "offsets"),
    ],
)
def test_unknown_field_returns_422_that_names_it(
    client: FlaskClient, broker: FakeBroker, path: str, body: Any, known: str
) -> None:
    """A commit with `{"partitions": …}` committed all delivered records."""
    write(broker, b"0", b"1")
    consumer = Consumer(client, **{"auto.commit.enable": False}).assigned()
    consumer.values(max_poll_records=1)
    status, code, message = error(consumer.call("POST", path, body))
    assert (status, code) == (422, 422)
    unknown = next(each for each in body if each not in known.split(", "))
    assert f"unknown field {unknown!r}." in message
    assert message.endswith(f"Known fields: {known}.")
    assert consumer.committed() == []
    assert consumer.values() == [1], "the request must have no effect"


def test_integers_in_quotes_are_accepted(client: FlaskClient, broker: FakeBroker) -> None:
    """Some clients quote all values."""
    write(broker, b"0", b"1", b"2")
    consumer, place = Consumer(client), {"topic": "t", "partition": "0"}
    consumer.done("POST", "/assignments", {"partitions": [place]})
    consumer.done("POST", "/positions", {"offsets": [{**place, "offset": "1"}]})
    assert consumer.values() == [1, 2]
    assert consumer.call("POST", "/offsets", {"offsets": [{**place, "offset": "0"}]}).json == []
    assert consumer.committed() == [("t", 0, 1)]
    answer = consumer.call("GET", "/offsets", {"partitions": [place]})
    assert answer.json["offsets"][0]["offset"] == 1
    consumer.done("POST", "/positions/beginning", {"partitions": [place]})


@pytest.mark.parametrize("body", [None, b"nope", b"[]"])
@pytest.mark.parametrize("path", ["/subscription", "/assignments", "/positions", "/positions/end"])
def test_body_that_is_not_a_json_object_returns_400(client: FlaskClient, path: str, body: bytes | None) -> None:
    assert error(Consumer(client).call("POST", path, body))[:2] == (400, 400)


# assignments


def test_assignments_lists_and_reads_assigned_partitions(client: FlaskClient, broker: FakeBroker) -> None:
    consumer = Consumer(client)
    assert consumer.call("GET", "/assignments").json == {"partitions": []}
    consumer.assigned(("three", 2), ("t", 0))
    listed = consumer.call("GET", "/assignments").json
    assert listed == {"partitions": [refer("t", 0), refer("three", 2)]}
    write(broker, b"0", topic="three", partition=0)
    write(broker, b"2", topic="three", partition=2)
    write(broker, b"1")
    assert sorted(consumer.values()) == [1, 2]


def test_assignments_of_subscribed_instance_lists_its_partitions(client: FlaskClient) -> None:
    consumer = Consumer(client).subscribed("three")
    consumer.values(timeout=100)
    assert consumer.call("GET", "/assignments").json == {"partitions": [refer("three", each) for each in range(3)]}


def test_assign_after_subscribe_and_reverse_return_40903(client: FlaskClient) -> None:
    subscribed, assigned = Consumer(client).subscribed(), Consumer(client, name="other").assigned()
    for answer in (
        subscribed.call("POST", "/assignments", PARTITIONS),
        assigned.call("POST", "/subscription", {"topics": ["t"]}),
    ):
        status, code, message = error(answer)
        assert (status, code) == (409, 40903)
        assert message.startswith("Illegal state: ")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "partitions"),
        ({"partitions": "t-0"}, "partitions"),
        ({"partitions": [{"topic": "t"}]}, "partition"),
        ({"partitions": [{"topic": "t", "partition": "x"}]}, "partitions[0].partition"),
        ({"partitions": [{"topic": "t", "partition": -1}]}, "partitions[0].partition"),
        ({"partitions": [{"topic": 5, "partition": 0}]}, "partitions[0].topic"),
        ({"partitions": [{"topic": "with space", "partition": 0}]}, "partitions[0].topic"),
    ],
)
@pytest.mark.parametrize("path", ["/assignments", "/positions/beginning", "/positions/end"])
def test_partitions_of_wrong_type_return_422(client: FlaskClient, path: str, body: Any, field: str) -> None:
    status, code, message = error(Consumer(client).call("POST", path, body))
    assert (status, code) == (422, 422)
    assert field in message


def test_assign_of_unknown_partition_returns_40402(client: FlaskClient) -> None:
    answer = Consumer(client).call("POST", "/assignments", {"partitions": [refer("three", 3)]})
    assert error(answer) == (404, 40402, "Partition not found.")


@pytest.mark.parametrize("reset", ["earliest", "latest"])
def test_assignment_of_missing_topic_is_read_once_it_exists(
    client: FlaskClient, broker: FakeBroker, reset: str
) -> None:
    consumer = Consumer(client, **{"auto.offset.reset": reset}).assigned(("later", 1), ("t", 0))
    assert consumer.values(timeout=50) == []
    write(broker, b"0")
    assert consumer.values() == [0], "the other partition must be read"
    broker.create_topic("later", partitions=2)
    write(broker, b"1", topic="later", partition=1)
    assert consumer.values() == [1]
    assert consumer.call("POST", "/offsets").status_code == 200
    assert consumer.committed(("later", 1)) == [("later", 1, 1)]


def test_read_of_a_missing_topic_waits_until_it_exists(client: FlaskClient, broker: FakeBroker) -> None:
    consumer = Consumer(client).assigned(("later", 0))
    timer = threading.Timer(0.2, lambda: (broker.create_topic("later"), write(broker, b"1", topic="later")))
    timer.start()
    assert consumer.values(timeout=10_000) == [1]
    timer.join()


# positions


@pytest.mark.parametrize("how", ["subscribed", "assigned"])
def test_seek_to_offset_beginning_and_end_sets_the_position(client: FlaskClient, broker: FakeBroker, how: str) -> None:
    write(broker, b"0", b"1", b"2", b"3")
    consumer = getattr(Consumer(client), how)()
    consumer.done("POST", "/positions", {"offsets": [{**refer("t", 0), "offset": 2}]})
    assert consumer.values() == [2, 3]
    consumer.done("POST", "/positions/beginning", PARTITIONS)
    assert consumer.values() == [0, 1, 2, 3]
    consumer.done("POST", "/positions", {"offsets": [{**refer("t", 0), "offset": 3, "metadata": "x"}]})
    assert consumer.values() == [3]
    consumer.done("POST", "/positions", {"offsets": [{**refer("t", 0), "offset": 1}]})
    consumer.done("POST", "/positions/end", PARTITIONS)
    assert consumer.values(timeout=50) == []
    write(broker, b"4")
    assert consumer.values() == [4]


def test_seek_out_of_range_continues_at_auto_offset_reset(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"0", b"1")
    consumer = Consumer(client).assigned()
    consumer.done("POST", "/positions", {"offsets": [{**refer("t", 0), "offset": 1000}]})
    assert consumer.values() == [0, 1]
    consumer = Consumer(client, name="late", **{"auto.offset.reset": "latest"}).assigned()
    consumer.done("POST", "/positions", {"offsets": [{**refer("t", 0), "offset": 1000}]})
    assert consumer.values(timeout=50) == []


@pytest.mark.parametrize(
    ("time_", "seen"),
    [
        ("1970-01-01T00:00:01Z", [1, 2]),
        ("1970-01-01T00:00:01.001", [2]),
        ("1970-01-01T01:00:02+01:00", [2]),
        ("1960-01-01", [0, 1, 2]),
        ("2100-01-01T00:00:00Z", []),
    ],
)
def test_seek_by_timestamp_starts_at_the_first_record_since(
    client: FlaskClient, broker: FakeBroker, time_: str, seen: list[int]
) -> None:
    broker.publish("t", [NewRecord(b"%d" % each, timestamp=each * 1000) for each in range(3)], 1).result()
    consumer = Consumer(client).assigned()
    consumer.done("POST", "/positions", {"timestamps": [{**refer("t", 0), "timestamp": time_}]})
    assert consumer.values(timeout=50) == seen


def test_seek_by_offset_and_timestamp_in_one_request_sets_both_positions(
    client: FlaskClient, broker: FakeBroker
) -> None:
    broker.publish("t", [NewRecord(b"%d" % each) for each in range(3)], 1).result()
    write(broker, b"7", b"8", topic="three", partition=1)
    consumer = Consumer(client).assigned(("t", 0), ("three", 1))
    body = {
        "offsets": [{**refer("three", 1), "offset": 1}],
        "timestamps": [{**refer("t", 0), "timestamp": "2100-01-01T00:00:00Z"}],
    }
    consumer.done("POST", "/positions", body)
    assert consumer.values(timeout=50) == [8]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "offsets"),
        ({"offsets": [refer("t", 0)]}, "offset"),
        ({"offsets": [{**refer("t", 0), "offset": -1}]}, "offsets[0].offset"),
        ({"offsets": [{**refer("t", 0), "offset": "end"}]}, "offsets[0].offset"),
        ({"timestamps": [{**refer("t", 0), "timestamp": "yesterday"}]}, "timestamps[0].timestamp"),
        ({"timestamps": [{**refer("t", 0), "timestamp": 5}]}, "timestamps[0].timestamp"),
    ],
)
def test_seek_with_field_of_wrong_type_returns_422(client: FlaskClient, body: Any, field: str) -> None:
    status, code, message = error(Consumer(client).assigned().call("POST", "/positions", body))
    assert (status, code) == (422, 422)
    assert field in message


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/positions", {"offsets": [{**refer("three", 0), "offset": 1}]}),
        ("/positions", {"timestamps": [{**refer("three", 0), "timestamp": "2026-11-21T10:00:00Z"}]}),
        ("/positions/beginning", {"partitions": [refer("three", 0)]}),
        ("/positions/end", {"partitions": [refer("three", 0)]}),
    ],
)
@pytest.mark.parametrize("how", ["subscribed", "assigned", "neither"])
def test_seek_of_unassigned_partition_returns_40903(client: FlaskClient, how: str, path: str, body: Any) -> None:
    consumer = Consumer(client)
    if how != "neither":
        getattr(consumer, how)()
    status, code, message = error(consumer.call("POST", path, body))
    assert (status, code) == (409, 40903)
    assert message.startswith("Illegal state: ")


# offsets


@pytest.mark.parametrize("body", [None, b"", b"{}", b'{"offsets": null}'])
@pytest.mark.parametrize("how", ["subscribed", "assigned"])
def test_commit_without_offsets_commits_delivered_records(
    client: FlaskClient, broker: FakeBroker, how: str, body: bytes | None
) -> None:
    write(broker, b"0", b"1", b"2")
    consumer = getattr(Consumer(client, **{"auto.commit.enable": False}), how)()
    answer = consumer.call("POST", "/offsets", body)
    assert (answer.status_code, answer.json, answer.content_type) == (200, [], V2)
    assert consumer.committed() == []
    assert consumer.values(max_poll_records=2) == [0, 1]
    assert consumer.call("POST", "/offsets", body).status_code == 200
    assert consumer.committed() == [("t", 0, 2)]
    consumer.done("POST", "/positions", {"offsets": [{**refer("t", 0), "offset": 0}]})
    consumer.call("POST", "/offsets", body)
    assert consumer.committed() == [("t", 0, 2)]


def test_commit_with_offsets_commits_them(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"0", b"1", b"2")
    consumer = Consumer(client).assigned()
    body = {"offsets": [{**refer("t", 0), "offset": 1, "metadata": "half"}]}
    assert consumer.call("POST", "/offsets", body).json == []
    answer = consumer.call("GET", "/offsets", PARTITIONS)
    assert answer.json == {"offsets": [{**refer("t", 0), "offset": 2, "metadata": "half"}]}
    assert consumer.call("POST", "/offsets", {"offsets": []}).json == []
    assert consumer.committed() == [("t", 0, 2)]
    consumer.done("DELETE", "")
    assert Consumer(client, name="next").assigned().values() == [2], "the record after the committed one"


def test_committed_offsets_are_selected_by_query_or_body(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1", topic="three", partition=1)
    consumer = Consumer(client).assigned(("three", 1))
    consumer.call("POST", "/offsets", {"offsets": [{**refer("three", 1), "offset": 0}]})
    one = {"offsets": [{**refer("three", 1), "offset": 1, "metadata": ""}]}
    assert consumer.call("GET", "/offsets?topic=three&partition=1").json == one
    assert consumer.call("GET", "/offsets?topic=three&partition=0&partition=1&partition=2").json == one
    assert consumer.call("GET", "/offsets", {"partitions": [refer("three", each) for each in range(3)]}).json == one
    assert consumer.call("GET", "/offsets?topic=three&partition=0").json == {"offsets": []}


@pytest.mark.parametrize("query", ["", "?topic=t", "?partition=0", "?topic=t&partition=x", "?topic=t&partition=-1"])
def test_committed_offsets_without_partitions_returns_422(client: FlaskClient, query: str) -> None:
    assert error(Consumer(client).assigned().call("GET", f"/offsets{query}"))[:2] == (422, 422)


@pytest.mark.parametrize(
    "offsets",
    [
        "all",
        [refer("t", 0)],
        [{**refer("t", 0), "offset": -1}],
        [{**refer("t", 0), "offset": 1}, {**refer("t", 0), "offset": 0, "metadata": "m" * 4097}],
    ],
)
def test_commit_with_field_of_wrong_type_returns_422(client: FlaskClient, offsets: Any) -> None:
    answer = Consumer(client).assigned().call("POST", "/offsets", {"offsets": offsets})
    assert error(answer)[:2] == (422, 422)
    assert "offsets" in answer.json["message"]


@pytest.mark.parametrize("how", ["subscribed", "assigned"])
@pytest.mark.parametrize(
    ("missing", "expected"),
    [(refer("nope", 0), (404, 40401, "Topic not found.")), (refer("t", 1), (404, 40402, "Partition not found."))],
)
def test_commit_of_missing_partition_returns_404_and_commits_nothing(
    client: FlaskClient, broker: FakeBroker, how: str, missing: Any, expected: Any
) -> None:
    write(broker, b"0", b"1")
    consumer = getattr(Consumer(client), how)()
    consumer.values(max_poll_records=1)
    body = {"offsets": [{**refer("t", 0), "offset": 0}, {**missing, "offset": 0}]}
    assert error(consumer.call("POST", "/offsets", body)) == expected
    assert consumer.committed() == []


@pytest.mark.parametrize("body", [None, {"offsets": [{**refer("t", 0), "offset": 1}]}])
def test_commit_includes_control_records_at_the_end_of_the_log(
    client: FlaskClient, broker: FakeBroker, body: Any
) -> None:
    write(broker, b"0", b"1")
    broker.pass_over("t")
    consumer = Consumer(client, **{"auto.commit.enable": False}).assigned()
    assert consumer.values() == [0, 1]
    assert consumer.call("POST", "/offsets", body).status_code == 200
    assert consumer.committed() == [("t", 0, 3)]
    broker.pass_over("t", count=2)
    assert consumer.call("POST", "/offsets", body).status_code == 200
    assert consumer.committed() == [("t", 0, 5)], "without another read"


def test_commit_before_the_last_record_excludes_later_control_records(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"0")
    broker.pass_over("t")
    write(broker, b"1")
    consumer = Consumer(client).assigned()
    assert consumer.call("POST", "/offsets", {"offsets": [{**refer("t", 0), "offset": 0}]}).status_code == 200
    assert consumer.committed() == [("t", 0, 1)]


def test_auto_commit_includes_control_records_that_were_read(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"0")
    consumer = Consumer(client).subscribed()
    assert consumer.values() == [0]
    broker.pass_over("t")
    assert consumer.values(timeout=50) == []
    consumer.done("DELETE", "")
    assert Consumer(client, name="other").committed() == [("t", 0, 2)]


def test_new_instance_continues_after_committed_offset(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"0", b"1", b"2")
    first = Consumer(client).subscribed()
    first.values(max_poll_records=1)
    first.call("POST", "/offsets")
    first.done("DELETE", "")
    assert Consumer(client).subscribed().values() == [1, 2]


@pytest.mark.parametrize(("auto_commit", "seen"), [(True, [2]), (False, [0, 1, 2])])
def test_delete_commits_with_auto_commit_only(
    client: FlaskClient, broker: FakeBroker, auto_commit: bool, seen: list[int]
) -> None:
    write(broker, b"0", b"1")
    consumer = Consumer(client, **{"auto.commit.enable": auto_commit}).subscribed()
    assert consumer.values() == [0, 1]
    consumer.done("DELETE", "")
    write(broker, b"2")
    assert Consumer(client).subscribed().values() == seen


# idleness


def test_idle_instance_is_removed_and_commits_nothing(make_client: ClientFactory, broker: FakeBroker) -> None:
    write(broker, b"0")
    client = make_client(consumer_idle_timeout=1)
    consumer = Consumer(client).subscribed()
    assert consumer.values() == [0]
    used = Consumer(client, name="used")
    deadline = time.monotonic() + 10
    while used.call("GET", "/subscription").status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        answer = send(client, "POST", "/consumers/g", {"name": "c"})
        if answer.status_code == 200:
            break
        assert answer.json["error_code"] == 40902
    else:
        pytest.fail("the instance in use was removed")
    assert Consumer(client, name="next").subscribed().values() == [0]


def test_instances_lists_all_instances(client: FlaskClient) -> None:
    assert client.get("/instances").json == {"instances": []}
    for group, name in (("h", "a"), ("g", "c"), ("g", "b"), ("g", "a")):
        send(client, "POST", f"/consumers/{group}", {"name": name, "format": "json"})
    send(client, "POST", "/consumers/g/instances/a/subscription", {"topics": ["t", "three"]})
    send(client, "POST", "/consumers/g/instances/b/subscription", {"topic_pattern": "t.*"})
    send(client, "POST", "/consumers/g/instances/c/assignments", {"partitions": [{"topic": "three", "partition": 2}]})
    assert client.get("/instances").json == {
        "instances": [
            {"group": "g", "name": "a", "format": "json", "topics": ["t", "three"]},
            {"group": "g", "name": "b", "format": "json", "pattern": "t.*"},
            {"group": "g", "name": "c", "format": "json", "partitions": [{"topic": "three", "partition": 2}]},
            {"group": "h", "name": "a", "format": "json"},
        ]
    }
    assert client.get("/instances?group=g").status_code == 400
