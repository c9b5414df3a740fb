"""Clients that publish, read and acknowledge until they are stopped, and record each response."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from uuid import uuid4

import requests

from tests.support.kafka_reader import read_topic
from tests.support.server_process import Server

Place = tuple[int, int]
"""Partition and offset."""

PAUSE = 0.01
"""Seconds between two requests of a client, so that the load does not use the whole machine."""


class Answer(NamedTuple):
    """The response to a request. `status` is None if the connection broke; `places` are those of the values."""

    kind: str
    request_id: str
    began: float
    seconds: float
    status: int | None
    retry_after: str | None
    text: str
    values: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()

    @property
    def is_transient(self) -> bool:
        """Whether it is a failure that the manual names for an outage of a broker. 50003, a transient error of Kafka,
        is a 500: a new leader or coordinator is not found in time, as on a busy machine.
        """
        return self.status in (503, 504) or (self.status == 500 and '"code":50003' in self.text.replace(" ", ""))


class Load:
    """Clients of one topic. Each has one request at a time, on its own connection."""

    def __init__(self, service: Server, topic: str, *, values: int = 5, pause: float = PAUSE) -> None:
        """Each publish has `values` values. A client waits for `pause` seconds between two publishes."""
        self.answers: list[Answer] = []
        self.in_flight: dict[str, float] = {}
        """The start time of each request without a response yet, by its id."""
        self._service = service
        self._values = values
        self._pause = pause
        self._messages = f"/messages/{topic}"
        self._stopping = threading.Event()

    @contextmanager
    def running(self, publishers: int = 4, *, consumers: bool = True) -> Iterator[None]:
        clients = [threading.Thread(target=self._publish, args=(f"p{number}",)) for number in range(publishers)]
        if consumers:
            clients += [threading.Thread(target=self._read), threading.Thread(target=self._acknowledge)]
        assert self._service.post(f"{self._messages}?partition=0", json=["first"]).ok  # the message to acknowledge
        for client in clients:
            client.start()
        try:
            yield
        finally:
            self._stopping.set()
            for client in clients:
                client.join()

    @property
    def acknowledged(self) -> dict[str, Place]:
        """The place of each value in a response with 200."""
        published = [answer for answer in list(self.answers) if answer.kind == "publish" and answer.status == 200]
        return {value: place for answer in published for value, place in zip(answer.values, answer.places, strict=True)}

    def successes(self, kind: str, since: float = 0) -> list[Answer]:
        """The 2xx responses to requests that began at `since` or later."""
        return [each for each in self.of(kind, since) if each.status in (200, 204)]

    def of(self, kind: str, since: float = 0) -> list[Answer]:
        return [each for each in list(self.answers) if each.kind == kind and each.began >= since]

    def _publish(self, name: str) -> None:
        number = 0
        while not self._stopping.wait(self._pause):
            values = tuple(f"{name}-{number + each}" for each in range(self._values))
            number += len(values)
            self._ask("publish", "POST", self._messages, values)

    def _read(self) -> None:
        while not self._stopping.wait(PAUSE):
            self._ask("read", "GET", f"{self._messages}/reader/-5")

    def _acknowledge(self) -> None:
        while not self._stopping.wait(PAUSE):
            self._ask("ack", "DELETE", f"{self._messages}/reader/0:0")
            self._ask("seek", "PUT", f"{self._messages}/reader/0:0")

    def _ask(self, kind: str, method: str, path: str, values: tuple[str, ...] = ()) -> None:
        request_id, began = uuid4().hex, time.monotonic()
        self.in_flight[request_id] = began
        body = {"json": list(values)} if values else {}
        places: list[Place] = []
        status, retry_after = None, None
        try:
            answer = self._service.request(method, path, headers={"X-Request-Id": request_id}, timeout=60, **body)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            text = repr(error)
        else:
            status, retry_after, text = answer.status_code, answer.headers.get("Retry-After"), answer.text[:500]
            if values and status == 200:
                places = [(record["partition"], record["offset"]) for record in answer.json()["records"]]
        seconds = time.monotonic() - began
        self.answers.append(Answer(kind, request_id, began, seconds, status, retry_after, text, values, tuple(places)))
        del self.in_flight[request_id]
        if status is None:
            self._stopping.wait(0.05)


def stored_values(bootstrap_servers: str, topic: str, partitions: int) -> dict[Place, str]:
    """Read a topic with kafka-python: the values without quotes, by place."""
    read = read_topic(bootstrap_servers, topic, partitions)
    return {(each.partition, each.offset): each.value.decode().strip('"') for each in read}


def check_nothing_lost_or_doubled(load: Load, bootstrap_servers: str, topic: str, partitions: int) -> None:
    """Check that each acknowledged value is at its place, and that no value is there twice."""
    stored = stored_values(bootstrap_servers, topic, partitions)
    acknowledged = load.acknowledged
    assert {value: place for value, place in acknowledged.items() if stored.get(place) != value} == {}
    assert not [value for value, times in Counter(stored.values()).items() if times > 1]
