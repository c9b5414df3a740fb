"""GET /messages/<topic>/<consumer>/<offset>: streams of server-sent events and NDJSON."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kafka_http.read.topic_follower import BUFFER_BYTES
from kafka_http.records import NewRecord
from tests.api.conftest import ClientFactory
from tests.support.event_parser import Event, EventParser
from tests.support.fake_broker import FakeBroker
from tests.support.polling import scaled

EVENTS = "text/event-stream"
NDJSON = "application/x-ndjson"


def put(broker: FakeBroker, topic: str, *values: bytes | None, partition: int = 0, **more: Any) -> None:
    broker.producer.publish(topic, [NewRecord(value, partition=partition, **more) for value in values], 1).result()


class Open:
    """An open stream."""

    def __init__(self, client: FlaskClient, path: str, accept: str = EVENTS, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response: TestResponse = client.get(path, headers={"Accept": accept, **named})
        assert self.response.status_code == 200, self.response.text
        self._chunks: Iterator[bytes] = self.response.iter_encoded()
        self.parser = EventParser()
        self.bytes = b""
        self._events: list[Event] = []
        self._is_events = accept == EVENTS
        assert self.read()

    def close(self) -> None:
        self.response.close()

    def read(self) -> bool:
        """Take one more chunk; false at the end."""
        chunk = next(self._chunks, None)
        self.bytes += chunk or b""
        if self._is_events:
            self._events += self.parser.feed(chunk or b"")
        return chunk is not None

    def until(self, condition: Any, seconds: float = 20) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline
            assert self.read(), self.bytes[-1000:]
        return found

    def events(self, count: int) -> list[Event]:
        """The next so many events."""
        self.until(lambda: len(self._events) >= count)
        found, self._events = self._events[:count], self._events[count:]
        return found

    def values(self, count: int) -> list[Any]:
        found = self.events(count)
        assert {each.type for each in found} == {"message"}, found
        return [each.json["value"] for each in found]

    def rest(self) -> list[Event]:
        """All events up to the end."""
        while self.read():
            pass
        found, self._events = self._events, []
        return found

    def lines(self) -> list[Any]:
        """All lines up to the end, of a stream of NDJSON."""
        while self.read():
            pass
        assert self.bytes.endswith(b"\n")
        return [json.loads(line) for line in self.bytes.split(b"\n") if line]


def stream(client: FlaskClient, path: str, accept: str = EVENTS, **headers: str) -> Any:
    return closing(Open(client, path, accept, **headers))


def status(client: FlaskClient, path: str, accept: str = EVENTS, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(client.get(path, headers={"Accept": accept, **named})) as response:
        return response.status_code


@pytest.fixture
def five(broker: FakeBroker) -> None:
    put(broker, "t", *(b"%d" % number for number in range(5)))


@pytest.mark.usefixtures("five")
def test_event_stream_sends_events(client: FlaskClient, broker: FakeBroker) -> None:
    with stream(client, "/messages/t/me/2") as events:
        assert events.response.content_type == EVENTS
        assert events.response.headers["X-Accel-Buffering"] == "no"
        assert events.response.headers["Cache-Control"] == "no-store"
        assert events.bytes.startswith(b"id: 0:2,*:earliest\n\n")
        assert events.parser.ids[0] == "0:2,*:earliest"
        put(broker, "t", b'{"a":\r\n 1}', key=b"k", timestamp=7, headers=(("h", b"v"),))
        put(broker, "t", None)
        events.until(lambda: events.parser.last_id == "0:7,*:earliest")
        assert events.parser.ids[:5] == [f"0:{offset},*:earliest" for offset in (2, 3, 4, 5, 6)]


@pytest.mark.usefixtures("five")
def test_stream_record_is_shown_as_in_a_page(client: FlaskClient, broker: FakeBroker) -> None:
    put(broker, "t", b'{"a":\r\n 1}', b"\xff", b"text", None, key=b"\xfe", headers=(("h", b"v"), ("n", None)))
    page = client.get("/messages/t/me/earliest").json
    with stream(client, "/messages/t/me/earliest?until=end") as events:
        *records, end = events.rest()
    assert [each.json for each in records] == page["records"]
    assert (end.type, end.json) == ("end", {"next": page["next"]})
    with stream(client, "/messages/t/me/earliest?until=end", NDJSON) as lines:
        assert lines.lines() == page["records"]


@pytest.mark.usefixtures("five")
def test_ndjson_stream_sends_lines(client: FlaskClient, broker: FakeBroker) -> None:
    with stream(client, "/messages/t/me/4", NDJSON) as lines:
        assert lines.response.content_type == NDJSON
        lines.until(lambda: b'"offset":4' in lines.bytes)
        put(broker, "t", b"[\n]")
        lines.until(lambda: b'"offset":5' in lines.bytes)
    assert [json.loads(line)["value"] for line in lines.bytes.splitlines() if line] == [4, []]


@pytest.mark.parametrize(("accept", "sign"), [(EVENTS, b"id: 0:5,*:earliest\n\n"), (NDJSON, b"\n")])
@pytest.mark.usefixtures("five")
def test_idle_stream_sends_a_keepalive(make_client: ClientFactory, accept: str, sign: bytes) -> None:
    with stream(make_client(stream_keepalive=0.2), "/messages/t/me/latest", accept) as silent:
        silent.until(lambda: len(silent.bytes) >= 3 * len(sign), 5)
        assert silent.bytes == sign * (len(silent.bytes) // len(sign))


@pytest.mark.usefixtures("five")
def test_stream_continues_from_last_event_id(client: FlaskClient) -> None:
    with stream(client, "/messages/t/me/earliest") as events:
        assert events.values(3)[:3] == [0, 1, 2]
    with stream(client, "/messages/t/me/earliest?partition=0", Last_Event_ID="0:3") as events:
        assert events.parser.ids[0] == "0:3"
        assert events.values(2) == [3, 4]
    with stream(client, "/messages/t/me/earliest?until=end", NDJSON, Last_Event_ID="0:3") as lines:
        assert [each["value"] for each in lines.lines()] == [3, 4]


def test_event_id_contains_all_requested_partitions(client: FlaskClient, broker: FakeBroker) -> None:
    for partition in range(3):
        put(broker, "three", b"%d" % partition, partition=partition)
    with stream(client, "/messages/three/me/earliest?until=end") as events:
        records = events.rest()[:-1]
    assert {each.json["partition"] for each in records} == {0, 1, 2}
    ids = [each.removesuffix(",*:earliest").split(",") for each in events.parser.ids[:4]]
    assert [sum(int(part.split(":")[1]) for part in each) for each in ids] == [0, 1, 2, 3]
    assert events.parser.last_id == "0:1,1:1,2:1,*:earliest;end"
    with stream(client, "/messages/three/me/earliest?partition=1,2&limit=1") as events:
        assert [each.type for each in events.rest()] == ["message", "end"]
        assert events.parser.ids[0] == "1:0,2:0"


def test_stream_position_skips_offsets_without_records(client: FlaskClient, broker: FakeBroker) -> None:
    with stream(client, "/messages/t/me/earliest") as events:
        broker.pass_over("t", count=3)
        put(broker, "t", b"1")
        assert events.values(1) == [1]
        assert events.parser.last_id == "0:4,*:earliest"


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize("accept", [EVENTS, NDJSON])
@pytest.mark.parametrize(
    ("query", "count"),
    [("limit=3", 3), ("limit=5", 5), ("max_bytes=2", 2), ("max_bytes=5&limit=9", 5), ("until=end", 5)],
)
def test_stream_until_end_ends(client: FlaskClient, accept: str, query: str, count: int) -> None:
    with stream(client, f"/messages/t/me/earliest?{query}", accept) as ends:
        if accept == NDJSON:
            assert [each["value"] for each in ends.lines()] == list(range(count))
            return
        *records, end = ends.rest()
    assert [each.json["value"] for each in records] == list(range(count))
    assert (end.type, end.json) == ("end", {"next": f"0:{count},*:earliest"})
    last = ends.parser.last_id
    assert status(client, f"/messages/t/me/earliest?{query}", accept, Last_Event_ID=last) == 204


def test_stream_with_small_max_bytes_sends_one_message(client: FlaskClient, broker: FakeBroker) -> None:
    put(broker, "t", b"12345", b"6")
    with stream(client, "/messages/t/me/earliest?max_bytes=3", NDJSON) as lines:
        assert [each["value"] for each in lines.lines()] == [12345]


def test_limit_applies_at_the_end_of_the_log(client: FlaskClient, broker: FakeBroker) -> None:
    with stream(client, "/messages/t/me/earliest?limit=3") as events:
        put(broker, "t", b"0", b"1")
        assert events.values(2) == [0, 1]
        put(broker, "t", b"2", b"3", b"4")
        assert [each.data for each in events.rest()][1:] == ['{"next":"0:3,*:earliest"}']


@pytest.mark.usefixtures("five")
def test_stream_until_end_ends_where_the_log_ended_at_start(client: FlaskClient, broker: FakeBroker) -> None:
    put(broker, "t", *(b"%d" % number for number in range(5, 3000)))
    with stream(client, "/messages/t/me/earliest?until=end", NDJSON) as lines:
        put(broker, "t", *(b"x" for _ in range(3000)))
        assert [each["value"] for each in lines.lines()] == list(range(3000))


def test_stream_of_an_empty_topic_until_end_ends(client: FlaskClient) -> None:
    with stream(client, "/messages/three/me/earliest?until=end") as events:
        assert [each.type for each in events.rest()] == ["end"]
    with stream(client, "/messages/three/me/earliest?until=end", NDJSON) as lines:
        assert lines.lines() == []


@pytest.mark.usefixtures("five")
def test_reconnect_after_the_end_returns_204(client: FlaskClient, broker: FakeBroker) -> None:
    path = "/messages/t/me/earliest?until=end"
    assert status(client, path, Last_Event_ID="0:5") == 204
    put(broker, "t", b"5")
    assert status(client, path, Last_Event_ID="0:5;end") == 204, "though there is more by now"
    with stream(client, path, Last_Event_ID="0:5") as events:
        assert [each.type for each in events.rest()] == ["message", "end"]


@pytest.mark.usefixtures("five")
def test_stream_with_ack_previous_commits_its_position(client: FlaskClient, broker: FakeBroker) -> None:
    with stream(client, "/messages/t/me/1?ack=previous") as events:
        assert events.values(4) == [1, 2, 3, 4]
        assert broker.committed("me", "t", [0]) == {0: 1}
    with stream(client, "/messages/t/me/1?ack=previous", Last_Event_ID="0:4"):
        assert broker.committed("me", "t", [0]) == {0: 4}
    assert status(client, "/messages/t/me/1?ack=previous", Last_Event_ID="0:5;end") == 204
    assert broker.committed("me", "t", [0]) == {0: 5}
    with stream(client, "/messages/t/me/committed?ack=previous"):
        assert broker.committed("me", "t", [0]) == {0: 5}


@pytest.mark.usefixtures("five")
def test_stream_from_a_committed_offset_removed_by_retention_uses_reset(
    client: FlaskClient, broker: FakeBroker
) -> None:
    broker.commit("me", "t", {0: 1})
    broker.delete_before("t", 0, 3)
    with stream(client, "/messages/t/me/committed?until=end") as events:
        assert [each.json["value"] for each in events.rest()[:-1]] == [3, 4]
    assert events.parser.ids[0] == "0:3,*:earliest"
    with stream(client, "/messages/t/me/committed?reset=latest&until=end") as events:
        assert events.rest()[0].type == "end"


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize("accept", [EVENTS, NDJSON])
@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/messages/nope/me/earliest", {}, 404),
        ("/messages/t/me/earliest?partition=7", {}, 404),
        ("/messages/t/me/6", {}, 416),
        ("/messages/t/me/6?until=end", {}, 416),
        ("/messages/t/me/6?ack=previous", {}, 416),
        ("/messages/t/me/x", {}, 400),
        ("/messages/t/me/earliest?wait=1", {}, 400),
        ("/messages/t/me/earliest?limit=0", {}, 400),
        ("/messages/t/me/earliest?until=now", {}, 400),
        ("/messages/t/me/earliest?format=nope", {}, 415),
        ("/messages/t/me/earliest", {"Last_Event_ID": "x"}, 400),
        ("/messages/t/me/earliest", {"Last_Event_ID": "earliest"}, 400),
        ("/messages/t/me/earliest", {"Last_Event_ID": "0:9"}, 416),
    ],
)
def test_error_before_the_first_record_has_its_status(
    client: FlaskClient, accept: str, path: str, headers: dict[str, str], expected: int
) -> None:
    assert status(client, path, accept, **headers) == expected


def test_until_parameter_of_a_page_returns_400(client: FlaskClient) -> None:
    assert client.get("/messages/t/me/earliest?until=end").status_code == 400


def test_head_of_a_stream_returns_405(client: FlaskClient) -> None:
    assert client.head("/messages/t/me/earliest", headers={"Accept": EVENTS}).status_code == 405


def test_stream_while_broker_is_down_returns_503(client: FlaskClient, broker: FakeBroker) -> None:
    broker.down = True
    response = client.get("/messages/t/me/earliest", headers={"Accept": EVENTS})
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")


def test_stream_continues_after_the_broker_was_down(client: FlaskClient, broker: FakeBroker) -> None:
    with stream(client, "/messages/t/me/earliest") as events:
        put(broker, "t", b"1")
        assert events.values(1) == [1]
        broker.down = True
        events.read()
        broker.down = False
        put(broker, "t", b"2")
        assert events.values(1) == [2]


@pytest.mark.usefixtures("five")
def test_error_during_a_stream_is_its_last_event(client: FlaskClient, broker: FakeBroker) -> None:
    path = "/messages/t/me/earliest"
    with stream(client, path) as events, stream(client, path, NDJSON) as lines:
        assert events.values(5) == [0, 1, 2, 3, 4]
        broker.delete_topic("t")
        (last,) = events.rest()
        *_, last_line = lines.lines()
    assert (last.type, last.json["error"]["code"], last.json["next"]) == ("error", 40401, "*:earliest")
    assert (last_line["error"]["code"], last_line["next"]) == (40401, "*:earliest")
    assert events.parser.last_id == "*:earliest", "its offsets are none of a later topic of that name"


def test_value_that_cannot_be_decoded_is_an_error_in_its_event(client: FlaskClient, broker: FakeBroker) -> None:
    put(broker, "t", b"{", b"1")
    with stream(client, "/messages/t/me/earliest?format=json&until=end", NDJSON) as lines:
        first, second = lines.lines()
    assert first["error"]["code"] == 422
    assert second["value"] == 1


@pytest.mark.usefixtures("five")
def test_stopping_server_sends_retry(client: FlaskClient) -> None:
    with stream(client, "/messages/t/me/3") as events, stream(client, "/messages/t/me/latest", NDJSON) as lines:
        assert events.values(2) == [3, 4]
        client.application.extensions["kafka_http"].stop()
        began = time.monotonic()
        assert events.rest() == []
        assert time.monotonic() - began < scaled(1)
        assert events.parser.retry
        assert events.parser.last_id == "0:5,*:earliest"
        assert [(each["error"]["code"], each["next"]) for each in lines.lines()] == [(503, "0:5,*:earliest")]


def test_streams_over_max_streams_return_503(make_client: ClientFactory) -> None:
    client = make_client(max_streams=2)
    with stream(client, "/messages/t/me/latest"), stream(client, "/messages/t/me/latest", NDJSON):
        response = client.get("/messages/t/me/latest", headers={"Accept": EVENTS})
        assert (response.status_code, response.json["error"]["code"]) == (503, 503)
        assert response.headers["Retry-After"] == "1"
        assert "max_streams" in response.json["error"]["message"]
    with stream(client, "/messages/t/me/latest"):
        pass
    assert status(client, "/messages/nope/me/latest") == 404
    with stream(client, "/messages/t/me/latest"), stream(client, "/messages/t/me/latest"):
        assert status(client, "/messages/t/me/latest") == 503


def test_streams_hold_at_most_half_of_the_threads(make_client: ClientFactory) -> None:
    client = make_client(threads=4)
    with stream(client, "/messages/t/me/latest"), stream(client, "/messages/t/me/latest"):
        response = client.get("/messages/t/me/latest", headers={"Accept": EVENTS})
        assert (response.status_code, "threads" in response.json["error"]["message"]) == (503, True)
        assert status(client, "/messages/t/me/latest?until=end") == 200
        assert client.get("/messages/t/me/latest?wait=5").status_code == 200
    with stream(client, "/messages/t/me/latest"):
        pass


def test_streams_of_different_formats_share_one_follower(client: FlaskClient, broker: FakeBroker) -> None:
    paths = ["/messages/t/me/latest", "/messages/t/me/latest?format=binary", "/messages/t/me/latest?format=text"]
    opened = [Open(client, path) for path in (*paths, *paths)]
    for number in range(3):
        put(broker, "t", b"%d" % number)
        assert [each.values(1) for each in opened[:3]] == [[number], [["MA==", "MQ==", "Mg=="][number]], [str(number)]]
    assert [each.values(3) for each in opened[3:]] == [[0, 1, 2], ["MA==", "MQ==", "Mg=="], ["0", "1", "2"]]
    for each in opened:
        each.close()


def test_slow_stream_falls_back_to_reading_the_log(client: FlaskClient, broker: FakeBroker) -> None:
    broker.create_topic("large", limit=2 << 20)
    size = 500_000
    count = 4 * BUFFER_BYTES // size
    with stream(client, "/messages/large/me/latest") as fast, stream(client, "/messages/large/me/latest") as slow:
        for number in range(count):
            put(broker, "large", b'"%d %s"' % (number, b"x" * size))
            assert fast.values(1)[0].startswith(f"{number} ")
        assert [int(each.split(" ")[0]) for each in slow.values(count)] == list(range(count))


def test_stream_from_any_position_has_no_loss_and_no_duplicates(client: FlaskClient, broker: FakeBroker) -> None:
    count, done = 600, threading.Event()

    def publish() -> None:
        for number in range(count):
            put(broker, "three", b"%d" % number, partition=number % 3)
            done.wait(0.002)

    def follow(number: int) -> tuple[list[str], list[Any]]:
        done.wait(number / 20)
        partitions = ["", "?partition=0", "?partition=1,2"][number % 3]
        expected = [each for each in range(count) if str(each % 3) in (partitions or "012")]
        got: list[Any] = []
        with stream(client, f"/messages/three/me/earliest{partitions}") as events:
            while len(got) < len(expected):
                got += events.values(1)
        return [str(each) for each in sorted(expected)], [str(each) for each in sorted(got)]

    with ThreadPoolExecutor(13) as pool:
        publisher = pool.submit(publish)
        for expected, got in pool.map(follow, range(12)):
            assert got == expected
        publisher.result()


def test_stream_of_all_partitions_includes_new_partitions(make_client: ClientFactory, broker: FakeBroker) -> None:
    """Also if the stream follows the end of the log together with others."""
    client = make_client(stream_keepalive=0.4)
    path = "/messages/three/me/earliest"
    with (
        stream(client, path) as at_tail,
        stream(client, path, NDJSON) as lines,
        stream(client, "/messages/three/me/0:0,1:0,2:0") as named,
    ):
        put(broker, "three", b"0", partition=0)
        assert at_tail.values(1) == named.values(1) == [0]
        for each in (at_tail, lines, named):
            each.read()  # a sign of life: it is at the tail
        broker.add_partitions("three", 2)
        put(broker, "three", b"3", partition=3)
        put(broker, "three", b"4", partition=4)
        with stream(client, path) as later:
            assert sorted(later.values(3)) == [0, 3, 4]
        began = time.monotonic()
        assert sorted(at_tail.values(2)) == [3, 4]
        lines.until(lambda: lines.bytes.count(b"value") == 3)
        assert time.monotonic() - began < scaled(10)
        put(broker, "three", b"1", partition=1)
        put(broker, "three", b"5", partition=3)
        assert sorted(at_tail.values(2)) == [1, 5]
        assert named.values(1) == [1]
        assert at_tail.parser.last_id == "0:1,1:1,2:0,3:2,4:1,*:earliest"
        assert named.parser.last_id == "0:1,1:1,2:0"


def test_stream_continues_from_an_id_of_all_partitions(client: FlaskClient, broker: FakeBroker) -> None:
    put(broker, "three", b"0", b"1", partition=0)
    broker.add_partitions("three")
    put(broker, "three", b"3", partition=3)
    path = "/messages/three/me/latest?until=end"
    with stream(client, path, Last_Event_ID="0:1,1:0,2:0,*:earliest") as events:
        assert sorted(each.json.get("value", -1) for each in events.rest()) == [-1, 1, 3]
    assert events.parser.last_id == "0:2,1:0,2:0,3:1,*:earliest;end"
    with stream(client, path, NDJSON, Last_Event_ID="*:earliest") as lines:
        assert sorted(each["value"] for each in lines.lines()) == [0, 1, 3]


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize("ack", ["", "?ack=previous"])
def test_resumed_stream_after_retention_reports_the_gap(client: FlaskClient, broker: FakeBroker, ack: str) -> None:
    """It was a 416, after which an EventSource does not reconnect."""
    broker.delete_before("t", 0, 3)
    with stream(client, f"/messages/t/me/latest{ack}", Last_Event_ID="0:1,*:earliest") as events:
        gap, *records = events.events(3)
    assert (gap.type, gap.json) == ("gap", {"partition": 0, "from": 1, "to": 3})
    assert [each.json["value"] for each in records] == [3, 4]
    assert events.parser.ids[-3:] == ["0:3,*:earliest", "0:4,*:earliest", "0:5,*:earliest"]
    assert broker.committed("me", "t", [0]) == {}


@pytest.mark.usefixtures("five")
def test_resumed_stream_after_retention_ends_at_the_end(client: FlaskClient, broker: FakeBroker) -> None:
    broker.delete_before("t", 0, 5)
    with stream(client, "/messages/t/me/latest?until=end", Last_Event_ID="0:1") as events:
        assert [(each.type, each.json) for each in events.rest()] == [
            ("gap", {"partition": 0, "from": 1, "to": 5}),
            ("end", {"next": "0:5"}),
        ]


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize(
    ("accept", "path", "headers"),
    [
        (EVENTS, "0:1", {}),
        (NDJSON, "0:1", {}),
        (NDJSON, "latest", {"Last_Event_ID": "0:1"}),
        (EVENTS, "latest", {"Last_Event_ID": "0:9"}),
    ],
)
def test_ndjson_stream_after_retention_returns_416(
    client: FlaskClient, broker: FakeBroker, accept: str, path: str, headers: dict[str, str]
) -> None:
    broker.delete_before("t", 0, 3)
    assert status(client, f"/messages/t/me/{path}", accept, **headers) == 416
    assert status(client, f"/messages/t/me/{path}?reset=earliest&until=end", accept, **headers) == 200


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize(("reset", "expected"), [("earliest", [3, 4]), ("latest", [])])
@pytest.mark.parametrize("offset", ["1", "0:9"])
def test_stream_with_reset_starts_at_the_start_of_the_log(
    client: FlaskClient, broker: FakeBroker, offset: str, reset: str, expected: list[int]
) -> None:
    broker.delete_before("t", 0, 3)
    path = f"/messages/t/me/{offset}?reset={reset}&until=end"
    with stream(client, path, NDJSON) as lines:
        assert [each["value"] for each in lines.lines()] == expected
    with stream(client, path) as events:
        assert [each.json["value"] for each in events.rest() if each.type == "message"] == expected


def test_slow_stream_reports_the_gap_of_retention(client: FlaskClient, broker: FakeBroker) -> None:
    """The client is too slow, or the log is truncated."""
    put(broker, "t", *(b"%d" % number for number in range(6000)))
    path = "/messages/t/me/earliest"
    with (
        stream(client, path) as events,
        stream(client, path, NDJSON) as lines,
        stream(client, f"{path}?reset=earliest", NDJSON) as quiet,
    ):
        broker.delete_before("t", 0, 5000)
        read = []
        while (event := events.events(1)[0]).type == "message":
            read.append(event.json["value"])
        assert read == list(range(len(read)))
        assert (event.type, event.json) == ("gap", {"partition": 0, "from": len(read), "to": 5000})
        assert events.values(1000) == list(range(5000, 6000))
        *_, last = lines.lines()
        assert last["error"]["code"] == 416
        quiet.until(lambda: b'"offset":5999,' in quiet.bytes)
        put(broker, "t", b"6000")
        assert events.values(1) == [6000]


def test_stream_continues_after_its_log_was_emptied(client: FlaskClient, broker: FakeBroker) -> None:
    with stream(client, "/messages/t/me/latest") as events:
        put(broker, "t", b"0")
        assert events.values(1) == [0]
        broker.pass_over("t", count=5)
        broker.delete_before("t", 0, 6)
        put(broker, "t", b"1")
        while (event := events.events(1)[0]).type != "message":
            assert event.type == "gap"
        assert event.json["value"] == 1


def test_stream_of_a_recreated_topic_ends_with_its_new_start(client: FlaskClient, broker: FakeBroker) -> None:
    """It continued at its offset in the new topic and omitted all messages before it."""
    put(broker, "t", b"0", b"1")
    with stream(client, "/messages/t/me/earliest") as events, stream(client, "/messages/t/me/0:0") as named:
        assert events.values(2) == named.values(2) == [0, 1]
        broker.create_topic("t")
        put(broker, "t", b"10", b"11", b"12")
        for each, position in ((events, "*:earliest"), (named, "0:earliest")):
            (last,) = each.rest()
            assert (last.type, last.json["error"]["code"], last.json["next"]) == ("error", 40401, position)
            assert each.parser.last_id == position
            with stream(client, "/messages/t/me/latest", Last_Event_ID=position) as new:
                assert new.values(3) == [10, 11, 12]
