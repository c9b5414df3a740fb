"""Waits for a condition with a deadline."""

import os
import time
from collections.abc import Callable
from typing import Any

from kafka_http.errors import KafkaHttpError

_LOOP = 0.03


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """Return the first true result of `condition`. Raise `AssertionError` after `seconds` (`scaled`)."""
    began = time.monotonic()
    while not (found := condition()):
        waited = time.monotonic() - began
        assert waited < seconds or waited < scaled(seconds), f"it did not come to that in {seconds} s"
        time.sleep(0.01)
    return found


def eventually(attempt: Callable[[], object], within: float) -> float:
    """Repeat a call until it succeeds, for at most `within` seconds (`scaled`), and return the time it took."""
    began = time.monotonic()
    while True:
        try:
            attempt()
            return time.monotonic() - began
        except KafkaHttpError:
            if time.monotonic() - began > within and time.monotonic() - began > scaled(within):
                raise


def scaled(seconds: float) -> float:
    """Return a time limit for a busy machine; `seconds` is the limit for an idle one.

    The factor is the largest of three: the elapsed time of a short loop divided by its CPU time, which measures this
    moment; the load average of the last minute divided by the number of cores; and 3 where `CI` is set. Tests run side
    by side there, so that a moment without work of the others says little.
    """
    began, cpu = time.monotonic(), time.thread_time()
    while time.thread_time() < cpu + _LOOP:
        pass
    now = (time.monotonic() - began) / _LOOP
    least = 3.0 if os.environ.get("CI") else 1.0
    return seconds * max(least, now, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
