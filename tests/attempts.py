"""Trying again until it works, with a deadline."""

import os
import time
from collections.abc import Callable
from typing import Any

from kafka_http.errors import KafkaHttpError

_LOOP = 0.03


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """What `condition` returns once that is true of it; an `AssertionError` after so many (`scaled`) seconds."""
    began = time.monotonic()
    while not (found := condition()):
        waited = time.monotonic() - began
        assert waited < seconds or waited < scaled(seconds), f"it did not come to that in {seconds} s"
        time.sleep(0.01)
    return found


def eventually(attempt: Callable[[], object], within: float) -> float:
    """The seconds until an attempt succeeded."""
    began = time.monotonic()
    while True:
        try:
            attempt()
            return time.monotonic() - began
        except KafkaHttpError:
            if time.monotonic() - began > within and time.monotonic() - began > scaled(within):
                raise


def scaled(seconds: float) -> float:
    """A bound for what takes less than these seconds on a quiet machine, where other programs take the cores.

    The factor is the larger of two: how long a short loop takes beside its CPU time, which is of this moment, and the
    programs that wanted a core in the last minute, for each core.
    """
    began, cpu = time.monotonic(), time.thread_time()
    while time.thread_time() < cpu + _LOOP:
        pass
    now = (time.monotonic() - began) / _LOOP
    return seconds * max(1.0, now, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
