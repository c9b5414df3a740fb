"""A response body that tells whether it was sent."""

import logging
from collections.abc import Callable, Iterator

from kafka_http.errors import KafkaHttpError

log = logging.getLogger(__name__)


class SentBody(Iterator[bytes]):
    """The body of a page. It counts as sent when the server asks for more after its only part.

    The call of `close` does not tell whether the body was sent.
    """

    def __init__(self, body: bytes, sent: Callable[[], None], unsent: Callable[[], None]) -> None:
        """One of `sent` and `unsent` is called once."""
        self._parts = [body]
        self._callbacks: tuple[Callable[[], None], Callable[[], None]] | None = sent, unsent

    def __next__(self) -> bytes:
        if self._parts:
            return self._parts.pop()
        self._finish(is_sent=True)
        raise StopIteration

    def close(self) -> None:
        self._finish(is_sent=False)

    def _finish(self, *, is_sent: bool) -> None:
        callbacks, self._callbacks = self._callbacks, None
        if callbacks is None:
            return
        try:
            callbacks[0 if is_sent else 1]()
        except KafkaHttpError as error:  # the response is sent; the messages are delivered again
            log.warning("Delivery of a page was not stored, and its records may be delivered again: %s", error.message)
