"""Idempotency-Key on publishes of both dialects."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kafka_http.errors import BrokerError, BrokerUnavailable, KafkaHttpError, OutcomeUnknown, TooLarge
from kafka_http.records import RecordResult
from kafka_http.web.publish_view import MAX_RECORDS_WITH_KEY
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.fake_pending import completed
from tests.support.polling import wait_for

JSON_V2 = "application/vnd.kafka.json.v2+json"
KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"


class Dialect(NamedTuple):
    """How a dialect publishes one message and shows errors."""

    path: str
    content_type: str
    body: str
    code: Callable[[TestResponse], int]

    def publish(self, client: FlaskClient, key: str | None = KEY, **changed: Any) -> TestResponse:
        path, headers = changed.pop("path", self.path), changed.pop("headers", {})
        named = {} if key is None else {"Idempotency-Key": key}
        asked = {"method": "POST", "content_type": self.content_type, "data": self.body} | changed
        return client.open(path, headers=named | headers, **asked)

    def several(self, *values: int) -> str:
        records = ",".join(f'{{"value":{each},"partition":{each % 3}}}' for each in values)
        return f'{{"records":[{records}]}}'


MESSAGES = Dialect("/messages/t", "application/json", '{"records":[{"value":1}]}', lambda _: _.json["error"]["code"])
V2 = Dialect("/topics/t", JSON_V2, '{"records":[{"value":1}]}', lambda _: _.json["error_code"])


@pytest.fixture(params=[MESSAGES, V2], ids=["messages", "v2"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def written(broker: FakeBroker) -> int:
    return len(broker.records("t")) + len(broker.records("three"))


def is_replay(response: TestResponse) -> bool:
    marked = response.headers.get("Idempotency-Replayed")
    assert marked in {None, "true"}
    return marked is not None


def test_repeated_key_replays_the_response_and_writes_nothing(
    dialect: Dialect, client: FlaskClient, broker: FakeBroker
) -> None:
    first = dialect.publish(client)
    again = [dialect.publish(client) for _ in range(3)]
    assert first.status_code == 200
    assert not is_replay(first)
    for each in again:
        assert is_replay(each)
        assert (each.status_code, each.data, each.content_type) == (first.status_code, first.data, first.content_type)
    assert written(broker) == 1
    ids = {each.headers["X-Request-Id"] for each in (first, *again)}
    assert len(ids) == 4


def test_repeat_without_a_key_is_published_again(dialect: Dialect, client: FlaskClient, broker: FakeBroker) -> None:
    assert not any(is_replay(dialect.publish(client, None)) for _ in range(2))
    assert written(broker) == 2


def test_repeat_with_another_key_is_published_again(dialect: Dialect, client: FlaskClient, broker: FakeBroker) -> None:
    assert not any(is_replay(dialect.publish(client, key)) for key in ("a", "b", "A"))
    assert written(broker) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"data": '{"records":[{"value":2}]}'},
        {"content_type": "application/vnd.kafka.v2+json; charset=utf-8"},
        {"headers": {"Kafka-Key": "k"}},
        {"path": "/messages/three"},
        {"path": "/messages/t?timeout=5"},
        {"method": "PUT"},
        {"path": "/topics/t", "content_type": JSON_V2},
    ],
    ids=",".join,
)
def test_key_of_another_request_returns_422(client: FlaskClient, broker: FakeBroker, changed: dict[str, Any]) -> None:
    MESSAGES.publish(client)
    response = MESSAGES.publish(client, **changed)
    assert response.status_code == 422
    assert "Idempotency-Key was used for another request" in response.get_data(as_text=True)
    assert not is_replay(response)
    assert MESSAGES.publish(client).status_code == 200
    assert written(broker) == 1


def test_key_errors_have_the_error_format_of_the_dialect(dialect: Dialect, client: FlaskClient) -> None:
    dialect.publish(client)
    assert dialect.code(dialect.publish(client, data='{"records":[{"value":2}]}')) == 422
    assert dialect.code(dialect.publish(client, "a b")) == 400


@pytest.mark.parametrize("again", [{"headers": {"traceparent": "00-1"}}, {"path": "/messages//t/"}])
def test_repeat_with_other_irrelevant_headers_is_replayed(
    client: FlaskClient, broker: FakeBroker, again: dict[str, Any]
) -> None:
    MESSAGES.publish(client)
    assert is_replay(MESSAGES.publish(client, **again))
    assert written(broker) == 1


@pytest.mark.parametrize("key", ['"a key"', '"a \\"key\\" with \\\\"', "a", "x" * 255, f'"{"x" * 255}"', "{k}:;='~!"])
def test_valid_key_is_accepted(client: FlaskClient, broker: FakeBroker, key: str) -> None:
    assert MESSAGES.publish(client, key).status_code == 200
    assert is_replay(MESSAGES.publish(client, key))
    assert written(broker) == 1


def test_key_with_and_without_quotes_is_the_same(client: FlaskClient, broker: FakeBroker) -> None:
    MESSAGES.publish(client, KEY)
    assert is_replay(MESSAGES.publish(client, f'"{KEY}"'))
    assert written(broker) == 1


MALFORMED = [
    *("", '""', "a b", "a, b", "a,b", '"a', 'a"', '"a" "b"', '"a", "b"', "a\\b", '"\\a"', "é", '"é"'),
    *('"a\x7f"', "a\tb"),
    *("x" * 256, f'"{"x" * 256}"'),
]


@pytest.mark.parametrize("key", MALFORMED)
def test_invalid_key_returns_400(dialect: Dialect, client: FlaskClient, broker: FakeBroker, key: str) -> None:
    response = dialect.publish(client, key)
    assert (response.status_code, dialect.code(response)) == (400, 400)
    assert "1 to 255 printable" in response.get_data(as_text=True)
    assert written(broker) == 0


REFUSED: list[tuple[dict[str, Any], int]] = [
    ({"data": "{"}, 400),
    ({"data": '{"records":[]}'}, 400),
    ({"path": "/messages/unknown"}, 404),
    ({"path": "/messages/t?partition=7"}, 404),
    ({"data": '{"records":[{"value":1,"format":"text"}]}'}, 422),
]


@pytest.mark.parametrize(("changed", "status"), REFUSED)
def test_error_response_is_stored(
    client: FlaskClient, broker: FakeBroker, changed: dict[str, Any], status: int
) -> None:
    first = MESSAGES.publish(client, **changed)
    broker.create_topic("unknown")
    again = MESSAGES.publish(client, **changed)
    assert (first.status_code, is_replay(first)) == (status, False)
    assert (again.status_code, again.data, is_replay(again)) == (status, first.data, True)


def test_v2_error_response_is_stored(client: FlaskClient, broker: FakeBroker) -> None:
    for path, status in (("/topics/unknown", 404), ("/topics/t/partitions/7", 404)):
        first = V2.publish(client, path, path=path)
        again = V2.publish(client, path, path=path)
        assert (first.status_code, is_replay(first)) == (status, False)
        assert (again.status_code, again.data, is_replay(again)) == (status, first.data, True)
    assert written(broker) == 0


def test_response_with_partial_failure_is_stored(dialect: Dialect, client: FlaskClient, broker: FakeBroker) -> None:
    broker.message_limit = 100
    body = f'{{"records":[{{"value":1}},{{"value":"{"x" * 200}"}}]}}'
    first = dialect.publish(client, data=body)
    again = dialect.publish(client, data=body)
    assert first.status_code == (207 if dialect is MESSAGES else 200)
    assert (again.status_code, again.data, is_replay(again)) == (first.status_code, first.data, True)
    assert written(broker) == 1


def test_replayed_response_has_the_original_headers(client: FlaskClient) -> None:
    for _ in range(2):
        response = V2.publish(client, headers={"Prefer": "strict", "Accept": "application/json"})
        assert response.headers["Preference-Applied"] == "strict"
        assert response.content_type == "application/json"
    assert is_replay(response)


def test_response_202_is_stored(dialect: Dialect, client: FlaskClient, broker: FakeBroker) -> None:
    first, again = (dialect.publish(client, headers={"Prefer": "respond-async"}) for _ in range(2))
    assert (first.status_code, is_replay(first)) == (202, False)
    assert (again.status_code, again.data, is_replay(again)) == (202, first.data, True)
    for name in ("Location", "Preference-Applied", "Content-Type"):
        assert again.headers[name] == first.headers[name]
    task = client.get(f"{first.headers['Location']}?wait=5").json["task"]
    assert (task["status"], len(client.get("/tasks").json["tasks"])) == ("delivered", 1)
    assert written(broker) == 1


def test_response_503_frees_the_key(dialect: Dialect, client: FlaskClient, broker: FakeBroker) -> None:
    broker.down = True
    assert dialect.publish(client).status_code == 503
    broker.down = False
    response = dialect.publish(client)
    assert (response.status_code, is_replay(response)) == (200, False)
    assert written(broker) == 1


def test_response_429_frees_the_key(
    dialect: Dialect, make_client: ClientFactory, broker: FakeBroker, is_fast_path: bool
) -> None:
    client = make_client(max_in_flight=1024, timeout=0.3)
    broker.silent = True
    large = dialect.body + " " * 1000
    with ThreadPoolExecutor() as pool:
        pending = pool.submit(dialect.publish, client, "first", data=large)
        wait_for(lambda: broker.unanswered or pending.done(), 5)
        assert dialect.publish(client, "second", data=large).status_code in {429, 504}
    broker.answer()
    response = dialect.publish(client, "second", data=large)
    assert (response.status_code, is_replay(response)) == (200, False)


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_unexpected_error_frees_the_key(
    client: FlaskClient, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(broker, "publish", lambda *_, **__: 1 / 0)
        assert MESSAGES.publish(client, method=method).status_code == 500
    response = MESSAGES.publish(client, method=method)
    assert (response.status_code, is_replay(response)) == (200, False)


def test_key_of_a_request_in_progress_returns_409(
    dialect: Dialect, make_client: ClientFactory, broker: FakeBroker
) -> None:
    client = make_client(timeout=1)
    broker.silent = True
    with ThreadPoolExecutor() as pool:
        first = pool.submit(dialect.publish, client)
        wait_for(lambda: broker.unanswered, 5)
        busy = dialect.publish(client)
        assert not first.done()
        other = dialect.publish(client, data='{"records":[{"value":2}]}')
        assert first.result().status_code == 504
    assert (busy.status_code, dialect.code(busy), busy.headers["Retry-After"]) == (409, 409, "1")
    assert not is_replay(busy)
    assert other.status_code == 422
    assert broker.unanswered == 1


def answered(response: TestResponse, status: int) -> TestResponse | None:
    return response if response.status_code == status else None


@pytest.fixture
def unanswered(make_client: ClientFactory, broker: FakeBroker, dialect: Dialect) -> FlaskClient:
    """A client whose request with `KEY` got a 504."""
    client = make_client(timeout=0.1)
    broker.silent = True
    assert dialect.publish(client).status_code == 504
    assert dialect.publish(client).status_code == 409
    assert broker.unanswered == 1
    return client


def test_repeat_after_504_returns_the_final_result(
    dialect: Dialect, unanswered: FlaskClient, broker: FakeBroker
) -> None:
    broker.answer()
    response = wait_for(lambda: answered(dialect.publish(unanswered), 200), 5)
    assert is_replay(response)
    assert b'"offset":0' in response.data
    assert written(broker) == 1


@pytest.mark.parametrize(
    ("refusal", "status"), [(TooLarge("Too large."), 413), (TooLarge("The message is too large.", limit=7), 413)]
)
def test_error_after_504_is_stored(
    dialect: Dialect, unanswered: FlaskClient, broker: FakeBroker, refusal: KafkaHttpError, status: int
) -> None:
    broker.answer(refusal)
    response = wait_for(lambda: answered(dialect.publish(unanswered), status), 5)
    assert is_replay(response)
    assert written(broker) == 0


@pytest.mark.parametrize(
    "refusal", [BrokerUnavailable("It is away."), BrokerError("It failed."), OutcomeUnknown("Nobody will know.")]
)
def test_retriable_failure_after_504_is_stored_as_504(
    dialect: Dialect, unanswered: FlaskClient, broker: FakeBroker, refusal: KafkaHttpError
) -> None:
    """The client knows that the records may have been written, so the key is never freed."""
    broker.answer(refusal)
    response = wait_for(lambda: answered(dialect.publish(unanswered), 504), 5)
    assert is_replay(response)
    assert dialect.code(response) == 504
    assert written(broker) == 0


@pytest.mark.parametrize("others", [[], [BrokerUnavailable("It is away.")]])
def test_response_504_without_later_result_is_stored(
    dialect: Dialect,
    client: FlaskClient,
    broker: FakeBroker,
    monkeypatch: pytest.MonkeyPatch,
    others: list[RecordResult],
) -> None:
    """Also if another record was certainly not written."""
    outcomes = [*others, OutcomeUnknown("Nobody will know.")]
    body = f'{{"records":[{",".join(["""{"value":1}"""] * len(outcomes))}]}}'
    with monkeypatch.context() as patched:
        patched.setattr(broker, "publish", lambda *_, **__: completed(outcomes))
        first = dialect.publish(client, data=body)
    again = dialect.publish(client, data=body)
    assert first.status_code == (200 if others and dialect is V2 else 504)
    assert (again.status_code, again.data, is_replay(again)) == (first.status_code, first.data, True)
    assert written(broker) == 0


def test_concurrent_requests_with_one_key_write_once(dialect: Dialect, client: FlaskClient, broker: FakeBroker) -> None:
    gate = threading.Barrier(8)

    def publish(_: int) -> list[int]:
        gate.wait()
        return [dialect.publish(client, f"key-{each}").status_code for each in range(20)]

    with ThreadPoolExecutor(8) as pool:
        statuses = {status for each in pool.map(publish, range(8)) for status in each}
    assert statuses <= {200, 409}
    assert written(broker) == 20


def test_more_messages_than_allowed_with_a_key_return_413(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(max_records=MAX_RECORDS_WITH_KEY + 1)
    lines = b"1\n" * (MAX_RECORDS_WITH_KEY + 1)
    response = MESSAGES.publish(client, data=lines, content_type="application/x-ndjson")
    assert (response.status_code, response.json["error"]["limit"]) == (413, MAX_RECORDS_WITH_KEY)
    assert written(broker) == 0
    assert MESSAGES.publish(client, None, data=lines, content_type="application/x-ndjson").status_code == 200


def test_key_on_a_call_that_does_not_publish_is_ignored(client: FlaskClient) -> None:
    for _ in range(2):
        assert not is_replay(client.get("/messages/t", headers={"Idempotency-Key": "a b"}))
