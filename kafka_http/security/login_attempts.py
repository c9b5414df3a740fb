"""Limits failed logins of each address, for all workers of a node together."""

import math

from kafka_http.errors import TooManyLogins
from kafka_http.security.rate_limits import client_network
from kafka_http.security.shared_counters import Bucket, Rate, SharedBuckets

FAILURES_PER_MINUTE = 10
_RATE = Rate(per_second=FAILURES_PER_MINUTE / 60, burst=FAILURES_PER_MINUTE)


class LoginAttempts:
    """Failed logins by address, an IPv6 address with its /64. Any thread may call; nothing blocks."""

    def __init__(self, buckets: SharedBuckets) -> None:
        self._buckets = buckets

    def check(self, address: str) -> None:
        """Raise `TooManyLogins` if the address has too many failed logins."""
        _check_wait(self._bucket(address).wait())

    def begin(self, address: str) -> None:
        """Count an attempt before its outcome is known, so that many at once cannot pass. Raises `TooManyLogins`."""
        _check_wait(self._bucket(address).take())

    def succeed(self, address: str) -> None:
        """Take back an attempt that `begin` counted."""
        self._bucket(address).add(-1)

    def _bucket(self, address: str) -> Bucket:
        return self._buckets.bucket(f"login {client_network(address)}", _RATE)


def _check_wait(seconds: float) -> None:
    if seconds:
        error = TooManyLogins(
            f"Too many failed logins from this address (limit: {FAILURES_PER_MINUTE} a minute). Nothing was done. "
            "Retry later."
        )
        error.headers = {"Retry-After": str(math.ceil(seconds))}
        raise error
