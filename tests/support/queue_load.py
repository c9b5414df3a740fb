"""Clients of a queue that acquire, process and acknowledge messages, and what happened to each message."""

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from uuid import uuid4

import requests

from tests.support.polling import scaled
from tests.support.server_process import Server

Place = tuple[int, int]
"""Partition and offset of a message."""

LONG_LOCK = 12 * 3600
"""Seconds of a lock that does not end during a test."""

_RETRY_SECONDS = 0.1
_PATIENCE = 60.0


class Queue:
    """A queue at one server."""

    def __init__(self, server: Server, topic: str, consumer: str | None = None) -> None:
        self.server = server
        self.topic = topic
        self.consumer = consumer or f"queue-{uuid4().hex[:8]}"
        self.path = f"/messages/{topic}/{self.consumer}/queue"

    def at(self, server: Server) -> "Queue":
        """Return the same queue at another server."""
        return Queue(server, self.topic, self.consumer)

    def publish(self, count: int, partitions: int = 1) -> set[Place]:
        """Publish messages to all partitions in turn, and return their places."""
        places: set[Place] = set()
        for partition in range(partitions):
            values = [f"{partition}-{each}" for each in range(count // partitions)]
            answer = self.server.post(f"/messages/{self.topic}?partition={partition}", json=values)
            assert answer.status_code == 200, answer.text
            places |= {place_of(each) for each in answer.json()["records"]}
        return places

    def acquire(self, limit: int = 500, wait: float = 10, lock: float = LONG_LOCK) -> list[dict[str, Any]]:
        """Return the records of one page."""
        answer = self.post(limit, wait, lock)
        assert answer.status_code == 200, answer.text
        records: list[dict[str, Any]] = answer.json()["records"]
        return records

    def post(self, limit: int = 500, wait: float = 10, lock: float = LONG_LOCK) -> requests.Response:
        query = {"limit": limit, "wait": wait, "lock": lock}
        return self.server.post(self.path, params=query, timeout=wait + 60)

    def acquire_all(self, places: Collection[Place]) -> list[dict[str, Any]]:
        """Acquire these messages, each once, and nothing else."""
        records: list[dict[str, Any]] = []
        until = time.monotonic() + scaled(_PATIENCE)
        while len(records) < len(places) and time.monotonic() < until:
            records += self.acquire()
        assert sorted(map(place_of, records)) == sorted(places)
        return records

    def settle(self, method: str, records: Sequence[dict[str, Any]], query: str = "") -> requests.Response:
        leases = ",".join(each["lease"] for each in records)
        return self.server.request(method, f"{self.path}/{leases}{query}", timeout=60)

    def acknowledge(self, *records: dict[str, Any]) -> requests.Response:
        return self.settle("DELETE", records)

    def state(self) -> dict[str, Any]:
        answer = self.server.get(self.path)
        assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()
        return state

    def is_empty(self) -> bool:
        """Whether all messages are settled. False if that is not known now."""
        with suppress(requests.RequestException):
            answer = self.server.get(self.path)
            if answer.status_code == 200:
                return not any(each["lag"] for each in answer.json()["partitions"]) and not answer.json()["held"]
        return False


def place_of(record: dict[str, Any]) -> Place:
    return record["partition"], record["offset"]


class Delivery(NamedTuple):
    """A message in a page. `asked` is when the client sent its request."""

    lease: str
    attempt: int
    asked: float


class Counts(NamedTuple):
    """What happened to the messages.

    lost: settled in Kafka, although no client has tried to acknowledge them.
    delivered_twice: deliveries beyond the first of each message.
    acknowledged_twice: messages with responses that acknowledge two deliveries.
    after_acknowledgement: deliveries that were requested after the message was acknowledged.
    in_doubt: messages with no response that acknowledges them, but with requests that had no clear response.
    """

    messages: int
    acknowledged: int
    in_doubt: int
    lost: int
    delivered_twice: int
    acknowledged_twice: int
    after_acknowledgement: int


class QueueLoad:
    """Clients that acquire pages, work for a moment, and acknowledge. They retry what has no clear response.

    The clients take the servers in turn. `lock` is that of their messages, in seconds; `work` is the most that they
    wait before they acknowledge.
    """

    def __init__(
        self, queues: Sequence[Queue], *, clients: int = 8, limit: int = 5, lock: float = 30, work: float = 0.05
    ) -> None:
        self.deliveries: dict[Place, list[Delivery]] = defaultdict(list)
        self.acknowledged: dict[Place, dict[str, float]] = defaultdict(dict)
        """For each message the leases that were acknowledged, and when the first response came."""
        self.in_doubt: set[Place] = set()
        self.answers: Counter[str] = Counter()
        """How often each call had each status; `broken` for a connection that broke."""
        self.unexpected: list[str] = []
        self._queues = queues
        self._limit = limit
        self._lock = lock
        self._work = work
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in range(clients)]

    @contextmanager
    def running(self) -> Iterator[None]:
        for each in self._threads:
            each.start()
        try:
            yield
        finally:
            self._stopping.set()
            for each in self._threads:
                each.join()
            print(dict(self.answers))

    def counts(self, places: Collection[Place]) -> Counts:
        """Return what happened to these messages. Nothing may be in flight."""
        acknowledged, deliveries = self.acknowledged, self.deliveries
        ends = {place: min(leases.values()) for place, leases in acknowledged.items()}
        return Counts(
            messages=len(places),
            acknowledged=len(acknowledged),
            in_doubt=len(self.in_doubt - set(acknowledged)),
            lost=len(set(places) - set(acknowledged) - self.in_doubt),
            delivered_twice=sum(len(each) - 1 for each in deliveries.values()),
            acknowledged_twice=sum(len(leases) > 1 for leases in acknowledged.values()),
            after_acknowledgement=sum(each.asked > end for place, end in ends.items() for each in deliveries[place]),
        )

    # A client

    def _run(self, number: int) -> None:
        queue = self._queues[number % len(self._queues)]
        with requests.Session() as session:
            while not self._stopping.is_set():
                asked = time.monotonic()
                query = {"limit": self._limit, "wait": 1, "lock": self._lock}
                answer = self._ask(session, "POST", queue.server.url + queue.path, params=query)
                records = answer.json()["records"] if answer is not None and answer.status_code == 200 else []
                self._note_deliveries(records, asked)
                if records:
                    self._stopping.wait(random.uniform(0, self._work))
                    self._acknowledge(session, queue, {each["lease"]: place_of(each) for each in records})

    def _note_deliveries(self, records: Sequence[dict[str, Any]], asked: float) -> None:
        with self._guard:
            for each in records:
                self.deliveries[place_of(each)].append(Delivery(each["lease"], each["attempt"], asked))

    def _acknowledge(self, session: requests.Session, queue: Queue, held: dict[str, Place]) -> None:
        """Acknowledge until each lease has a clear response: acknowledged, or lost."""
        until = time.monotonic() + _PATIENCE
        while held and time.monotonic() < until:
            answer = self._ask(session, "DELETE", f"{queue.server.url}{queue.path}/{','.join(held)}")
            for result in answer.json().get("leases", []) if answer is not None else []:
                if result.get("acknowledged"):
                    place = held.pop(result["lease"])
                    with self._guard:
                        self.acknowledged[place].setdefault(result["lease"], time.monotonic())
                elif result["error"]["code"] == 40904:
                    del held[result["lease"]]
            with self._guard:
                self.in_doubt |= set(held.values())
        if held:
            self.unexpected.append(f"no clear response for {held}")

    def _ask(self, session: requests.Session, method: str, url: str, **options: Any) -> requests.Response | None:
        """Return a response in JSON, or None if the connection broke. Wait before a retry makes sense."""
        try:
            answer = session.request(method, url, timeout=90, **options)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            self._note(method, "broken")
            return None
        if answer.status_code not in (200, 207, 409):
            self._note(method, str(answer.status_code))
            if answer.status_code not in (503, 504) and answer.json()["error"]["code"] != 50003:
                self.unexpected.append(f"{method} {url}: {answer.status_code} {answer.text}")
        else:
            with self._guard:
                self.answers[f"{method} {answer.status_code}"] += 1
        return answer

    def _note(self, method: str, what: str) -> None:
        with self._guard:
            self.answers[f"{method} {what}"] += 1
        time.sleep(_RETRY_SECONDS)  # like a client that retries
