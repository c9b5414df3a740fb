"""What goes for all calls: paths, lists, health, errors."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.environ import REQUEST_STARTED
from tests.api.conftest import ClientFactory
from tests.fakes import FakeBroker


def test_topics(client: FlaskClient, broker: FakeBroker) -> None:
    broker.create_topic("__consumer_offsets")
    assert client.get("/messages").json == {"topics": ["t", "three"]}


def test_partitions_of_a_topic(client: FlaskClient) -> None:
    client.put("/messages/three?partition=1", data=b"x")
    answer = client.get("/messages/three").json
    assert answer["topic"] == "three"
    assert [(each["partition"], each["earliest"], each["latest"]) for each in answer["partitions"]] == [
        (0, 0, 0),
        (1, 0, 1),
        (2, 0, 0),
    ]
    assert all(each["leader"] in each["replicas"] for each in answer["partitions"])


@pytest.mark.parametrize("path", ["/messages/", "//messages//", "/messages/t/", "//messages///t//c//earliest//"])
def test_slashes(client: FlaskClient, path: str) -> None:
    assert client.get("/", environ_overrides={"PATH_INFO": path}).status_code == 200


def test_health(client: FlaskClient, broker: FakeBroker) -> None:
    broker.down = True
    assert client.get("/health").status_code == 200
    answer = client.get("/ready")
    assert (answer.status_code, answer.json["error"]["code"]) == (503, 50302)
    broker.down = False
    assert client.get("/ready").status_code == 200


def test_ready_that_failed_is_the_answer_of_those_that_waited(client: FlaskClient, broker: FakeBroker) -> None:
    """Each of them would wait for the broker in turn."""

    def ready(came: float) -> int:
        return client.get("/ready", environ_overrides={REQUEST_STARTED: came}).status_code

    before = time.monotonic()
    broker.down = True
    assert ready(before) == 503
    broker.down = False
    assert ready(before) == 503, "it came before the broker was asked"
    assert ready(time.monotonic()) == 200


@pytest.mark.parametrize("path", ["/topics/t/x", "/brokers/1", "/consumers/g/x"])
def test_v2_paths_answer_errors_in_their_shape(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json["error_code"] == 404
    assert answer.json["message"]
    assert answer.content_type == "application/vnd.kafka.v2+json"
    assert client.get(path, headers={"Accept": "application/json"}).content_type == "application/json"


@pytest.mark.parametrize("path", ["/nope", "/messages/t/c/1/more", "/topicsx"])
def test_unknown_paths(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json["error"]["code"]) == (404, 404)
    assert answer.headers["Cache-Control"] == "no-store"


V2 = "application/vnd.kafka.json.v2+json"
RECORDS = b'{"records": [{"value": 1}, {"value": 2}]}'


@pytest.mark.parametrize("is_threadless", [False, True], ids=["thread", "main loop"])
def test_json_answers_of_both_dialects_end_with_a_newline(make_client: ClientFactory, is_threadless: bool) -> None:
    client = make_client()
    json, v2, group = {"Content-Type": "application/json"}, {"Content-Type": V2}, "/consumers/g"
    instance = f"{group}/instances/i"
    calls: list[tuple[str, str, bytes, dict[str, str]]] = [
        ("POST", "/messages/t", RECORDS, json),
        ("POST", "/messages/t", RECORDS, json | {"Idempotency-Key": "k"}),
        ("POST", "/messages/t", RECORDS, json | {"Idempotency-Key": "k"}),
        ("POST", "/messages/t", RECORDS, json | {"Prefer": "respond-async"}),
        ("POST", "/messages/t", b"{", json),
        ("POST", "/messages/three", b'{"records": [{"value": 1}, {"value": 1, "partition": 9}]}', json),
        ("PUT", "/messages/nope", b"x", {}),
        ("POST", "/topics/t", RECORDS, v2),
        ("POST", "/topics/t", RECORDS, v2 | {"Prefer": "respond-async"}),
        ("POST", "/topics/t/partitions/9", RECORDS, v2),
        *[
            ("GET", path, b"", {})
            for path in ("/messages", "/messages/t", "/messages/t/c", "/messages/t/c/0", "/tasks", "/tasks/x", "/nope")
        ],
        ("GET", "/messages/t/c/0", b"", {"Accept": V2}),
        ("GET", "/messages/t/c/0", b"", {"Accept": "image/png"}),
        ("PATCH", "/messages/t", b"", {}),
        *[("GET", path, b"", {}) for path in ("/health", "/ready", "/instances", "/topics", "/topics/t", "/brokers")],
        *[("GET", f"/topics/t/partitions{path}", b"", {}) for path in ("", "/0", "/0/offsets", "/9")],
        ("POST", group, b'{"name": "i", "format": "json"}', v2),
        *[("GET", f"{instance}/{path}", b"", {}) for path in ("subscription", "assignments")],
        ("GET", f"{instance}/records", b"", {"Accept": V2}),
        ("GET", f"{instance}/records?timeout=10", b"", {"Accept": V2}),
        ("POST", f"{instance}/offsets", b"", v2),
    ]
    assigned = b'{"partitions": [{"topic": "t", "partition": 0}]}'
    for method, path, body, headers in calls:
        if path == f"{instance}/subscription":
            assert client.post(f"{instance}/assignments", data=assigned, headers=v2).status_code == 204
        answer = client.open(path, method=method, data=body, headers=headers)
        assert "json" in answer.content_type, (method, path)
        assert answer.data.endswith((b"}\n", b"]\n")), (method, path, answer.data)
        assert not answer.data.endswith(b"\n\n"), (method, path, answer.data)
        assert int(answer.headers["Content-Length"]) == len(answer.data)


@pytest.mark.parametrize(
    ("method", "path"), [("PATCH", "/messages/t"), ("DELETE", "/messages"), ("POST", "/messages/t/c/1")]
)
def test_method_not_allowed(client: FlaskClient, method: str, path: str) -> None:
    answer = client.open(path, method=method)
    assert (answer.status_code, answer.json["error"]["code"]) == (405, 405)
    assert answer.headers["Allow"]


def test_a_defect_of_ours_shows_no_traceback(
    client: FlaskClient, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[str]:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(broker.log, "topics", broken)
    answer = client.get("/messages")
    assert (answer.status_code, answer.json["error"]["code"]) == (500, 500)
    assert "secret" not in answer.text


def test_bodies_in_flight_are_bounded(make_client: Any, broker: FakeBroker) -> None:
    client = make_client(max_in_flight=1500)

    def put(timeout: float) -> Any:
        other = client.application.test_client()
        return other.put(f"/messages/t?timeout={timeout}", data=b"x" * 1000)

    broker.silent = True
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(put, 3)
        while not broker.unanswered and not first.done():
            time.sleep(0.01)
        second = put(0.01)
        assert (second.status_code, second.json["error"]["code"]) == (429, 42901)
        assert int(second.headers["Retry-After"]) >= 1
        assert client.get("/messages").status_code == 200
        assert first.result().status_code == 504
    broker.silent = False
    assert put(1).status_code == 200
