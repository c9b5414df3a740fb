"""Clients of streams: one that behaves as a browser's EventSource, and one that reads when it wants."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from kafka import KafkaProducer

from tests.attempts import wait_for
from tests.events import Event, EventParser

EVENTS = "text/event-stream"
NDJSON = "application/x-ndjson"


def connect(url: str, timeout: float = 30, certificate: str | None = None) -> HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=certificate)
        return HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context)
    return HTTPConnection(parts.hostname, parts.port, timeout=timeout)


@contextmanager
def opened(
    url: str, accept: str = EVENTS, certificate: str | None = None, receive_buffer: int = 0, **headers: str
) -> Iterator[HTTPResponse]:
    """The answer to a request for a stream, whose `read1` gives what has come."""
    connection = connect(url, certificate=certificate)
    try:
        connection.connect()
        if receive_buffer:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        target = urlsplit(url)._replace(scheme="", netloc="").geturl()
        connection.request("GET", target, headers={"Accept": accept, **headers})
        with connection.getresponse() as answer:
            yield answer
    finally:
        connection.close()


def events_of(answer: HTTPResponse, count: int, parser: EventParser | None = None) -> list[Event]:
    """The next so many events; fewer where the stream ends."""
    parser, found = parser or EventParser(), []
    while len(found) < count and (data := answer.read1(1 << 16)):
        found += parser.feed(data)
    return found


class EventSource:
    """Reconnects by itself, with the last id; what a page has to do as well, it does: where the browser gives up, it
    opens another with the last id as the offset.
    """

    def __init__(self, url: str, certificate: str | None = None) -> None:
        """`url` without a query; its last part is the offset."""
        self.events: list[tuple[float, Event]] = []
        """With the time at which each came."""
        self.connections = 0
        self.given_up = 0
        self.parser = EventParser()
        self._url = url
        self._certificate = certificate
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "EventSource":
        self._thread.start()
        wait_for(lambda: self.parser.ids)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._ends.is_set():
            with suppress(OSError, HTTPException):
                self._follow()
            self._ends.wait((self.parser.retry or 300) / 1000)

    def _follow(self) -> None:
        headers = {"Last-Event-ID": self.parser.last_id} if self.parser.last_id else {}
        with opened(self._url, certificate=self._certificate, **headers) as answer:
            self.connections += 1
            if answer.status != 200:
                self.given_up += 1
                self._url = f"{self._url.rpartition('/')[0]}/{self.parser.last_id}"
                return
            while not self._ends.is_set() and (data := answer.read1(1 << 16)):
                self.events += [(time.monotonic(), each) for each in self.parser.feed(data)]


class Numbers:
    """Publishes 0, 1, 2, … for as long as it runs, 200 a second."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self.count = 0
        self._topic = topic
        self._producer = KafkaProducer(bootstrap_servers=bootstrap_servers)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Numbers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._producer.close()

    def stop(self) -> None:
        """All that are counted are in Kafka then."""
        self._ends.set()
        self._thread.join(10)
        self._producer.flush(10)

    def _run(self) -> None:
        while not self._ends.wait(0.005):
            self._producer.send(self._topic, b"%d" % self.count)
            self.count += 1
