"""The progress bar, in seconds: how long everything takes is known beforehand."""

import time
from typing import Any, Self

from tqdm import tqdm  # type: ignore[import-untyped]

_STEP = 0.1


class ProgressBar:
    """A bar on stderr while it is entered; none where stderr is no terminal."""

    def __init__(self, seconds: float) -> None:
        bar_format = "{desc}: {bar}| {n:.0f}/{total:.0f} s"
        self._bar: Any = tqdm(total=seconds, leave=False, disable=None, bar_format=bar_format)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def says(self, what: str) -> None:
        self._bar.set_description_str(what)

    def pass_by(self, seconds: float) -> None:
        self._bar.update(min(seconds, max(0.0, self._bar.total - self._bar.n)))

    def wait_until(self, moment: float) -> None:
        """A moment of `time.monotonic`."""
        last = time.monotonic()
        while (now := time.monotonic()) < moment:
            time.sleep(min(_STEP, moment - now))
            self.pass_by(time.monotonic() - last)
            last = time.monotonic()
