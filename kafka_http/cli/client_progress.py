"""Progress bars of the client commands: on stderr, only in a terminal, and only for work that takes over a second."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from tqdm import tqdm  # type: ignore[import-untyped]

from kafka_http.cli.client_requests import ApiClient, path_of

_DELAY_SECONDS = 1.0


@contextmanager
def progress_bar(total: int | None, unit: str, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """Yield a function that adds to the bar. `total` is None if it is not known."""
    is_shown = shown and sys.stderr.isatty()
    with tqdm(total=total, unit=unit, unit_scale=True, delay=_DELAY_SECONDS, leave=False, disable=not is_shown) as bar:
        yield bar.update


class ReadProgress:
    """The part of a topic's log that has been read, as positions tell it."""

    def __init__(self, ends: dict[int, int]) -> None:
        """`ends` has the end offset of each partition."""
        self._ends = ends
        self._read: int | None = None
        self._bar = tqdm(total=0, unit="msg", unit_scale=True, delay=_DELAY_SECONDS, leave=False)

    @classmethod
    def of_topic(cls, client: ApiClient, topic: str) -> Self | None:
        """Return the progress of a read into a file or a pipe; None if there is no terminal to show it."""
        if sys.stdout.isatty() or not sys.stderr.isatty():
            return None
        partitions = client.call("GET", path_of("messages", topic), "partitions")["partitions"]
        return cls({each["partition"]: each["latest"] for each in partitions})

    def update(self, position: str) -> None:
        """Show a position such as `0:42,1:17,*:earliest`. The first one is the start."""
        pairs = (pair.split(":") for pair in position.removesuffix(";end").split(",") if pair[:1].isdecimal())
        left = sum(max(0, self._ends.get(int(partition), 0) - int(offset)) for partition, offset in pairs)
        if self._read is None:
            self._bar.total, self._read = left, 0
        self._bar.update(self._bar.total - left - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
