"""How much memory the pages of a worker may take, from their first byte until their clients have them."""

import threading

from flask import Response, g

from kafka_http.errors import Unavailable

_LEAST = 1 << 18
"""Bytes: a page that asks for more is refused rather than made smaller than this."""
_WAITING = 1 << 18
"""Bytes that a page may have that had to wait for its first message."""
_COPIES = 3
"""How often a page is in memory while it is made: as Kafka's records, as their JSON, and as the answer."""
_FIRST, _SHARE = 4, 12
"""A page may have a quarter of the limit while little is used, and after that a twelfth of what is left, so that there
is something left for others however much it asks for."""


class PageMemoryBudget:
    """Grants pages their memory: `max_answers_in_flight` bytes in all. Any thread may call.

    While a page is made its copies count, then its answer until the client has taken it. `finish` must see each
    response of a request that was granted a page.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    def page(self, wanted: int) -> "PageReservation":
        """Grant the page of this request so many bytes, or fewer. Raises `Unavailable`."""
        with self._lock:
            granted = self.page_size(wanted)
            if granted < min(wanted, _LEAST, self._limit // _SHARE):
                raise Unavailable(
                    f"Clients have not taken {self._used} bytes of their pages yet, max_answers_in_flight is "
                    f"{self._limit}. Try again."
                )
            self._used += _COPIES * granted
        room: PageReservation = g.setdefault("page_room", PageReservation(self))
        room.size, room.held = granted, room.held + _COPIES * granted
        return room

    def page_size(self, wanted: int) -> int:
        """How large a page would be now."""
        if self._used <= self._limit // 8:
            return min(wanted, self._limit // _FIRST)
        return min(wanted, max(0, self._limit - self._used) // _SHARE)

    def finish(self, response: Response) -> Response:
        """Count a page by its answer from now on, until that is sent."""
        room: PageReservation | None = g.pop("page_room", None)
        if room is not None:
            room.count(response.content_length or response.calculate_content_length() or 0)
            response.call_on_close(lambda: room.count(0))
        return response

    def add(self, size: int) -> None:
        """Count so many bytes more, whatever the limit is."""
        with self._lock:
            self._used += size


class PageReservation:
    """The memory of one page. Its request's thread calls, and at the end whoever has sent it."""

    def __init__(self, budget: PageMemoryBudget) -> None:
        self.size = 0
        self.held = 0
        self._budget = budget

    def wait(self) -> None:
        """Give back what is not needed while there is no message."""
        self.size = min(self.size, _WAITING)
        self.count(_COPIES * self.size)

    def count(self, size: int) -> None:
        """Count so many bytes from now on."""
        self._budget.add(size - self.held)
        self.held = size
