"""Connections that no thread is at, and what they wait for."""

import time
from collections.abc import Generator, Iterator
from contextvars import Context

from gunicorn.workers.gthread import TConn

from kafka_http.server.app_interface import PublishReply
from kafka_http.server.fast_path_parser import FastPathRequest
from kafka_http.server.request_reader import RequestReader
from kafka_http.server.send_buffer import SendBuffer


class ClientConnection:
    """A client, and where it is: idle, amid a request, owed an answer, in a thread, or taking an answer."""

    __slots__ = (
        "began", "buffer", "conn", "context", "counted", "ended", "gone", "last", "outgoing", "owed", "reader",
        "request", "seen", "ticket", "watched", "work",
    )  # fmt: skip

    def __init__(self, conn: TConn) -> None:
        self.conn = conn
        self.outgoing = SendBuffer(conn.sock)
        self.buffer = b""
        self.reader: RequestReader | None = None
        """Takes the request that is received; until it is there, `buffer` does."""
        self.seen = 0
        """Bytes of the body that had come when its rate was last looked at; below 0 before the first look."""
        self.counted = 0
        """Bytes of the request that count as in flight."""
        self.owed: PublishReply | None = None
        self.ticket: object = None
        self.request: FastPathRequest | None = None
        self.began = 0.0
        """When the first byte of the request came, or the connection became idle."""
        self.work: Generator[None, None, bool] | None = None
        """Makes the answer. It yields where the client has not taken what there is."""
        self.context: Context | None = None
        """That of `work`, whichever thread goes on with it."""
        self.watched = False
        self.ended = False
        """Whether the client has closed its side; it may wait for an answer all the same."""
        self.last = False
        """Whether the answer that it is owed is the last on it."""
        self.gone = False


class IdleConnections:
    """Connections that wait for the same, all of them for the same time."""

    def __init__(self) -> None:
        self._until: dict[ClientConnection, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, connection: ClientConnection) -> bool:
        return connection in self._until

    def __iter__(self) -> Iterator[ClientConnection]:
        return iter(self._until)

    def add(self, connection: ClientConnection, seconds: float) -> None:
        self._until.pop(connection, None)
        self._until[connection] = time.monotonic() + seconds

    def discard(self, connection: ClientConnection) -> None:
        self._until.pop(connection, None)

    @property
    def oldest(self) -> ClientConnection:
        return next(iter(self._until))

    def hasten(self, until: float) -> None:
        self._until = {connection: min(until, before) for connection, before in self._until.items()}

    @property
    def first(self) -> float:
        """When the first has waited long enough."""
        return next(iter(self._until.values()), float("inf"))

    def take_expired(self, now: float) -> list[ClientConnection]:
        expired = []
        for connection, until in self._until.items():
            if until > now:
                break
            expired.append(connection)
        for connection in expired:
            del self._until[connection]
        return expired
