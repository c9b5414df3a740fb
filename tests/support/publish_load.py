"""Clients that publish unique values under full load, and the account of what became of each value.

    load = PublishLoad(service, "t", connections=64)
    with load.running():
        ...kill something...
    account = check_exactly_once(load, kafka.bootstrap_servers)

No client repeats a request. A value is a JSON number, or a string that begins with one: the number of its connection
times `PER_CONNECTION`, plus its place in the order in which this connection sent its values.
"""

import re
import selectors
import socket
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import msgspec

from tests.support.kafka_reader import read_messages
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service

PER_CONNECTION = 10_000_000
PAUSE_AFTER_FAILURE = 0.02
"""Seconds without which a connection would do nothing but collect errors while Kafka is away."""
STOP_SECONDS = 90
"""The limit for the last responses after the clients were told to stop."""
RECEIVE = 1 << 18

Place = tuple[int, int]
"""Partition and offset."""
Result = Place | Literal["unknown", "not written"]
Body = Callable[[Sequence[str], int], tuple[str, str, str]]
"""Takes the values and the number of the connection. Returns method and target, content type, and body."""


def one_value(values: Sequence[str], _: int) -> tuple[str, str, str]:
    return "PUT /messages/{topic}", "application/json", values[0]


def array(values: Sequence[str], _: int) -> tuple[str, str, str]:
    return "POST /messages/{topic}", "application/json", f"[{','.join(values)}]"


def keyed(values: Sequence[str], connection: int) -> tuple[str, str, str]:
    """All values of a connection have one key, so that they are in one partition."""
    return f"POST /messages/{{topic}}?key=c{connection}", "application/json", f"[{','.join(values)}]"


def produce_v2(values: Sequence[str], _: int) -> tuple[str, str, str]:
    records = ",".join(f'{{"value":{each}}}' for each in values)
    return "POST /topics/{topic}", "application/vnd.kafka.json.v2+json", f'{{"records":[{records}]}}'


SHAPES: tuple[Body, ...] = (array, produce_v2, keyed)
SINGLE: tuple[Body, ...] = (one_value, array, produce_v2, keyed)


class Published(NamedTuple):
    """A request and its response. `first` is the number of its first value. `status`: None if the connection broke."""

    first: int
    count: int
    began: float
    seconds: float
    status: int | None
    body: bytes

    @property
    def connection(self) -> int:
        return self.first // PER_CONNECTION

    @property
    def ended(self) -> float:
        return self.began + self.seconds

    def results(self) -> Iterator[tuple[int, Result]]:
        """Yield the number of each value and its result."""
        numbers = range(self.first, self.first + self.count)
        answered = msgspec.json.decode(self.body) if self.status is not None else {}
        single = answered.get("records") or answered.get("offsets")
        if single is None:
            whole: Result = "unknown" if self.status in (None, 504) else "not written"
            yield from ((number, whole) for number in numbers)
        else:
            yield from zip(numbers, map(_result_of, single), strict=True)


def _result_of(record: Mapping[str, Any]) -> Result:
    """The result of a record in a response of either API. In v2, only the text of an error says that it is unknown."""
    if record.get("error") is None:
        return record["partition"], record["offset"]
    error = record["error"]
    is_unknown = "may or may not" in error if isinstance(error, str) else error["code"] == 504
    return "unknown" if is_unknown else "not written"


class _Client:
    """A connection with one request at a time. Used by the thread of its `PublishLoad` only."""

    def __init__(self, load: "PublishLoad", number: int, body: Body) -> None:
        self.number = number
        self.body = body
        self.sock = socket.create_connection(("127.0.0.1", load.port), timeout=30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        """When the next request may be sent; infinite while one is in flight."""
        self.first = number * PER_CONNECTION
        self.began = 0.0
        self.received = b""

    def send(self, topic: str, count: int, suffix: str, head: str) -> None:
        if self.began:
            self.first += count
        texts = [str(number) for number in range(self.first, self.first + count)]
        values = [f'"{each}-{suffix}"' for each in texts] if suffix else texts
        line, content_type, body = self.body(values, self.number)
        request = f"{line.format(topic=topic)} HTTP/1.1\r\nHost: h\r\n{head}Content-Type: {content_type}\r\n"
        self.due, self.began, self.received = float("inf"), time.monotonic(), b""
        self.sock.sendall(f"{request}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    def response(self) -> tuple[int, bytes, bool] | None:
        """Receive. Return status, body and whether the server closes the connection, or None if more has to come."""
        if not (data := self.sock.recv(RECEIVE)):
            raise ConnectionResetError("the server closed the connection before its response was complete")
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if not end or length is None or len(body) < int(length[1]):
            return None
        return int(head[9:12]), body, b"connection: close" in head.lower()


class PublishLoad:
    """Clients in one thread, each on its own connection. A connection that breaks is replaced by a new one.

    Each request has `count` values, published in one of `shapes`, in turn by connection. `suffix` makes values larger.
    `headers` are lines of each request's head.
    """

    def __init__(
        self,
        service: Service,
        topic: str,
        *,
        connections: int = 64,
        count: int = 1,
        shapes: Sequence[Body] | None = None,
        suffix: str = "",
        headers: str = "",
    ) -> None:
        self.port = service.port
        self.topic = topic
        self.published: list[Published] = []
        self.acknowledged = 0
        """The number of values in responses with 200."""
        self.refused_connections = 0
        self._connections, self._count, self._suffix, self._headers = connections, count, suffix, headers
        self._shapes = shapes or (SINGLE if count == 1 else SHAPES)
        self._numbers = iter(range(1, 1 << 30))
        self._stopping = threading.Event()
        self._failure: BaseException | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Publish until the end of the block, and then wait for the responses to what was sent."""
        thread = threading.Thread(target=self._run, name="publish load")
        self._stopping.clear()
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()
        if self._failure:
            raise self._failure

    def since(self, moment: float) -> list[Published]:
        """The requests that were sent then or later."""
        published = self.published
        first = bisect_left(published, moment, hi=len(published), key=lambda each: each.ended)
        return [each for each in published[first:] if each.began >= moment]

    def successes(self, since: float = 0) -> int:
        """The number of requests that were sent then or later and acknowledged."""
        return sum(each.status == 200 for each in self.since(since))

    def wait_until_well(self, back: float, recovery: float, requests: int = 200) -> None:
        """Wait for so many successes in a row of requests that were sent since `back`, when the outage ended.

        Requests that were sent more than `recovery` seconds later must not fail.
        """

        def failed_last() -> float:
            return max((each.began for each in self.since(back) if each.status != 200), default=back)

        wait_for(lambda: self.successes(failed_last()) >= requests, 30)
        last = failed_last()
        check_statuses(self.since(back + max(recovery, scaled(recovery))), {200})
        print(f"{last - back:.2f} s from the end of the outage to the last failure")

    def _run(self) -> None:
        clients: list[_Client | float] = [0.0] * self._connections
        try:
            with selectors.DefaultSelector() as selector:
                self._loop(clients, selector)
        except BaseException as failure:
            self._failure = failure
        finally:
            for each in clients:
                if isinstance(each, _Client):
                    each.sock.close()

    def _loop(self, clients: list[_Client | float], selector: selectors.BaseSelector) -> None:
        """`clients` has, in place of a connection that broke, the time of the next attempt to connect."""
        limit = float("inf")
        while True:
            if self._stopping.is_set():
                limit = min(limit, time.monotonic() + STOP_SECONDS)
                if not any(isinstance(each, _Client) and each.due == float("inf") for each in clients):
                    return
                assert time.monotonic() < limit, "requests without a response"
            else:
                self._send_what_is_due(clients, selector)
            for key, _ in selector.select(0.01):
                self._receive(key.data, clients, selector)

    def _send_what_is_due(self, clients: list[_Client | float], selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for index, client in enumerate(clients):
            if isinstance(client, float):
                if client <= now:
                    clients[index] = self._connected(index, selector, now)
            elif client.due <= now:
                try:
                    client.send(self.topic, self._count, self._suffix, self._headers)
                except OSError:
                    self._ended(client, None, b"")
                    self._drop(index, clients, selector)

    def _connected(self, index: int, selector: selectors.BaseSelector, now: float) -> _Client | float:
        try:
            client = _Client(self, next(self._numbers), self._shapes[index % len(self._shapes)])
        except OSError:
            self.refused_connections += 1
            return now + 5 * PAUSE_AFTER_FAILURE
        selector.register(client.sock, selectors.EVENT_READ, index)
        return client

    def _receive(self, index: int, clients: list[_Client | float], selector: selectors.BaseSelector) -> None:
        client = clients[index]
        assert isinstance(client, _Client)
        try:
            if (response := client.response()) is None:
                return
        except OSError:
            if client.due == float("inf"):
                self._ended(client, None, b"")
            self._drop(index, clients, selector)
            return
        status, body, is_last = response
        self._ended(client, status, body)
        client.due = 0.0 if status == 200 else time.monotonic() + PAUSE_AFTER_FAILURE
        if is_last:
            self._drop(index, clients, selector)

    def _ended(self, client: _Client, status: int | None, body: bytes) -> None:
        seconds = time.monotonic() - client.began
        self.published.append(Published(client.first, self._count, client.began, seconds, status, body))
        if status == 200:
            self.acknowledged += self._count

    def _drop(self, index: int, clients: list[_Client | float], selector: selectors.BaseSelector) -> None:
        client = clients[index]
        assert isinstance(client, _Client)
        selector.unregister(client.sock)
        client.sock.close()
        clients[index] = time.monotonic() + PAUSE_AFTER_FAILURE


Log = Mapping[int, Sequence[tuple[int, int]]]
"""Offset and number of each value, in the order of the log, by partition."""


def read_log(bootstrap_servers: str, topic: str) -> Log:
    log: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for message in read_messages(bootstrap_servers, topic):
        number = re.match(rb'"?(\d+)', message.value() or b"")
        assert number is not None, message.value()
        log[message.partition()].append((message.offset(), int(number[1])))
    return log


class Account(NamedTuple):
    """The numbers of values, and of requests by status."""

    acknowledged: int
    unknown: int
    unknown_and_stored: int
    not_written: int
    stored: int
    requests: Counter[int | None]


def check_exactly_once(load: PublishLoad, bootstrap_servers: str, since: float = 0) -> Account:
    """Compare what the clients were told with the log, and print the account.

    Each acknowledged value is at its offset; nothing is there twice; nothing that was reported as not written is there;
    the values of a connection are in order in each partition. `since`: the log is that of a topic which was created
    then, so values that were acknowledged earlier may be missing.
    """
    log = read_log(bootstrap_servers, load.topic)
    places = {number: (partition, offset) for partition, records in log.items() for offset, number in records}
    told: dict[str, set[int]] = {"unknown": set(), "not written": set()}
    acknowledged: dict[int, Place] = {}
    for published in load.published:
        for number, result in published.results():
            if isinstance(result, str):
                told[result].add(number)
            elif published.began >= since:
                acknowledged[number] = result
    stored = sum(map(len, log.values()))
    unknown_and_stored = len(told["unknown"] & places.keys())
    statuses = Counter(each.status for each in load.published)
    account = Account(
        len(acknowledged), len(told["unknown"]), unknown_and_stored, len(told["not written"]), stored, statuses
    )
    print(account)
    assert _first({each: place for each, place in acknowledged.items() if places.get(each) != place}) == []
    assert _first(told["not written"] & places.keys()) == []
    twice = Counter(number for records in log.values() for _, number in records) if stored > len(places) else {}
    assert _first(each for each, times in twice.items() if times > 1) == []
    assert _first(_out_of_order(log)) == []
    return account


def _out_of_order(log: Log) -> Iterator[tuple[int, int]]:
    """Yield partition and offset of each value that comes after a later one of its connection."""
    for partition, records in log.items():
        last: dict[int, int] = defaultdict(int)
        for offset, number in records:
            if number < last[number // PER_CONNECTION]:
                yield partition, offset
            last[number // PER_CONNECTION] = number


def _first(found: Iterable[Any]) -> list[Any]:
    """The first of them: the whole would be too much for a failure's message."""
    return [each for each, _ in zip(found, range(10), strict=False)]


def check_statuses(published: Iterable[Published], allowed: set[int | None]) -> None:
    """Check the statuses of the responses; a failure shows some bodies of others."""
    others = [(each.status, each.body[:300]) for each in published if each.status not in allowed]
    assert others[:5] == [], Counter(status for status, _ in others)


def check_in_time(published: Iterable[Published], seconds: float) -> None:
    """Check that each response came within so many seconds."""
    late = [(each.status, round(each.seconds, 1), each.body[:200]) for each in published if each.seconds > seconds]
    assert late[:5] == [], len(late)
