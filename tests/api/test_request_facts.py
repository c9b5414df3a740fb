"""What the server knows about a request when its response is sent, for the access log and the metrics."""

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kafka_http.environ import REQUEST_FACTS
from kafka_http.errors import NotAuthorized
from kafka_http.records import NewRecord
from kafka_http.request_facts import RequestFacts, waiting_for_kafka
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.polling import wait_for
from tests.support.v2_consumer import JSON_V2, send

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_ORIGINAL = "tests.request_facts"
EVENTS, NDJSON = "text/event-stream", "application/x-ndjson"
V2_PRODUCE = {"Content-Type": JSON_V2}


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def remembering(client: FlaskClient) -> FlaskClient:
    """Let the responses of a client remember the facts: Werkzeug's client copies the environ."""
    inner: WSGIApplication = client.application.wsgi_app

    def remember(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        body = inner(environ, start_response)
        environ[_ORIGINAL].append(environ[REQUEST_FACTS])
        return body

    client.application.wsgi_app = remember  # type: ignore[method-assign]
    client.environ_base[_ORIGINAL] = []
    return client


@pytest.fixture
def client(client: FlaskClient) -> FlaskClient:
    return remembering(client)


def facts_of(response: TestResponse) -> RequestFacts:
    """Return the facts of a response, which is the last one of its client."""
    facts = response.request.environ[_ORIGINAL][-1]
    assert isinstance(facts, RequestFacts)
    return facts


def known(response: TestResponse) -> tuple[str, str, int]:
    """Return route, topic and number of records, after reading the response to its end."""
    response.get_data()
    facts = facts_of(response)
    return facts.route, facts.topic, facts.records


@pytest.mark.parametrize(
    ("path", "headers", "body", "expected"),
    [
        ("/messages/t", {"Content-Type": "text/plain"}, b"x", ("/messages/<topic>", "t", 1)),
        ("/messages/three", {"Content-Type": "application/json"}, b"[1, 2]", ("/messages/<topic>", "three", 2)),
        ("/topics/t", V2_PRODUCE, b'{"records": [{"value": 1}]}', ("/topics/<topic>", "t", 1)),
        (
            "/topics/t/partitions/0",
            V2_PRODUCE,
            b'{"records": [{"value": 1}, {"value": 2}]}',
            ("/topics/<topic>/partitions/<partition>", "t", 2),
        ),
        ("/messages/none", {"Content-Type": "text/plain"}, b"x", ("/messages/<topic>", "none", 0)),
        ("/messages/t", {"Content-Type": "application/json"}, b"{", ("/messages/<topic>", "t", 0)),
    ],
)
def test_publish_counts_the_records_that_were_written(
    client: FlaskClient, path: str, headers: dict[str, str], body: bytes, expected: tuple[str, str, int]
) -> None:
    assert known(client.post(path, headers=headers, data=body)) == expected


@pytest.mark.parametrize("path", ["/messages/small", "/topics/small"])
def test_publish_with_a_rejected_record_counts_the_others(client: FlaskClient, broker: FakeBroker, path: str) -> None:
    broker.create_topic("small", limit=200)
    body = b'{"records": [{"value": 1}, {"value": "%s"}]}' % (b"x" * 300)
    response = client.post(path, headers={"Content-Type": JSON_V2}, data=body)
    assert known(response)[2] == 1, response.text


def test_publish_that_kafka_rejects_counts_no_records(client: FlaskClient, broker: FakeBroker) -> None:
    broker.refused.add("t")
    response = client.put("/messages/t", data=b"x")
    assert (response.status_code, known(response)[2]) == (NotAuthorized.code // 100, 0)


def test_repeated_response_to_a_publish_counts_no_records(client: FlaskClient) -> None:
    assert known(client.put("/messages/t", data=b"x", headers={"Idempotency-Key": "k"}))[2] == 1
    second = client.put("/messages/t", data=b"x", headers={"Idempotency-Key": "k"})
    assert "Idempotency-Replayed" in second.headers
    assert known(second)[2] == 0


def test_page_counts_its_records(client: FlaskClient, broker: FakeBroker) -> None:
    write_three(broker)
    assert known(client.get("/messages/t/me/1")) == ("/messages/<topic>/<consumer>/<offset>", "t", 2)
    assert known(client.get("/messages/t/me/0", headers={"Accept": "application/octet-stream"}))[2] == 1


@pytest.mark.parametrize("accept", [EVENTS, NDJSON])
def test_stream_counts_the_records_that_it_has_sent(client: FlaskClient, broker: FakeBroker, accept: str) -> None:
    write_three(broker)
    response = client.get("/messages/t/me/1?until=end", headers={"Accept": accept})
    assert known(response) == ("/messages/<topic>/<consumer>/<offset>", "t", 2)


def test_search_counts_the_records_that_it_has_found(client: FlaskClient, broker: FakeBroker) -> None:
    write_three(broker)
    response = client.get("/messages/t/me/0?until=end&contains=2", headers={"Accept": NDJSON})
    assert known(response)[2] == 1


def test_upload_counts_its_records_and_bytes(client: FlaskClient) -> None:
    headers = {"Content-Type": NDJSON, "Accept": NDJSON}
    response = client.post("/messages/t", headers=headers, data=b"1\n2\n3\n")
    assert known(response) == ("/messages/<topic>", "t", 3)
    assert facts_of(response).bytes_in == 6


def test_upload_with_an_invalid_line_counts_the_records_before_it(client: FlaskClient) -> None:
    headers = {"Content-Type": NDJSON, "Accept": NDJSON}
    assert known(client.post("/messages/t", headers=headers, data=b"1\n2\n{\n"))[2] == 2


def test_page_of_a_consumer_instance_names_its_only_topic(client: FlaskClient, broker: FakeBroker) -> None:
    send(client, "POST", "/consumers/g", {"name": "me", "format": "json"})
    send(client, "POST", "/consumers/g/instances/me/subscription", {"topics": ["t", "three"]})
    write_three(broker)
    page = client.get("/consumers/g/instances/me/records", headers={"Accept": JSON_V2})
    assert known(page) == ("/consumers/<group>/instances/<name>/records", "t", 3)
    write_three(broker)
    write_three(broker, "three")
    page = client.get("/consumers/g/instances/me/records", headers={"Accept": JSON_V2})
    assert known(page)[1:] == ("", 6)


@pytest.mark.parametrize("is_fast_path", [False])
@pytest.mark.usefixtures("is_fast_path")
def test_created_topic_is_the_topic_of_its_request(make_client: ClientFactory) -> None:
    created = remembering(make_client(topic_admin=True)).post("/messages", json={"topic": "orders"})
    assert known(created) == ("/messages", "orders", 0), created.text


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nothing/t", ("none", "", 0)),
        ("DELETE", "/messages", ("none", "", 0)),
        ("GET", "/messages/t", ("/messages/<topic>", "t", 0)),
        ("GET", "/health", ("/health", "", 0)),
    ],
)
def test_route_is_the_rule_and_never_the_path(
    client: FlaskClient, method: str, path: str, expected: tuple[str, str, int]
) -> None:
    assert known(client.open(path, method=method)) == expected


def test_kafka_seconds_are_the_time_that_a_view_has_waited(client: FlaskClient, broker: FakeBroker) -> None:
    page = client.get("/messages/t/me/0?wait=0.1")
    assert facts_of(page).kafka_seconds >= 0.1
    assert facts_of(client.get("/health")).kafka_seconds == 0


@pytest.mark.parametrize("is_fast_path", [False])
@pytest.mark.usefixtures("is_fast_path")
def test_kafka_seconds_of_a_publish_are_the_time_until_kafka_answers(client: FlaskClient, broker: FakeBroker) -> None:
    broker.silent = True
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(client.put("/messages/t", data=b"x")))
    thread.start()
    wait_for(lambda: broker.unanswered)
    threading.Event().wait(0.05)
    broker.answer()
    thread.join()
    assert facts_of(answers[0]).kafka_seconds >= 0.05


def test_time_within_a_wait_counts_once(request_facts: RequestFacts) -> None:
    with waiting_for_kafka():
        with waiting_for_kafka():
            threading.Event().wait(0.01)
        assert request_facts.kafka_seconds == 0
    assert request_facts.kafka_seconds >= 0.01


@pytest.fixture
def request_facts() -> Iterator[RequestFacts]:
    from kafka_http.request_facts import request_facts as current

    facts = RequestFacts()
    token = current.set(facts)
    yield facts
    current.reset(token)


def write_three(broker: FakeBroker, topic: str = "t") -> None:
    broker.producer.publish(topic, [NewRecord(b"%d" % each, partition=0) for each in range(3)], 1).result()
