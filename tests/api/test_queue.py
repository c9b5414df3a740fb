"""Queues over HTTP: each message has a lease, and is acknowledged alone."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import create_environ

from kafka_http.consumers.queue_registry import QueueRegistry
from kafka_http.consumers.queue_service import ErrorEntry, LeaseResult
from kafka_http.records import NewRecord, RecordMetadata
from kafka_http.security.access import Rights
from kafka_http.share_groups import ShareListener
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.polling import wait_for
from tests.support.stub_access import StubAccess, names
from tests.support.v2_consumer import V2, write

QUEUE = "/messages/t/workers/queue"
LONG = "lock=3600"
"""No lock ends during a test on a busy machine."""
STALE = "0:1:0.zzzz1"
"""A well-formed lease that nobody holds."""


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def acquire(client: FlaskClient, query: str = "", **headers: str) -> Any:
    return client.post(f"{QUEUE}?wait=20&{LONG}&{query}".rstrip("&"), headers=headers)


def records(answer: Any) -> list[Any]:
    assert answer.status_code == 200, answer.text
    return list(answer.json["records"])


def leases(client: FlaskClient, count: int) -> list[str]:
    """Acquire a number of messages that are there, and return their leases."""
    found: list[str] = []
    while len(found) < count:
        found += [each["lease"] for each in records(acquire(client, f"limit={count - len(found)}"))]
    return found


def offsets(client: FlaskClient) -> list[int]:
    """Return the offsets of all messages that can be acquired now."""
    found: list[int] = []
    while page := records(client.post(f"{QUEUE}?limit=500&wait=0.3&{LONG}")):
        found += [each["offset"] for each in page]
    return sorted(found)


def start(client: FlaskClient) -> int:
    return int(client.get(QUEUE).json["partitions"][0]["start"])  # type: ignore[index]


def code(answer: Any) -> tuple[int, int]:
    return answer.status_code, answer.json["error"]["code"]


# acquire


def test_acquire_returns_messages_as_a_read_does_with_their_leases(client: FlaskClient, broker: FakeBroker) -> None:
    headers = (("trace", b"1"), ("raw", b"\xff"))
    broker.publish("t", [NewRecord(b'{"a": 1}', b"k", 0, 1700000000000, headers)], 1).result()
    before = time.time() * 1000
    page = acquire(client, "limit=10").json
    (read,) = client.get("/messages/t/me/0").json["records"]  # type: ignore[index]
    (record,) = page["records"]
    assert (page["topic"], page["consumer"], page.keys()) == ("t", "workers", {"topic", "consumer", "records"})
    lease = {name: record.pop(name) for name in ("lease", "attempt", "locked_until")}
    assert record == read
    assert lease["lease"].startswith("0:0:0.")
    assert lease["attempt"] == 1
    assert lease["locked_until"] >= before + 3_590_000


def test_messages_of_several_partitions_have_leases_that_name_them(client: FlaskClient, broker: FakeBroker) -> None:
    for partition in range(3):
        write(broker, b"a", b"b", topic="three", partition=partition)
    found = []
    while len(found) < 6:
        found += records(client.post(f"/messages/three/workers/queue?limit=6&wait=20&{LONG}"))
    assert {(each["partition"], each["offset"]) for each in found} == {(p, o) for p in range(3) for o in range(2)}
    assert all(each["lease"].startswith(f"{each['partition']}:{each['offset']}:0.") for each in found)


def test_default_limit_is_one_message(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1", b"2")
    assert len(records(acquire(client))) == 1


def test_acquire_without_messages_is_an_empty_page(client: FlaskClient) -> None:
    answer = client.post(f"{QUEUE}?wait=0.1")
    assert answer.json == {"topic": "t", "consumer": "workers", "records": []}
    assert answer.headers["Cache-Control"] == "no-store"


def test_acquire_waits_for_a_message(client: FlaskClient, broker: FakeBroker) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(acquire, client)
        wait_for(lambda: broker.share_groups.members("workers"))
        write(broker, b"1")
        assert [each["value"] for each in records(waiting.result())] == [1]


def test_waiting_acquire_ends_when_the_server_stops(client: FlaskClient) -> None:
    """A server that stops must not wait a minute for its clients."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, f"{QUEUE}?wait=60")
        client.application.extensions["kafka_http"].stop()
        assert records(waiting.result(50)) == []


def test_one_message_byte_for_byte_has_its_lease_in_headers(client: FlaskClient, broker: FakeBroker) -> None:
    broker.publish("t", [NewRecord(b"\xff\x00", b"k", 0, 1700000000000, (("h", b"v"),)), NewRecord(b"2")], 1).result()
    answer = acquire(client, "limit=10", Accept="application/octet-stream")
    assert (answer.status_code, answer.data) == (200, b"\xff\x00")
    shown = {name: answer.headers[f"Kafka-{name}"] for name in ("Partition", "Offset", "Timestamp", "Key", "Attempt")}
    assert shown == {"Partition": "0", "Offset": "0", "Timestamp": "1700000000000", "Key": "k", "Attempt": "1"}
    assert answer.headers["Kafka-Header-h"] == "v"
    assert int(answer.headers["Kafka-Locked-Until"]) > time.time() * 1000
    assert client.delete(f"{QUEUE}/{answer.headers['Kafka-Lease']}").status_code == 200
    assert offsets(client) == [1], "the limit is one message"


def test_bytes_of_an_empty_queue_are_a_204(client: FlaskClient) -> None:
    answer = client.post(f"{QUEUE}?wait=0.1", headers={"Accept": "application/octet-stream"})
    assert (answer.status_code, answer.data) == (204, b"")


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson", "application/vnd.kafka.json.v2+json"])
def test_acquire_with_another_accept_is_a_406(client: FlaskClient, broker: FakeBroker, accept: str) -> None:
    write(broker, b"1")
    assert code(acquire(client, Accept=accept)) == (406, 406)
    assert not broker.share_groups.members("workers")


def test_format_decides_how_values_are_shown(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1")
    (record,) = records(acquire(client, "format=binary&key_format=text"))
    assert (record["value"], record["format"]) == ("MQ==", "binary")
    assert code(acquire(client, "format=none")) == (415, 415)


WRONG = {
    "limit=0": "limit must be a whole number from 1 to 500, got '0'.",
    "limit=501": "limit must be a whole number from 1 to 500, got '501'.",
    "wait=61": "wait must be a number of seconds from 0 to 60, got '61'.",
    "lock=0": "lock must be a number of seconds from 1 to 43200, got '0'.",
    "lock=43201": "lock must be a number of seconds from 1 to 43200, got '43201'.",
    "lock=x": "lock must be a number of seconds from 1 to 43200, got 'x'.",
    "limt=1": "Unknown query parameter 'limt'. Did you mean 'limit'?",
    "isolation=read_committed": "Unknown query parameter 'isolation'.",
    "dead=t": "dead must be another topic than t",
    "dead=": "dead: Illegal topic name",
    "dead=no!": "dead: Illegal topic name",
    "dead=__consumer_offsets": "internal to Kafka",
}


@pytest.mark.parametrize("query", WRONG)
def test_acquire_with_a_wrong_parameter_is_a_400_and_acquires_nothing(
    client: FlaskClient, broker: FakeBroker, query: str
) -> None:
    write(broker, b"1")
    answer = client.post(f"{QUEUE}?{query}")
    assert code(answer) == (400, 400)
    assert WRONG[query] in answer.json["error"]["message"]  # type: ignore[index]
    assert not broker.share_groups.members("workers")


def test_acquire_with_a_body_is_a_400(client: FlaskClient, broker: FakeBroker) -> None:
    """The parameters of a client that sends them in the body would have no effect."""
    assert code(client.post(QUEUE, json={"limit": 10})) == (400, 400)
    assert not broker.share_groups.members("workers")
    assert client.post(QUEUE, data=b"").status_code == 200


def test_missing_topic_is_a_404_and_makes_no_group(client: FlaskClient, broker: FakeBroker) -> None:
    assert code(client.post("/messages/missing/workers/queue")) == (404, 40401)
    answer = client.post(f"{QUEUE}?dead=missing")
    assert code(answer) == (404, 40401)
    assert "missing" in answer.json["error"]["message"]  # type: ignore[index]
    assert not broker.list_groups()


def test_warning_says_that_the_queue_starts_at_the_end(client: FlaskClient, broker: FakeBroker) -> None:
    broker.share_groups.refuses_settings = True
    (warning,) = client.post(QUEUE).json["warnings"]  # type: ignore[index]
    assert "workers" in warning


def test_blocked_partition_is_named_with_the_lease_that_blocks_it(client: FlaskClient, broker: FakeBroker) -> None:
    broker.share_groups.set_group("workers", 6, 3600, window=3)
    write(broker, *[b"x"] * 5)
    held = leases(client, 3)
    client.delete(f"{QUEUE}/{','.join(held[1:])}")
    page = client.post(f"{QUEUE}?wait=0.3").json
    assert page is not None
    assert page["records"] == []
    assert page["blocked"] == [{"partition": 0, "offset": 0, "lease": held[0]}]


# acknowledge, reject, release, extend


def test_message_is_acknowledged_alone(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, *[b"x"] * 3)
    first, second, third = leases(client, 3)
    answer = client.delete(f"{QUEUE}/{second}")
    assert (answer.status_code, answer.json) == (200, {"leases": [{"lease": second, "acknowledged": True}]})
    assert client.put(f"{QUEUE}/{first},{third}?lock=0").status_code == 200
    assert offsets(client) == [0, 2]


def test_results_are_in_the_order_of_the_leases(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1", b"2")
    first, second = leases(client, 2)
    answer = client.delete(f"{QUEUE}/{second},{STALE},{first},{second}")
    assert answer.status_code == 207
    assert answer.json is not None
    assert [each["lease"] for each in answer.json["leases"]] == [second, STALE, first, second]
    assert [each.get("acknowledged") for each in answer.json["leases"]] == [True, None, True, True]
    assert answer.json["leases"][1]["error"]["code"] == 40904


def test_lost_leases_are_a_409_with_an_entry_each(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1")
    (lease,) = leases(client, 1)
    assert client.delete(f"{QUEUE}/{lease}").status_code == 200
    for answer in (client.delete(f"{QUEUE}/{lease},{STALE}"), client.put(f"{QUEUE}/{lease}?lock=60")):
        assert answer.status_code == 409
        assert {each["error"]["code"] for each in answer.json["leases"]} == {40904}  # type: ignore[index]


def test_lease_of_a_message_that_is_held_again_is_lost(client: FlaskClient, broker: FakeBroker) -> None:
    """Kafka would take the stale acknowledgement, because the same member holds the message."""
    write(broker, b"1")
    (stale,) = leases(client, 1)
    answer = client.put(f"{QUEUE}/{stale}?lock=0")
    assert answer.json == {"leases": [{"lease": stale, "acknowledged": True}]}
    (record,) = records(acquire(client))
    assert (record["offset"], record["attempt"]) == (0, 2)
    assert client.delete(f"{QUEUE}/{stale}").status_code == 409
    assert client.delete(f"{QUEUE}/{record['lease']}").status_code == 200


def test_rejected_message_is_not_delivered_again(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1", b"2")
    first, second = leases(client, 2)
    assert client.delete(f"{QUEUE}/{first}?reject=true").json == {"leases": [{"lease": first, "acknowledged": True}]}
    assert client.put(f"{QUEUE}/{second}?lock=0").status_code == 200
    assert offsets(client) == [1]


def test_rejected_message_with_a_dead_topic_is_published_there(client: FlaskClient, broker: FakeBroker) -> None:
    broker.create_topic("dead")
    write(broker, b"1")
    (record,) = records(acquire(client, "dead=dead"))
    assert client.delete(f"{QUEUE}/{record['lease']}?reject=true").status_code == 200
    (letter,) = client.get("/messages/dead/me/0").json["records"]  # type: ignore[index]
    assert letter["value"] == 1
    assert ["kafka-http-dead-reason", "rejected"] in letter["headers"]


def test_extend_sets_the_lock_from_now_on(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1")
    (lease,) = leases(client, 1)
    before = time.time() * 1000
    (entry,) = client.put(f"{QUEUE}/{lease}?lock=7200").json["leases"]  # type: ignore[index]
    assert entry.keys() == {"lease", "locked_until"}
    assert entry["locked_until"] >= before + 7_190_000
    (held,) = client.get(QUEUE).json["held"]  # type: ignore[index]
    assert held == {"lease": lease, "attempt": 1, "locked_until": entry["locked_until"]}


@pytest.mark.parametrize("query", ["", "lock=", "lock=0.5", "lock=-1", "lock=43201", "lock=60&wait=1", "reject=true"])
def test_extend_with_a_wrong_lock_is_a_400(client: FlaskClient, query: str) -> None:
    answer = client.put(f"{QUEUE}/{STALE}?{query}")
    assert code(answer) == (400, 400)
    assert "lock" in answer.json["error"]["message"]  # type: ignore[index]


@pytest.mark.parametrize(
    "lease", ["x", "0:1", "0:1:0", "0:1:0.", "0:1:.k1", "-1:1:0.k1", "0:1:0.k1,", "0:1:0.k-1", "٣:1:0.k1", "0:1:a b.k"]
)
def test_malformed_lease_is_a_400_that_names_it(client: FlaskClient, broker: FakeBroker, lease: str) -> None:
    write(broker, b"1")
    (held,) = leases(client, 1)
    for answer in (client.delete(f"{QUEUE}/{held},{lease}"), client.put(f"{QUEUE}/{held},{lease}?lock=0")):
        assert code(answer) == (400, 400)
        assert f"Lease {lease.rpartition(',')[2] if lease[-1] == ',' else lease!r}"[:7] in answer.text
    assert client.delete(f"{QUEUE}/{held}").status_code == 200, "nothing was done"


@pytest.mark.parametrize("reject", ["1", "yes", ""])
def test_reject_must_be_true_or_false(client: FlaskClient, reject: str) -> None:
    assert code(client.delete(f"{QUEUE}/{STALE}?reject={reject}")) == (400, 400)


# a page that was not sent


def test_page_that_was_not_sent_is_released(client: FlaskClient, broker: FakeBroker) -> None:
    """The client is gone: its messages must not stay locked."""
    write(broker, b"1")
    environ = create_environ(QUEUE, method="POST", query_string=f"wait=20&{LONG}")
    body: Any = client.application(environ, lambda *_: None)  # type: ignore[arg-type, return-value]
    assert b'"lease"' in next(iter(body))
    body.close()
    (record,) = records(acquire(client))
    assert record["offset"] == 0


def test_page_that_was_sent_stays_held(client: FlaskClient, broker: FakeBroker, monkeypatch: Any) -> None:
    released: list[str] = []
    confirmed: list[str] = []
    monkeypatch.setattr(QueueRegistry, "release_page", lambda _, page: released.append(page))
    monkeypatch.setattr(QueueRegistry, "confirm_pages", lambda _, pages: confirmed.extend(pages))
    write(broker, b"1", b"2")
    leases(client, 1)
    leases(client, 1)
    wait_for(lambda: len(confirmed) == 2)
    assert released == []


def test_page_for_a_client_that_lost_its_right_while_it_waited_is_released(
    make_client: ClientFactory, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Rights(read=names("*"), consumer=names("*"))
    access = StubAccess({"alice": both, "bob": both})
    access.install(monkeypatch)
    client = make_client()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, f"{QUEUE}?wait=60&{LONG}", headers={"X-Api-Key": "kh_alice"})
        wait_for(lambda: broker.share_groups.members("workers"))
        access.rights["alice"] = Rights(consumer=names("*"))
        client.application.extensions["kafka_http"].reload()
        write(broker, b"1")
        assert waiting.result().status_code == 403
    (record,) = records(acquire(client, **{"X-Api-Key": "kh_bob"}))
    assert record["offset"] == 0


# state and deletion


def test_state_shows_lag_limits_and_leases(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1", b"2", b"3")
    first, second = leases(client, 2)
    client.delete(f"{QUEUE}/{first}")
    wait_for(lambda: start(client) == 1)
    state = client.get(QUEUE).json
    assert state is not None
    (held,) = state.pop("held")
    assert (held["lease"], held["attempt"]) == (second, 1)
    assert state == {
        "topic": "t",
        "consumer": "workers",
        "attempts": 5,
        "lock": {"default": 30, "min": 1, "max": 43200},
        "partitions": [{"partition": 0, "start": 1, "end": 3, "lag": 2}],
    }


def test_state_of_a_queue_that_never_was_is_a_404(client: FlaskClient, broker: FakeBroker) -> None:
    for answer in (client.get(QUEUE), client.delete(QUEUE)):
        assert code(answer) == (404, 40406)
        assert "no queue workers on the topic t" in answer.json["error"]["message"]  # type: ignore[index]
    assert not broker.list_groups()


def test_queue_is_deleted_when_no_message_is_held(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1")
    (lease,) = leases(client, 1)
    answer = client.delete(QUEUE)
    assert code(answer) == (409, 409)
    assert "hold messages" in answer.json["error"]["message"]  # type: ignore[index]
    assert "has their leases in held" in answer.json["error"]["message"]  # type: ignore[index]
    assert client.delete(f"{QUEUE}/{lease}").status_code == 200
    assert client.delete(QUEUE).status_code == 204
    assert code(client.get(QUEUE)) == (404, 40406)
    assert not broker.list_groups()


def test_queue_that_another_program_reads_is_not_deleted(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1")
    (lease,) = leases(client, 1)
    client.delete(f"{QUEUE}/{lease}")
    ignored: list[Any] = [lambda *_: None] * 4
    broker.share_groups.join("workers", "t", ShareListener(lambda: 0, *ignored))
    answer = client.delete(QUEUE)
    assert code(answer) == (409, 409)
    assert "has members" in answer.json["error"]["message"]  # type: ignore[index]


def test_number_of_attempts_is_that_of_the_setting(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(queue_attempts=3)
    client.post(QUEUE)
    assert client.get(QUEUE).json["attempts"] == 3  # type: ignore[index]


# paths


@pytest.mark.parametrize(("method", "query"), [("POST", ""), ("DELETE", ""), ("PUT", "?lock=0")])
def test_path_with_an_empty_lease_is_a_404_that_does_nothing(
    client: FlaskClient, broker: FakeBroker, method: str, query: str
) -> None:
    """A shell variable may be empty: the DELETE would delete the queue."""
    write(broker, b"1")
    (lease,) = leases(client, 1)
    client.delete(f"{QUEUE}/{lease}")
    answer = client.open(f"{QUEUE}/{query}", method=method)
    assert code(answer) == (404, 404)
    assert "empty segment" in answer.json["error"]["message"]  # type: ignore[index]
    assert start(client) == 1


def test_consumer_may_have_the_name_queue(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1")
    assert client.delete("/messages/t/queue/0?partition=0").status_code == 204
    assert client.get("/messages/t/queue").json["partitions"][0]["committed"] == 1  # type: ignore[index]
    assert client.delete("/messages/t/queue").status_code == 204
    assert client.post("/messages/t/queue").status_code == 405
    assert client.put("/messages/t/workers/queue").status_code == 400


def test_names_with_a_slash_are_names(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1")
    path, raw = "/messages/t/a%2Fb/queue", {"RAW_URI": "/messages/t/a%2Fb/queue"}
    page = client.post(path, query_string="wait=20", environ_overrides=raw | {"RAW_URI": f"{path}?wait=20"}).json
    assert page is not None
    assert (page["consumer"], len(page["records"])) == ("a/b", 1)


# errors


CALLS: list[Callable[[FlaskClient], Any]] = [
    lambda client: client.post(QUEUE),
    lambda client: client.get(QUEUE),
    lambda client: client.delete(QUEUE),
]


@pytest.mark.parametrize("call", CALLS)
def test_brokers_without_share_groups_are_a_501(
    client: FlaskClient, broker: FakeBroker, call: Callable[[FlaskClient], Any]
) -> None:
    broker.share_groups.unsupported = True
    answer = call(client)
    assert code(answer) == (501, 501)
    assert "4.2" in answer.json["error"]["message"]


@pytest.mark.parametrize("call", CALLS)
def test_unreachable_broker_is_a_503(
    client: FlaskClient, broker: FakeBroker, call: Callable[[FlaskClient], Any]
) -> None:
    broker.down = True
    assert code(call(client)) == (503, 50302)


@pytest.mark.parametrize(
    ("codes", "status", "retry"),
    [((504,), 504, None), ((50302, 503), 503, "1"), ((504, 40904), 207, None), ((503, 0), 207, None)],
)
def test_status_of_a_settlement_is_that_of_its_errors(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, codes: Sequence[int], status: int, retry: str | None
) -> None:
    sent = [f"0:{number}:0.k1" for number in range(len(codes))]

    def settle(*_: Any) -> list[LeaseResult]:
        errors = [ErrorEntry(code, "a sentence") if code else None for code in codes]
        return [
            LeaseResult(lease, error=error, acknowledged=None if error else True)
            for lease, error in zip(sent, errors, strict=True)
        ]

    monkeypatch.setattr(QueueRegistry, "settle_messages", settle)
    answer = client.delete(f"{QUEUE}/{','.join(sent)}")
    assert (answer.status_code, answer.headers.get("Retry-After")) == (status, retry)
    assert [each["lease"] for each in answer.json["leases"]] == sent  # type: ignore[index]


# clashes of names


def is_wrong_type(answer: Any) -> None:
    assert code(answer) == (409, 40905), answer.text
    assert "/queue" in answer.json["error"]["message"]


@pytest.fixture
def queue(client: FlaskClient, broker: FakeBroker) -> FlaskClient:
    """A client of a server with the queue `workers`, whose message 0 is done."""
    write(broker, b"1", b"2")
    (lease,) = leases(client, 1)
    client.delete(f"{QUEUE}/{lease}")
    return client


OFFSET_CALLS = [
    ("GET", "/messages/t/workers"),
    ("DELETE", "/messages/t/workers"),
    ("PUT", "/messages/t/workers/0:0"),
    ("DELETE", "/messages/t/workers/0:0"),
    ("GET", "/messages/t/workers/committed"),
    ("GET", "/messages/t/workers/committed?ack=previous"),
    ("GET", "/messages/t/workers/0:1?ack=previous"),
]


@pytest.mark.parametrize(("method", "path"), OFFSET_CALLS)
def test_offset_call_on_the_name_of_a_queue_names_the_calls_of_queues(
    queue: FlaskClient, method: str, path: str
) -> None:
    is_wrong_type(queue.open(path, method=method))
    assert start(queue) == 1


def test_stream_from_the_committed_offset_of_a_queue_is_refused(queue: FlaskClient) -> None:
    is_wrong_type(queue.get("/messages/t/workers/committed?until=end", headers={"Accept": "text/event-stream"}))


def test_plain_read_under_the_name_of_a_queue_is_allowed(queue: FlaskClient) -> None:
    assert len(queue.get("/messages/t/workers/earliest").json["records"]) == 2  # type: ignore[index]


def test_v2_instance_in_the_group_of_a_queue_is_refused(queue: FlaskClient) -> None:
    answer = queue.post("/consumers/workers", json={"format": "json"}, headers={"Content-Type": V2})
    assert (answer.status_code, answer.json["error_code"]) == (409, 40905)  # type: ignore[index]
    assert "queue" in answer.json["message"]  # type: ignore[index]


def test_queue_on_the_name_of_an_ordinary_consumer_is_refused(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1")
    assert client.delete("/messages/t/workers/0:0").status_code == 204
    assert code(acquire(client)) == (409, 40905)
    for answer in (client.get(QUEUE), client.delete(QUEUE)):
        assert code(answer) == (409, 40905)
        assert "ordinary consumer" in answer.json["error"]["message"]  # type: ignore[index]
    assert client.get("/messages/t/workers").json["partitions"][0]["committed"] == 1  # type: ignore[index]


# facts of the request


def test_acquired_messages_are_counted(client: FlaskClient, broker: FakeBroker) -> None:
    written: Sequence[Any] = broker.publish("t", [NewRecord(b"123", partition=0)] * 3, 1).result()
    assert isinstance(written[0], RecordMetadata)
    leases(client, 3)
    text = client.get("/metrics").text
    assert 'kafka_http_consumed_records_total{topic="t"}' in text
