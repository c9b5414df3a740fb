"""Asynchronous publishing and /tasks."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker

ASYNC = {"Prefer": "respond-async"}
V2 = "application/vnd.kafka.json.v2+json"


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def paused(broker: FakeBroker) -> Iterator[FakeBroker]:
    """A cluster that does not answer until the test lets it."""
    broker.down = True
    yield broker
    broker.down = False


def ended(client: FlaskClient, location: str) -> Any:
    task = client.get(f"{location}?wait=30").json["task"]
    assert task["status"] != "pending"
    return task


def test_async_publish_returns_202_and_is_delivered(client: FlaskClient, broker: FakeBroker) -> None:
    response = client.post("/messages/t?key=k", json={"a": 1}, headers=ASYNC)
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "respond-async"
    task = response.json["task"]
    assert task.keys() == {"id", "status", "created", "topic"}
    assert (task["status"], task["topic"]) == ("pending", "t")
    assert response.headers["Location"] == f"/tasks/{task['id']}"
    done = ended(client, response.headers["Location"])
    assert done.pop("ended") >= done["created"]
    record = done["records"][0]
    assert done == {**task, "status": "delivered", "records": [{"partition": 0, "offset": 0, **record}]}
    page = client.get("/messages/t/c/earliest").json["records"]
    assert [(each["key"], each["value"]) for each in page] == [("k", {"a": 1})]


def test_async_v2_produce_returns_202_and_is_delivered(client: FlaskClient) -> None:
    body = json.dumps({"records": [{"key": "k", "value": 1}, {"value": 2}]})
    response = client.post("/topics/three/partitions/1", data=body, content_type=V2, headers=ASYNC)
    assert response.status_code == 202
    assert response.content_type == "application/vnd.kafka.v2+json"
    done = ended(client, response.headers["Location"])
    assert [(each["partition"], each["offset"]) for each in done["records"]] == [(1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [
        ("/messages/missing", "1", 404),
        ("/messages/three?partition=7", "1", 404),
        ("/messages/il%20legal", "1", 400),
        ("/messages/t", "{", 400),
        ("/messages/t", "[]", 400),
        ("/messages/t?format=binary", '[{"a":1}]', 400),
        ("/messages/t?format=none", "1", 415),
        ("/messages/t?callback=file:///etc/passwd", "1", 422),
    ],
)
def test_invalid_async_publish_is_rejected_at_once(client: FlaskClient, path: str, data: str, status: int) -> None:
    response = client.post(path, data=data, content_type="application/json", headers=ASYNC)
    assert response.status_code == status, response.text
    assert client.get("/tasks").json == {"tasks": []}


def test_async_publish_while_kafka_is_down_is_accepted(client: FlaskClient, paused: FakeBroker) -> None:
    responses = [client.post("/messages/t", json=number, headers=ASYNC) for number in range(20)]
    assert {each.status_code for each in responses} == {202}
    assert len(client.get("/tasks?status=pending").json["tasks"]) == 20
    paused.down = False
    for each in responses:
        assert ended(client, each.headers["Location"])["status"] == "delivered"
    assert [each["value"] for each in client.get("/messages/t/c/earliest").json["records"]] == list(range(20))


def test_task_with_one_failed_message_delivers_the_others(client: FlaskClient, paused: FakeBroker) -> None:
    first, bad, last = (
        client.post(f"/messages/three?partition={partition}", json=partition, headers=ASYNC).headers["Location"]
        for partition in (0, 3, 2)
    )
    paused.down = False
    failed = ended(client, bad)
    assert (failed["status"], failed["error"]["code"]) == ("failed", 40402)
    assert {ended(client, each)["status"] for each in (first, last)} == {"delivered"}


def test_pending_task_is_canceled(client: FlaskClient, paused: FakeBroker) -> None:
    kept, cancelled = (client.post("/messages/t", json=n, headers=ASYNC).headers["Location"] for n in (1, 2))
    response = client.delete(cancelled)
    assert (response.status_code, response.json["task"]["status"]) == (200, "cancelled")
    assert client.delete(cancelled).status_code == 409
    paused.down = False
    assert ended(client, kept)["status"] == "delivered"
    again = client.delete(kept)
    assert (again.status_code, again.json["error"]["status"]) == (409, "delivered")
    assert [each["value"] for each in client.get("/messages/t/c/earliest").json["records"]] == [1]


def test_list_tasks_pages_and_filters(client: FlaskClient, paused: FakeBroker) -> None:
    topics = ["t", "three", "t", "t"]
    made = [client.post(f"/messages/{each}", json=1, headers=ASYNC).json["task"]["id"] for each in topics]
    listed = [each["id"] for each in client.get("/tasks?limit=3").json["tasks"]]
    assert listed == made[:3]
    assert [each["id"] for each in client.get(f"/tasks?after={listed[-1]}").json["tasks"]] == made[3:]
    assert [each["id"] for each in client.get("/tasks?topic=three&status=pending").json["tasks"]] == [made[1]]
    assert client.get("/tasks?status=delivered").json == {"tasks": []}


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/tasks/none", 404, "not the id of a task"),
        (f"/tasks/{10**15:014x}{'0' * 20}", 404, "tasks are removed"),
        ("/tasks?status=done", 400, "pending or delivered or failed or cancelled"),
        ("/tasks?limit=0", 400, "from 1 to 1000"),
        ("/tasks?state=done", 400, "Unknown query parameter"),
        ("/tasks/none?wait=61", 400, "from 0 to 60"),
    ],
)
def test_invalid_task_request_is_rejected(client: FlaskClient, path: str, status: int, says: str) -> None:
    response = client.get(path)
    assert response.status_code == status
    assert says in response.json["error"]["message"]


def test_publishes_over_outbox_max_bytes_return_429(make_client: ClientFactory, paused: FakeBroker) -> None:
    client = make_client(outbox_max_bytes=4096)
    responses = [client.put("/messages/t", data=b"x" * 1000, headers=ASYNC) for _ in range(5)]
    assert [each.status_code for each in responses] == [202, 202, 202, 202, 429]
    assert int(responses[-1].headers["Retry-After"]) >= 1
    paused.down = False
    for each in responses[:-1]:
        ended(client, each.headers["Location"])
    assert client.put("/messages/t", data=b"x" * 1000, headers=ASYNC).status_code == 202


def test_tasks_survive_a_restart(make_client: ClientFactory, paused: FakeBroker, tmp_path: Any) -> None:
    first = make_client(data_dir=str(tmp_path / "node"))
    locations = [first.post("/messages/t", json=n, headers=ASYNC).headers["Location"] for n in range(3)]
    first.application.extensions["kafka_http"].close(1)
    paused.down = False
    second = make_client(data_dir=str(tmp_path / "node"))
    second.application.extensions["kafka_http"].start()
    assert [ended(second, each)["status"] for each in locations] == ["delivered"] * 3
