"""A stream of server-sent events that continues after a broken connection, for `read` and `tail`."""

import time
from collections.abc import Generator, Iterator, Mapping
from typing import NamedTuple

import msgspec

from kafka_http.backoff import Backoff
from kafka_http.cli.client_output import note
from kafka_http.cli.client_requests import ApiClient, RequestError

_IDLE_SECONDS = 75.0
"""More than the server's `stream_keepalive` (15 s by default). A longer one only costs a new connection."""
_PATIENCE_SECONDS = 150.0
"""How long a stream that has an end waits for a server that is away."""
_END = ";end"
_SHOWN = ("", "gap", "progress")
"""The events that are for the reader: messages, positions, deleted messages and the progress of a search."""


class StreamEvent(NamedTuple):
    """A server-sent event. `kind` is empty for a message and for an event that has only an id."""

    id: str
    kind: str
    data: bytes


class EventBuffer:
    """Splits bytes into events. It knows what the server sends: lines that end in LF, and one `data` line an event."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Return the events that are complete now."""
        searched = max(0, len(self._buffer) - 1)  # only once, because a message may have many megabytes
        self._buffer += data
        end = self._buffer.rfind(b"\n\n", searched)
        if end < 0:
            return []
        blocks = bytes(self._buffer[:end]).split(b"\n\n")
        del self._buffer[: end + 2]
        return [_event(block) for block in blocks]


def _event(block: bytes) -> StreamEvent:
    fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line)
    kind = fields.get(b"event", b"retry" if b"retry" in fields else b"")
    return StreamEvent(fields.get(b"id", b"").decode(), kind.decode(), fields.get(b"data", fields.get(b"retry", b"")))


def _error_of(event: StreamEvent) -> RequestError:
    error = msgspec.json.decode(event.data)["error"]
    return RequestError(error["message"], code=error["code"])


class ResumedStream:
    """The events of one URL. After a broken connection it continues with the event after the last one, none twice.

    A stream that is not `endless` gives up if the server is away for 150 s. Not safe for threads.
    """

    def __init__(self, client: ApiClient, path: str, query: Mapping[str, str], *, endless: bool) -> None:
        self._client = client
        self._path = path
        self._query = query
        self._patience = float("inf") if endless else _PATIENCE_SECONDS
        self._backoff = Backoff(0.5, 10.0)
        self._last_id = ""
        self._retry = 0.0
        self._lost_at: float | None = None

    def batches(self) -> Generator[list[StreamEvent], None, None]:
        """Yield the events that arrive together, until the stream's end. Raises `RequestError`."""
        while not self._last_id.endswith(_END):
            try:
                yield from self._connection()
            except RequestError as error:
                self._wait_after(error)

    def _connection(self) -> Iterator[list[StreamEvent]]:
        """Yield the events of one connection. Raises `RequestError` if it ends before the stream does."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last_id} if self._last_id else {})
        buffer = EventBuffer()
        with self._client.open("GET", self._path, self._query, headers=headers) as response:
            if response.status == 204:
                self._last_id += _END
                return
            for chunk in response.chunks(_IDLE_SECONDS):
                yield from self._received(buffer.feed(chunk))
                if self._last_id.endswith(_END):
                    return
        raise RequestError(f"{self._client.url} ended the stream.")

    def _received(self, events: list[StreamEvent]) -> Iterator[list[StreamEvent]]:
        """Yield the events for the reader, and note those for the connection. Raises `RequestError` for an error."""
        if events:
            self._is_connected()
        if shown := [each for each in events if each.kind in _SHOWN]:
            yield shown
        for event in events:
            self._last_id = event.id or self._last_id
            if event.kind == "retry":
                self._retry = int(event.data) / 1000
            elif event.kind == "error":
                raise _error_of(event)

    def _is_connected(self) -> None:
        if self._lost_at is not None:
            note("Connected again.")
        self._lost_at = None
        self._backoff.reset()

    def _wait_after(self, error: RequestError) -> None:
        """Wait until the next attempt. Raises the error if there is none."""
        now = time.monotonic()
        if not self._last_id or not (error.may_pass or error.status >= 500):
            raise error
        if self._lost_at is None:
            self._lost_at = now
            note(f"{error} Reconnecting.")
        if now > self._lost_at + self._patience:
            raise error
        time.sleep(max(self._backoff.next(), self._retry, error.retry_after or 0.0))
        self._retry = 0.0
