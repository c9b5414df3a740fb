"""Between granian and the application: which requests are in flight, and answers in the form that suits granian."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_UNCERTAIN = frozenset(("HTTP_TRANSFER_ENCODING", "HTTP_EXPECT"))
"""With these a body may not be read to its end: that a chunked one breaks off granian does not tell, and who expects a
word to go on before he sends it would be waited for without end."""

_OF_RECORDS = ("HTTP_KAFKA_", "HTTP_CE_")
"""Headers that become a part of records. A value that is not ASCII granian gives as an empty one; the application is
given one that it refuses. Trace context may be empty and stays as it is."""


class Answers:
    """WSGI middleware, the outermost."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app
        self._in_flight: set[object] = set()

    @property
    def in_flight(self) -> int:
        """Requests whose answer granian does not have yet."""
        return len(self._in_flight)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        ticket = object()
        self._in_flight.add(ticket)
        _say_what_granian_does_not(environ)
        try:
            pieces = Pieces(self._app(environ, start_response), lambda _: self._in_flight.discard(ticket))
        except BaseException:
            self._in_flight.discard(ticket)
            raise
        return pieces if environ["REQUEST_METHOD"] == "GET" else pieces.together()


def _say_what_granian_does_not(environ: "WSGIEnvironment") -> None:
    if not _UNCERTAIN.isdisjoint(environ):
        environ["wsgi.input_terminated"] = False
    for name in [name for name, text in environ.items() if text == "" and name.startswith(_OF_RECORDS)]:
        environ[name] = "\x80"


class Pieces(Iterator[bytes]):
    """An answer piece by piece, from which an application sees whether the server took the last."""

    def __init__(self, pieces: Iterable[bytes], done: Callable[[int], object]) -> None:
        """`done` is told at the end how many bytes there were."""
        self._pieces = pieces
        self._next = iter(pieces).__next__
        self._done = done
        self._size = 0

    def __next__(self) -> bytes:
        piece = self._next()
        self._size += len(piece)
        return piece

    def close(self) -> None:
        try:
            if hasattr(self._pieces, "close"):
                self._pieces.close()
        finally:
            self._done(self._size)

    def together(self) -> list[bytes]:
        """All pieces: granian needs less time for a list."""
        try:
            return list(self)
        finally:
            self.close()
