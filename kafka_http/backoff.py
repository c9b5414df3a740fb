"""Delays between retries."""


class Backoff:
    """Exponential delays, in seconds: `first`, twice that, and so on up to `maximum`, until `reset`.

    Not safe for threads: each retry loop has its own.
    """

    def __init__(self, first: float, maximum: float) -> None:
        self._first = first
        self._maximum = maximum
        self._next = first

    def next(self) -> float:
        """The delay before the next attempt."""
        delay = self._next
        self._next = min(self._maximum, delay * 2)
        return delay

    def reset(self) -> None:
        """Start with the first delay again, after a success."""
        self._next = self._first
