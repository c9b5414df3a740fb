"""Trying again until it works, with a deadline."""

import time
from collections.abc import Callable
from typing import Any

from kafka_http.errors import KafkaHttpError


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """What `condition` returns once that is true of it; an `AssertionError` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not come to that in {seconds} s"
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
            if time.monotonic() - began > within:
                raise
