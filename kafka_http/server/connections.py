"""Connections that no thread is at, and what they wait for."""

import time

from gunicorn.workers.gthread import TConn

from kafka_http.server.lifecycle import Publish
from kafka_http.server.plain import PlainRequest


class Connection:
    """A client, and where it is: idle, amid a request, owed an answer, or taking one."""

    __slots__ = ("began", "buffer", "conn", "ended", "gone", "last", "owed", "request", "ticket", "unsent", "watched")

    def __init__(self, conn: TConn) -> None:
        self.conn = conn
        self.buffer = b""
        self.owed: Publish | None = None
        self.ticket: object = None
        self.request: PlainRequest | None = None
        self.began = 0.0
        self.unsent = memoryview(b"")
        self.watched = False
        self.ended = False
        """Whether the client has closed its side; it may wait for an answer all the same."""
        self.last = False
        """Whether the answer that it is owed is the last on it."""
        self.gone = False


class Waiting:
    """Connections that wait for the same, all of them for the same time."""

    def __init__(self) -> None:
        self._until: dict[Connection, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._until

    def add(self, connection: Connection, seconds: float) -> None:
        self._until.pop(connection, None)
        self._until[connection] = time.monotonic() + seconds

    def discard(self, connection: Connection) -> None:
        self._until.pop(connection, None)

    @property
    def oldest(self) -> Connection:
        return next(iter(self._until))

    def hasten(self, until: float) -> None:
        self._until = {connection: min(until, before) for connection, before in self._until.items()}

    @property
    def first(self) -> float:
        """When the first has waited long enough."""
        return next(iter(self._until.values()), float("inf"))

    def take_expired(self, now: float) -> list[Connection]:
        expired = []
        for connection, until in self._until.items():
            if until > now:
                break
            expired.append(connection)
        for connection in expired:
            del self._until[connection]
        return expired
