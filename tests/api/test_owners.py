"""What belongs to a principal: tasks, idempotency keys, consumer instances. Lists show only what it may see."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.security.access import ALL_RIGHTS, Rights
from kafka_http.security.principal import KeyRestriction
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.polling import wait_for
from tests.support.stub_access import CHALLENGE, StubAccess, names
from tests.support.v2_consumer import V2, next_lease, refer, write

ASYNC = {"Prefer": "respond-async"}
INSTANCE = "/consumers/g/instances/i"
ALICE = Rights(publish=names("t"), read=names("t", "logs-a"), consumer=names("g"))
RIGHTS = {
    "alice": ALICE,
    "bob": Rights(publish=names("*"), read=names("*"), consumer=names("*")),
    "carol": Rights(),
    "root": ALL_RIGHTS,
}
Call = Callable[..., Any]


@pytest.fixture
def access(monkeypatch: pytest.MonkeyPatch) -> StubAccess:
    access = StubAccess(RIGHTS)
    access.install(monkeypatch)
    return access


@pytest.fixture
def client(access: StubAccess, make_client: ClientFactory) -> FlaskClient:
    return make_client()


@pytest.fixture
def call(client: FlaskClient) -> Call:
    return calls_of(client)


def calls_of(client: FlaskClient) -> Call:
    """`call("alice", "GET", path, body)` sends a request with the key of a principal; None: without a key."""

    def call(who: str | None, method: str, path: str, body: Any = None, **headers: str) -> Any:
        sent = {"Content-Type": V2, **headers} | ({"X-Api-Key": f"kh_{who}"} if who else {})
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return client.open(path, method=method, data=data, headers=sent)

    return call


def reload(client: FlaskClient) -> None:
    client.application.extensions["kafka_http"].reload()


def revoke(client: FlaskClient, access: StubAccess) -> None:
    """Leave alice only what calls for an instance need."""
    access.rights["alice"] = Rights(consumer=names("g"))
    reload(client)


@pytest.fixture
def paused(broker: FakeBroker) -> Iterator[FakeBroker]:
    """A cluster that does not answer."""
    broker.down = True
    yield broker
    broker.down = False


def later(call: Call, who: str, topic: str = "t") -> str:
    """Publish later, and return the path of the task."""
    answer = call(who, "PUT", f"/messages/{topic}", b"x", **ASYNC, **{"Content-Type": "text/plain"})
    assert answer.status_code == 202, answer.text
    return str(answer.headers["Location"])


# Tasks


@pytest.mark.parametrize("is_fast_path", [False, True], ids=["views", "fast path"])
def test_task_of_another_principal_is_not_found(call: Call, paused: FakeBroker) -> None:
    task = later(call, "alice")
    for method, path in (("GET", task), ("GET", f"{task}?wait=30"), ("DELETE", task)):  # and it does not wait
        answer = call("bob", method, path)
        assert (answer.status_code, answer.json["error"]["code"]) == (404, 404)
    assert call("alice", "GET", task).json["task"]["owner"] == "alice"
    assert call("alice", "DELETE", task).json["task"]["status"] == "cancelled"


def test_task_of_another_principal_has_the_answer_of_a_missing_task(call: Call, paused: FakeBroker) -> None:
    task = later(call, "alice")
    missing = f"{task[:-4]}{'0000' if task[-4:] != '0000' else '1111'}"
    assert call("bob", "GET", task).data == call("bob", "GET", missing).data


def test_list_of_tasks_shows_those_of_the_principal_and_admin_sees_all(call: Call, paused: FakeBroker) -> None:
    alices, bobs = later(call, "alice"), later(call, "bob")

    def listed(who: str, query: str = "") -> list[str]:
        return [f"/tasks/{each['id']}" for each in call(who, "GET", f"/tasks{query}").json["tasks"]]

    assert listed("alice") == listed("alice", "?topic=t&status=pending") == [alices]
    assert listed("bob") == [bobs]
    assert listed("carol") == []
    assert listed("root") == [alices, bobs]
    assert call("root", "DELETE", alices).json["task"]["owner"] == "alice"


def test_task_from_before_authentication_needs_admin(
    make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch, paused: FakeBroker, tmp_path: Any
) -> None:
    open_client = make_client(data_dir=str(tmp_path / "node"))
    task = later(calls_of(open_client), "nobody")
    assert "owner" not in open_client.get(task).json["task"]
    open_client.application.extensions["kafka_http"].close(1)
    StubAccess(RIGHTS).install(monkeypatch)
    call = calls_of(make_client(data_dir=str(tmp_path / "node")))
    assert call("alice", "GET", task).status_code == call("alice", "DELETE", task).status_code == 404
    assert call("alice", "GET", "/tasks").json == {"tasks": []}
    assert call("root", "GET", task).status_code == 200


def test_task_keeps_its_owner_after_a_restart(
    access: StubAccess, make_client: ClientFactory, paused: FakeBroker, tmp_path: Any
) -> None:
    first = make_client(data_dir=str(tmp_path / "node"))
    task = later(calls_of(first), "alice")
    first.application.extensions["kafka_http"].close(1)
    call = calls_of(make_client(data_dir=str(tmp_path / "node")))
    assert [call(who, "GET", task).status_code for who in ("alice", "bob", "root")] == [200, 404, 200]


@pytest.mark.parametrize("path", ["/tasks", "/instances"])
def test_credentials_that_many_clients_share_cannot_list(
    access: StubAccess, make_client: ClientFactory, path: str, paused: FakeBroker
) -> None:
    """A page shows a `publish_only` key to everyone, and anyone may send requests without a key."""
    access.anonymous = frozenset(("publish",))
    access.rights["anonymous"] = ALICE
    access.restrictions["alice"] = KeyRestriction(publish_only=True)
    call = calls_of(make_client())
    task = later(call, "alice")
    assert call("alice", "GET", task).status_code == 200
    assert call("alice", "GET", path).status_code == 403
    refused = call(None, "GET", path)
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, CHALLENGE)


# Idempotency keys


@pytest.mark.parametrize("is_fast_path", [False, True], ids=["views", "fast path"])
def test_same_idempotency_key_of_two_principals_publishes_twice(call: Call, broker: FakeBroker) -> None:
    def publish(who: str, value: bytes) -> Any:
        return call(who, "PUT", "/messages/t", value, **{"Idempotency-Key": "k", "Content-Type": "text/plain"})

    assert [publish(who, b"x").json["records"][0]["offset"] for who in ("alice", "bob")] == [0, 1]
    replayed = publish("alice", b"x")
    assert replayed.headers["Idempotency-Replayed"] == "true"
    assert replayed.json["records"][0]["offset"] == 0
    assert [each.value for each in broker.records("t")] == [b"x", b"x"]
    assert publish("bob", b"other").status_code == 422


# Lists of topics


def test_lists_show_only_topics_that_may_be_described(call: Call) -> None:
    seen = {who: call(who, "GET", "/messages").json["topics"] for who in RIGHTS}
    assert seen == {"alice": ["t"], "bob": ["t", "three"], "carol": [], "root": ["t", "three"]}
    assert {who: call(who, "GET", "/topics").json for who in RIGHTS} == seen


# Instances of the v2 API


@pytest.fixture
def instance(call: Call) -> str:
    """An instance of alice that reads the topic `t`."""
    created(call, "alice")
    assert call("alice", "POST", f"{INSTANCE}/subscription", {"topics": ["t"]}).status_code == 204
    return INSTANCE


def created(call: Call, who: str) -> None:
    assert call(who, "POST", "/consumers/g", {"name": "i", "format": "json"}).status_code == 200


T0 = {"partitions": [refer("t", 0)]}
OFFSET = {"offsets": [{"topic": "t", "partition": 0, "offset": 0}]}
TIME = {"timestamps": [{"topic": "t", "partition": 0, "timestamp": "2026-11-21T10:00:00Z"}]}
CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/subscription", {"topics": ["t"]}),
    ("POST", "/subscription", {"topic_pattern": "t"}),
    ("GET", "/subscription", None),
    ("DELETE", "/subscription", None),
    ("POST", "/assignments", T0),
    ("GET", "/assignments", None),
    ("POST", "/positions", OFFSET),
    ("POST", "/positions", TIME),
    ("POST", "/positions/beginning", T0),
    ("POST", "/positions/end", T0),
    ("POST", "/offsets", OFFSET),
    ("POST", "/offsets", None),
    ("GET", "/offsets", T0),
    ("GET", "/records?timeout=0", None),
    ("DELETE", "", None),
    ("POST", "", None),
]
NAMES_TOPIC = [each for each in CALLS if each[2] is not None and "topic_pattern" not in each[2]]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_instance_of_another_principal_is_not_found(
    call: Call, instance: str, method: str, path: str, body: Any
) -> None:
    headers = {"Accept": "*/*"}
    answer = call("bob", method, instance + path, body, **headers)
    assert (answer.status_code, answer.json["error_code"]) == (404, 40403), answer.text
    assert answer.data == call("bob", method, f"{instance}-missing{path}", body, **headers).data
    assert call("alice", "GET", f"{instance}/subscription").json == {"topics": ["t"]}
    assert call("root", method, instance + path, body, **headers).status_code != 404


def test_list_of_instances_shows_those_of_the_principal(call: Call, instance: str) -> None:
    def listed(who: str) -> list[tuple[str, str]]:
        return [(each["name"], each["owner"]) for each in call(who, "GET", "/instances").json["instances"]]

    assert listed("alice") == listed("root") == [("i", "alice")]
    assert listed("bob") == []


def test_name_of_an_instance_of_another_principal_is_taken(call: Call, instance: str) -> None:
    assert call("bob", "POST", "/consumers/g", {"name": "i"}).status_code == 409
    assert call("alice", "DELETE", instance).status_code == 204
    created(call, "bob")
    assert call("alice", "GET", f"{instance}/subscription").status_code == 404


@pytest.mark.parametrize("asked", NAMES_TOPIC, ids=lambda asked: f"{asked[0]} {asked[1]}")
@pytest.mark.parametrize(("topic", "expected"), [("three", (404, 40401)), ("logs-b", (403, 40302))])
def test_instance_call_that_names_a_topic_needs_the_right_to_read_it(
    access: StubAccess, call: Call, asked: tuple[str, str, Any], topic: str, expected: tuple[int, int]
) -> None:
    access.rights["alice"] = Rights(publish=names("logs-b"), read=names("t"), consumer=names("g"))
    method, path, body = asked
    created(call, "alice")
    named = json.loads(json.dumps(body).replace('"t"', f'"{topic}"'))
    answer = call("alice", method, INSTANCE + path, named)
    assert (answer.status_code, answer.json["error_code"]) == expected
    assert call("alice", "GET", f"{INSTANCE}/subscription").json == {"topics": []}
    assert call("alice", "GET", f"{INSTANCE}/assignments").json == {"partitions": []}


def test_offsets_of_a_topic_in_the_query_need_the_right_to_read_it(call: Call) -> None:
    created(call, "alice")
    assert call("alice", "GET", f"{INSTANCE}/offsets?topic=three&partition=0").status_code == 404
    assert call("alice", "GET", f"{INSTANCE}/offsets?topic=t&partition=0").status_code == 200


def read(call: Call, who: str, timeout: int = 1000) -> list[Any]:
    answer = call(who, "GET", f"{INSTANCE}/records?timeout={timeout}", Accept="*/*")
    assert answer.status_code == 200, answer.text
    return [each["value"] for each in answer.json]


def test_pattern_finds_only_topics_that_may_be_read_and_a_reload_takes_effect(
    client: FlaskClient, access: StubAccess, call: Call, broker: FakeBroker
) -> None:
    for name in ("logs-a", "logs-b"):
        broker.create_topic(name)
    created(call, "alice")
    assert call("alice", "POST", f"{INSTANCE}/subscription", {"topic_pattern": "logs-.*"}).status_code == 204
    assert call("alice", "GET", f"{INSTANCE}/subscription").json == {"topics": ["logs-a"]}
    write(broker, b"1", topic="logs-a")
    write(broker, b"2", topic="logs-b")
    assert wait_for(lambda: read(call, "alice")) == [1]

    access.rights["alice"] = Rights(read=names("logs-b"), consumer=names("g"))
    reload(client)
    write(broker, b"3", topic="logs-a")
    values: list[Any] = []
    wait_for(lambda: values.extend(read(call, "alice")) or values)  # within the interval of `update_topics`
    assert values == [2]
    assert call("alice", "GET", f"{INSTANCE}/subscription").json == {"topics": ["logs-b"]}
    assert call("alice", "GET", f"{INSTANCE}/assignments").json == {"partitions": [refer("logs-b", 0)]}


def test_page_read_by_admin_does_not_widen_the_pattern_of_the_owner(call: Call, broker: FakeBroker) -> None:
    for name in ("logs-a", "logs-b"):
        broker.create_topic(name)
    created(call, "alice")
    assert call("alice", "POST", f"{INSTANCE}/subscription", {"topic_pattern": "logs-.*"}).status_code == 204
    write(broker, b"1", topic="logs-a")
    assert wait_for(lambda: read(call, "root")) == [1]
    assert call("root", "GET", f"{INSTANCE}/subscription").json == {"topics": ["logs-a"]}


def test_read_of_named_topic_whose_right_was_lost_is_refused(
    client: FlaskClient, access: StubAccess, call: Call, instance: str, broker: FakeBroker
) -> None:
    write(broker, b"1")
    assert wait_for(lambda: read(call, "alice")) == [1]
    write(broker, b"2")
    for rights, expected in (
        (Rights(publish=names("t"), consumer=names("g")), (403, 40302)),
        (Rights(consumer=names("g")), (404, 40401)),
    ):
        access.rights["alice"] = rights
        reload(client)
        answer = call("alice", "GET", f"{instance}/records", Accept="*/*")
        assert (answer.status_code, answer.json["error_code"]) == expected
    access.rights["alice"] = ALICE
    reload(client)
    assert wait_for(lambda: read(call, "alice")) == [2]


def test_read_that_waits_for_another_is_refused_after_the_right_was_lost(
    client: FlaskClient, access: StubAccess, call: Call, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for(lambda: call("alice", "GET", f"{instance}/assignments").json["partitions"])
    has_begun = next_lease(monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(read, call, "alice", 1500)
        assert has_begun.wait(10)
        revoke(client, access)
        assert call("alice", "GET", f"{instance}/records?timeout=5000", Accept="*/*").status_code == 404
        assert first.result() == []


def test_records_that_arrive_after_the_right_was_lost_are_not_delivered(
    client: FlaskClient, access: StubAccess, call: Call, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    created(call, "alice")
    assert call("alice", "POST", f"{INSTANCE}/subscription", {"topics": ["t"]}).status_code == 204
    wait_for(lambda: call("alice", "GET", f"{INSTANCE}/assignments").json["partitions"])
    has_begun = next_lease(monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call, "alice", "GET", f"{INSTANCE}/records?timeout=20000", Accept="*/*")
        assert has_begun.wait(10)
        revoke(client, access)
        write(broker, b"1")
        assert waiting.result().status_code == 403
    access.rights["alice"] = ALICE
    reload(client)
    assert wait_for(lambda: read(call, "alice")) == [1]
