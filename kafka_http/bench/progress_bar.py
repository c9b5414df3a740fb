"""A progress bar in seconds, because the duration of a bench is known in advance."""

import time
from typing import Any, Self

from tqdm import tqdm  # type: ignore[import-untyped]

_STEP_SECONDS = 0.1


class ProgressBar:
    """A bar on stderr if stderr is a terminal. Use it as a context manager."""

    def __init__(self, seconds: float) -> None:
        bar_format = "{desc}: {bar}| {n:.0f}/{total:.0f} s"
        self._bar: Any = tqdm(total=seconds, leave=False, disable=None, bar_format=bar_format)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def describe(self, step: str) -> None:
        self._bar.set_description_str(step)

    def advance(self, seconds: float) -> None:
        self._bar.update(min(seconds, max(0.0, self._bar.total - self._bar.n)))

    def wait_until(self, deadline: float) -> None:
        """Wait for a time of `time.monotonic`, and advance meanwhile."""
        last = time.monotonic()
        while (now := time.monotonic()) < deadline:
            time.sleep(min(_STEP_SECONDS, deadline - now))
            self.advance(time.monotonic() - last)
            last = time.monotonic()
