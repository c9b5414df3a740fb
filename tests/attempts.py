"""Trying again until it works, with a deadline."""

import time
from collections.abc import Callable

from kafka_http.errors import KafkaHttpError


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
