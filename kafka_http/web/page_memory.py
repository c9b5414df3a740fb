"""A limit on the memory of a worker's pages, from their first byte until the clients have received them."""

import threading

from flask import Response, g

from kafka_http.errors import Unavailable

_MIN_PAGE = 1 << 18
"""Bytes. If less is free, a larger page is rejected."""
_WAITING_PAGE = 1 << 18
"""Bytes of a page that had to wait for its first message."""
_COPIES = 3
"""Copies of a page in memory while it is made: Kafka's records, their JSON, the response."""
_FIRST_SHARE, _SHARE = 4, 12
"""A page gets at most a quarter of the limit while little is used, later a twelfth of what is left."""


class PageMemoryBudget:
    """Limits pages to `max_answers_in_flight` bytes in this process. Any thread may call.

    A page counts with all its copies while it is made, then with its response until the client has received it.
    `track_response` must get the response of each request that reserved memory.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    def reserve(self, max_bytes: int) -> "PageReservation":
        """Reserve memory for the page of the current request: `max_bytes` or less. Raises `Unavailable`."""
        reservation: PageReservation = g.setdefault("page_memory", PageReservation(self))
        self.grant(reservation, max_bytes)
        return reservation

    def grant(self, reservation: "PageReservation", max_bytes: int) -> None:
        """Add memory for a page to a reservation: `max_bytes` or less. Raises `Unavailable`."""
        with self._lock:
            granted = self.page_size(max_bytes)
            if granted < min(max_bytes, _MIN_PAGE, self._limit // _SHARE):
                raise Unavailable(
                    f"Responses that clients have not received yet hold {self._used} bytes "
                    f"(max_answers_in_flight: {self._limit}). Retry."
                )
            self._used += _COPIES * granted
        reservation.size, reservation.reserved = granted, reservation.reserved + _COPIES * granted

    def page_size(self, max_bytes: int) -> int:
        """Return the size that a page would get now."""
        if self._used <= self._limit // 8:
            return min(max_bytes, self._limit // _FIRST_SHARE)
        return min(max_bytes, max(0, self._limit - self._used) // _SHARE)

    def track_response(self, response: Response) -> Response:
        """Count a page by its response from now on, until the response is closed."""
        reservation: PageReservation | None = g.pop("page_memory", None)
        if reservation is not None:
            reservation.resize(response.content_length or response.calculate_content_length() or 0)
            response.call_on_close(lambda: reservation.resize(0))
        return response

    def add(self, size: int) -> None:
        """Count `size` more bytes, without a check of the limit."""
        with self._lock:
            self._used += size


class PageReservation:
    """The memory of one page. The request's thread calls, and finally the thread that closes the response.

    On the fast path the main loop makes one and calls `PageMemoryBudget.grant`.
    """

    def __init__(self, budget: PageMemoryBudget) -> None:
        self.size = 0
        self.reserved = 0
        self._budget = budget

    def wait(self) -> None:
        """Release what the page does not need while it waits for a message."""
        self.size = min(self.size, _WAITING_PAGE)
        self.resize(_COPIES * self.size)

    def hold(self, size: int) -> None:
        """Count a page of this size that is in memory already, without a check of the limit."""
        self.size = size
        self.resize(_COPIES * size)

    def resize(self, size: int) -> None:
        self._budget.add(size - self.reserved)
        self.reserved = size
