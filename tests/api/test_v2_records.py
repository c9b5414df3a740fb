"""Reads of consumer instances of the REST Proxy v2 API, with an inline daemon and a fake broker."""

import base64
import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.records import NewRecord
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.polling import scaled
from tests.support.v2_consumer import AVRO_V2, BINARY_V2, JSON_V2, V2, Consumer, error, write

# records


def test_read_returns_page_of_records(client: FlaskClient, broker: FakeBroker) -> None:
    headers: list[tuple[str, bytes | None]] = [("a", b"\xff"), ("b", None)]
    broker.publish("t", [NewRecord(b'{"n": 1.50}', b'"k"', 0, 1790000000000, headers), NewRecord(None)], 1).result()
    consumer = Consumer(client).subscribed()
    answer = consumer.call("GET", "/records")
    assert (answer.status_code, answer.content_type) == (200, JSON_V2)
    assert answer.content_length == len(answer.data)
    assert b'"value":{"n": 1.50}' in answer.data
    first, second = answer.json
    assert first == {
        "topic": "t",
        "key": "k",
        "value": {"n": 1.5},
        "partition": 0,
        "offset": 0,
        "timestamp": 1790000000000,
        "headers": [{"key": "a", "value": base64.b64encode(b"\xff").decode()}, {"key": "b", "value": None}],
    }
    assert (second["key"], second["value"], "headers" in second) == (None, None, False)


def test_read_without_records_returns_empty_page(client: FlaskClient) -> None:
    consumer = Consumer(client).subscribed()
    began = time.monotonic()
    answer = consumer.call("GET", "/records?timeout=300")
    assert (answer.status_code, answer.json, answer.content_type) == (200, [], JSON_V2)
    assert 0.25 < time.monotonic() - began < scaled(3)


def test_read_without_timeout_uses_instance_timeout(client: FlaskClient) -> None:
    consumer = Consumer(client, **{"consumer.request.timeout.ms": "200"}).subscribed()
    began = time.monotonic()
    assert consumer.call("GET", "/records").json == []
    assert consumer.call("GET", "/records?timeout=-1").json == []
    assert 0.35 < time.monotonic() - began < scaled(3)


def test_read_returns_as_soon_as_a_record_arrives(client: FlaskClient, broker: FakeBroker) -> None:
    consumer = Consumer(client).subscribed()
    timer = threading.Timer(0.3, write, (broker, b"1"))
    began = time.monotonic()
    timer.start()
    assert consumer.values(timeout=20000) == [1]
    assert 0.25 < time.monotonic() - began < scaled(5)
    timer.join()


@pytest.mark.parametrize("instance", ["json", "binary"])
@pytest.mark.parametrize(
    "accept",
    [
        None,
        "",
        "*/*",
        "application/*",
        "application/json",
        "application/octet-stream",
        V2,
        "application/vnd.kafka.v1+json",
        "own",
        "own;q=0.1, text/html",
        "own v1",
        "text/html, */*;q=0.1",
        f"{AVRO_V2}, */*;q=0.1",
    ],
)
def test_records_have_format_of_instance(
    client: FlaskClient, broker: FakeBroker, instance: str, accept: str | None
) -> None:
    own = f"application/vnd.kafka.{instance}.v2+json"
    write(broker, b"1")
    consumer = Consumer(client, format=instance).assigned()
    headers = {}
    if accept is not None:
        headers["Accept"] = accept.replace("own v1", own.replace("v2", "v1")).replace("own", own)
    answer = client.get(f"{consumer.path}/records", headers=headers)
    assert (answer.status_code, answer.content_type) == (200, own)
    assert [each["value"] for each in answer.json] == [1 if instance == "json" else "MQ=="]


@pytest.mark.parametrize("accept", [BINARY_V2, AVRO_V2, f"{BINARY_V2};q=0.5, text/html", f"{BINARY_V2}, {JSON_V2};q=0"])
def test_accept_of_another_format_returns_406(client: FlaskClient, broker: FakeBroker, accept: str) -> None:
    write(broker, b"1")
    consumer = Consumer(client).assigned()
    assert error(consumer.call("GET", "/records", Accept=accept)) == (
        406,
        40601,
        "The requested embedded data format does not match the deserializer for this consumer instance",
    )
    assert consumer.values() == [1]


@pytest.mark.parametrize("accept", ["text/html", "application/vnd.kafka.json.v3+json", "application/xml, text/*"])
def test_unknown_accept_returns_406(client: FlaskClient, accept: str) -> None:
    answer = Consumer(client).assigned().call("GET", "/records", Accept=accept)
    assert error(answer)[:2] == (406, 406)
    assert JSON_V2 in answer.json["message"]


def test_read_without_subscription_returns_40903(client: FlaskClient) -> None:
    status, code, message = error(Consumer(client).call("GET", "/records"))
    assert (status, code) == (409, 40903)
    assert message.startswith("Illegal state: ")


@pytest.mark.parametrize("query", ["timeout=soon", "timeout=1.5", "max_bytes=x", "max_bytes=-2", "max_poll_records=x"])
def test_query_parameter_of_wrong_type_returns_422(client: FlaskClient, query: str) -> None:
    answer = Consumer(client).assigned().call("GET", f"/records?{query}")
    assert error(answer)[:2] == (422, 422)
    assert query.partition("=")[0] in answer.json["message"]


@pytest.mark.parametrize("query", ["max_bytes=&timeout=", "max_bytes=-1&max_poll_records=-1", "other=1"])
def test_empty_query_parameters_mean_default(client: FlaskClient, broker: FakeBroker, query: str) -> None:
    write(broker, b"1")
    assert len(Consumer(client).assigned().call("GET", f"/records?{query}").json) == 1


def test_record_larger_than_max_bytes_is_returned(client: FlaskClient, broker: FakeBroker) -> None:
    broker.message_limit = 6 << 20
    large = '"' + "x" * (5 << 20) + '"'
    write(broker, b"0", large.encode(), b"2")
    consumer = Consumer(client).assigned()
    pages = [consumer.values(max_bytes=1) for _ in range(3)]
    assert [len(each) for each in pages] == [1, 1, 1]
    assert (pages[0], pages[2]) == ([0], [2])
    assert len(pages[1][0]) == 5 << 20


@pytest.mark.parametrize("how", ["query", "field"])
def test_max_bytes_and_max_poll_records_limit_the_page(client: FlaskClient, broker: FakeBroker, how: str) -> None:
    write(broker, *(b'"%s"' % (b"x" * 998) for _ in range(10)))
    by_size = {"fetch.max.bytes": "3000"} if how == "field" else {}
    consumer = Consumer(client, **by_size).assigned()
    assert len(consumer.records(**({"max_bytes": 3000} if how == "query" else {}))) in {2, 3}
    by_count = {"max.poll.records": 4} if how == "field" else {}
    consumer = Consumer(client, name="other", **by_count).assigned()
    assert len(consumer.records(**({"max_poll_records": 4} if how == "query" else {}))) == 4


def test_max_bytes_over_max_page_bytes_is_reduced_to_it(make_client: ClientFactory, broker: FakeBroker) -> None:
    write(broker, *(b'"%s"' % (b"x" * 998) for _ in range(10)))
    consumer = Consumer(make_client(max_page_bytes=3000)).assigned()
    assert len(consumer.records(max_bytes=1 << 40)) in {2, 3}


def test_fetch_min_bytes_delays_the_page(client: FlaskClient, broker: FakeBroker) -> None:
    consumer = Consumer(client, **{"fetch.min.bytes": "50"}).assigned()
    write(broker, b"1")
    timer = threading.Timer(0.4, write, (broker, b'"%s"' % (b"x" * 60)))
    timer.start()
    assert len(consumer.values(timeout=20000)) == 2
    timer.join()
    write(broker, b"2")
    assert consumer.values(timeout=300) == [2]


@pytest.mark.parametrize("parts", [["key"], ["value"], ["key", "value"]], ids="-".join)
def test_key_or_value_that_cannot_be_decoded_is_base64_with_error(
    client: FlaskClient, broker: FakeBroker, parts: list[str]
) -> None:
    """A key such as a-17 (from a Java string serializer) hid a value that could be decoded."""
    bad = b"a-17"
    record = {"key": b'"k"', "value": b"1", **dict.fromkeys(parts, bad)}
    broker.publish("t", [NewRecord(b"0"), NewRecord(**record), NewRecord(b"2")], 1).result()
    first, poison, last = Consumer(client).assigned().records()
    assert (first["value"], last["value"]) == (0, 2)
    assert "error" not in first
    assert poison["error"]["error_code"] == 40801
    assert re.findall("(key|value): format 'json' cannot read it", poison["error"]["message"]) == parts
    shown = {"key": "k", "value": 1, **dict.fromkeys(parts, base64.b64encode(bad).decode())}
    assert {each: poison[each] for each in ("key", "value")} == shown
    assert poison["offset"] == 1


def test_next_read_continues_after_previous_page(client: FlaskClient, broker: FakeBroker) -> None:
    for partition in range(3):
        write(broker, *(b"%d" % (partition * 100 + each) for each in range(5)), topic="three", partition=partition)
    consumer = Consumer(client).subscribed("three")
    seen: list[int] = []
    while page := consumer.values(timeout=50, max_poll_records=2):
        assert len(page) <= 2
        seen += page
    assert sorted(seen) == sorted(partition * 100 + each for partition in range(3) for each in range(5))


def test_page_whose_end_was_not_requested_is_delivered_again(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"0", b"1")
    consumer = Consumer(client, **{"auto.commit.enable": False}).subscribed()
    for _ in range(2):
        answer = client.get(f"{consumer.path}/records")
        pieces = iter(answer.response)
        assert json.loads(next(pieces))[0]["offset"] == 0
        answer.close()  # the server has not asked for the next part
    consumer.call("POST", "/offsets")
    assert consumer.committed() == []
    assert consumer.values() == [0, 1]
    assert consumer.values(timeout=50) == []
    consumer.call("POST", "/offsets")
    assert consumer.committed() == [("t", 0, 2)]


def test_page_that_was_not_sent_is_delivered_again(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"0")
    consumer = Consumer(client).assigned()
    client.get(f"{consumer.path}/records").close()
    assert consumer.values() == [0]


@pytest.mark.parametrize("then", ["commit", "delete"])
def test_call_right_after_a_page_waits_for_its_delivery(client: FlaskClient, broker: FakeBroker, then: str) -> None:
    """The client has the whole page a moment before the server asks for the next part."""
    write(broker, b"0", b"1")
    consumer = Consumer(client).subscribed()
    answer = client.get(f"{consumer.path}/records")
    pieces = iter(answer.response)
    next(pieces)
    other = client.application.test_client()
    with ThreadPoolExecutor(1) as pool:
        if then == "commit":
            going_on = pool.submit(other.post, f"{consumer.path}/offsets")
        else:
            going_on = pool.submit(other.delete, consumer.path)
        time.sleep(0.1)  # the other call may have arrived or not; both must work
        assert list(pieces) == []
        assert going_on.result().status_code in {200, 204}
    answer.close()
    assert Consumer(client, name="next").committed() == [("t", 0, 2)]


def test_concurrent_reads_of_one_instance_get_each_record_once(client: FlaskClient, broker: FakeBroker) -> None:
    consumer = Consumer(client).subscribed()
    assert consumer.values(timeout=50) == []

    def get(_: int) -> list[Any]:
        answer = client.application.test_client().get(f"{consumer.path}/records?timeout=600")
        assert answer.status_code == 200
        return [each["value"] for each in answer.json]

    with ThreadPoolExecutor(4) as pool:
        pages = pool.map(get, range(4))
        for each in range(4):
            time.sleep(0.02)
            write(broker, b"%d" % each)
        seen = [value for page in pages for value in page]
    assert sorted(seen + consumer.values(timeout=50)) == [0, 1, 2, 3]


def test_waiting_read_does_not_block_other_instances(client: FlaskClient, broker: FakeBroker) -> None:
    waiting, other = Consumer(client).assigned(), Consumer(client, name="other").assigned(("three", 0))
    with ThreadPoolExecutor(1) as pool:
        page = pool.submit(lambda: client.application.test_client().get(f"{waiting.path}/records?timeout=5000").json)
        write(broker, b"1", topic="three")
        began = time.monotonic()
        assert other.values() == [1]
        assert time.monotonic() - began < scaled(3)
        write(broker, b"2")
        assert [each["value"] for each in page.result()] == [2]


def concurrent_gets(client: FlaskClient, paths: list[str], then: Callable[[], None]) -> list[tuple[float, int]]:
    """Read all paths at once, starting a moment apart. Return the duration and the number of records of each."""
    results: list[tuple[float, int]] = [(0, 0)] * len(paths)

    def get(index: int) -> None:
        began = time.monotonic()
        answer = client.application.test_client().get(paths[index])
        results[index] = (time.monotonic() - began, len(answer.json))

    threads = [threading.Thread(target=get, args=(each,)) for each in range(len(paths))]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    then()
    for thread in threads:
        thread.join()
    return results


def test_waiting_reads_use_at_most_half_of_the_threads(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(threads=4)
    consumers = [Consumer(client, name=f"c{each}").assigned() for each in range(3)]
    paths = [f"{each.path}/records?timeout=8000" for each in consumers]
    first, second, third = concurrent_gets(client, paths, lambda: write(broker, b"1"))
    assert (first[1], second[1]) == (1, 1)
    assert third[1] == 0
    assert third[0] < min(first[0], second[0])
    assert consumers[2].values() == [1]


def test_waiting_reads_of_both_dialects_share_the_limit(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(threads=2)
    consumer = Consumer(client).assigned()
    paths = ["/messages/t/someone/latest?wait=8", f"{consumer.path}/records?timeout=8000"]
    _, (_, records) = concurrent_gets(client, paths, lambda: write(broker, b"1"))
    assert records == 0  # it did not wait for the message


@pytest.mark.parametrize("timeout", [0, 1000])
@pytest.mark.parametrize("how", ["subscribed", "assigned"])
def test_recreated_topic_is_read_from_its_start(
    client: FlaskClient, broker: FakeBroker, how: str, timeout: int
) -> None:
    """The instance continued at its offset in the old topic."""
    write(broker, *(b"%d" % each for each in range(8)))
    consumer = getattr(Consumer(client), how)()
    assert len(consumer.values()) == 8
    broker.delete_topic("t")
    broker.create_topic("t")
    write(broker, *(b"%d" % each for each in range(100, 120)))
    assert consumer.values(timeout=timeout) == list(range(100, 120))
    assert consumer.call("POST", "/offsets").status_code == 200
    assert consumer.committed() == [("t", 0, 20)]


def test_deleted_topic_does_not_block_other_topics(client: FlaskClient, broker: FakeBroker) -> None:
    broker.create_topic("gone")
    consumer = Consumer(client).subscribed("t", "gone")
    assert consumer.values(timeout=50) == []
    broker.delete_topic("gone")
    write(broker, b"1")
    assert consumer.values() == [1]


def test_read_without_broker_returns_503(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1")
    consumer = Consumer(client).assigned()
    broker.down = True
    answer = consumer.call("GET", "/records")
    assert error(answer)[:2] == (503, 50302)
    assert int(answer.headers["Retry-After"]) >= 1
    broker.down = False
    assert consumer.values() == [1]
