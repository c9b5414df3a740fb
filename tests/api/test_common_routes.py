"""Behavior of all routes: paths, lists, health, errors."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.environ import REQUEST_STARTED
from tests.api.conftest import ClientFactory
from tests.support.certificates import Authority, settings_of
from tests.support.fake_broker import FakeBroker


def test_get_messages_lists_topics(client: FlaskClient, broker: FakeBroker) -> None:
    broker.create_topic("__consumer_offsets")
    assert client.get("/messages").json == {"topics": ["t", "three"]}


def test_get_topic_lists_its_partitions(client: FlaskClient) -> None:
    client.put("/messages/three?partition=1", data=b"x")
    response = client.get("/messages/three").json
    assert response["topic"] == "three"
    assert [(each["partition"], each["earliest"], each["latest"]) for each in response["partitions"]] == [
        (0, 0, 0),
        (1, 0, 1),
        (2, 0, 0),
    ]
    assert all(each["leader"] in each["replicas"] for each in response["partitions"])


@pytest.mark.parametrize("path", ["/messages/", "//messages//", "/messages/t/", "//messages///t//c//earliest//"])
def test_repeated_and_trailing_slashes_are_ignored(client: FlaskClient, path: str) -> None:
    assert client.get("/", environ_overrides={"PATH_INFO": path}).status_code == 200


def test_ready_while_kafka_is_down_returns_503_and_health_200(client: FlaskClient, broker: FakeBroker) -> None:
    broker.down = True
    assert client.get("/health").status_code == 200
    response = client.get("/ready")
    assert (response.status_code, response.json["error"]["code"]) == (503, 50302)
    broker.down = False
    assert client.get("/ready").status_code == 200


def test_failed_ready_check_answers_the_requests_that_waited(client: FlaskClient, broker: FakeBroker) -> None:
    """Otherwise each of them would wait for the broker, one after the other."""

    def ready(came: float) -> int:
        return client.get("/ready", environ_overrides={REQUEST_STARTED: came}).status_code

    before = time.monotonic()
    broker.down = True
    assert ready(before) == 503
    broker.down = False
    assert ready(before) == 503, "it came before the broker was asked"
    assert ready(time.monotonic()) == 200


@pytest.mark.parametrize("path", ["/topics/t/x", "/brokers/1", "/consumers/g/x"])
def test_unknown_v2_path_returns_404_in_the_v2_error_format(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json["error_code"] == 404
    assert response.json["message"]
    assert response.content_type == "application/vnd.kafka.v2+json"
    assert client.get(path, headers={"Accept": "application/json"}).content_type == "application/json"


@pytest.mark.parametrize("path", ["/nope", "/messages/t/c/1/more", "/topicsx"])
def test_unknown_path_returns_404(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.json["error"]["code"]) == (404, 404)
    assert response.headers["Cache-Control"] == "no-store"


V2 = "application/vnd.kafka.json.v2+json"
RECORDS = b'{"records": [{"value": 1}, {"value": 2}]}'


@pytest.mark.parametrize("is_fast_path", [False, True], ids=["thread", "main loop"])
def test_json_responses_of_both_dialects_end_with_a_newline(make_client: ClientFactory, is_fast_path: bool) -> None:
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
        response = client.open(path, method=method, data=body, headers=headers)
        assert "json" in response.content_type, (method, path)
        assert response.data.endswith((b"}\n", b"]\n")), (method, path, response.data)
        assert not response.data.endswith(b"\n\n"), (method, path, response.data)
        assert int(response.headers["Content-Length"]) == len(response.data)


@pytest.mark.parametrize(
    ("method", "path"), [("PATCH", "/messages/t/c"), ("DELETE", "/messages"), ("POST", "/messages/t/c/1")]
)
def test_method_not_allowed_returns_405_with_allow(client: FlaskClient, method: str, path: str) -> None:
    response = client.open(path, method=method)
    assert (response.status_code, response.json["error"]["code"]) == (405, 405)
    assert response.headers["Allow"]


def test_unexpected_error_returns_500_without_traceback(
    client: FlaskClient, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[str]:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(broker.log, "topics", broken)
    response = client.get("/messages")
    assert (response.status_code, response.json["error"]["code"]) == (500, 500)
    assert "secret" not in response.text


def test_bodies_over_max_in_flight_return_429(make_client: Any, broker: FakeBroker) -> None:
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


def test_server_that_does_not_use_tls_cert_is_warned_about_once(
    make_client: ClientFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under another WSGI server, connections are plain HTTP, and nothing said so."""
    client = make_client(**settings_of(Authority(tmp_path).server()))
    for _ in range(2):
        client.get("/health")
    assert [each for each in caplog.messages if "tls" in each] == [
        "tls_cert has no effect: this WSGI server does not use it."
    ]
