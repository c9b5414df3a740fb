"""Clients of streams: one that behaves like the EventSource of a browser, and a plain one."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from kafka import KafkaProducer

from tests.support.event_parser import Event, EventParser
from tests.support.polling import scaled, wait_for

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
    """Open a stream and return its response. `read1` of the response returns the bytes that have arrived."""
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
    """Read the next `count` events, or fewer if the stream ends."""
    parser, found = parser or EventParser(), []
    while len(found) < count and (data := answer.read1(1 << 16)):
        found += parser.feed(data)
    return found


class EventSource:
    """A client that reconnects with the last event id. If a browser would give up, it opens a new stream whose offset
    is the last event id, as a page has to do.
    """

    def __init__(self, url: str, certificate: str | None = None) -> None:
        """`url` has no query; its last segment is the offset."""
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
        self._thread.join(scaled(10))
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
    """Publishes 0, 1, 2, … while it runs, 200 messages a second."""

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
        """Stop, and wait until Kafka has acknowledged all counted messages."""
        self._ends.set()
        self._thread.join(scaled(10))
        self._producer.flush(10)

    def _run(self) -> None:
        while not self._ends.wait(0.005):
            self._producer.send(self._topic, b"%d" % self.count)
            self.count += 1
