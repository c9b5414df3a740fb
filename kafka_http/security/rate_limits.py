"""Limits of principals and addresses: requests, bytes, streams and connections. They hold for the node."""

from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from typing import Protocol

from kafka_http.security.principal import Principal

NO_HEADERS: Mapping[str, str] = {}


class RateLimits(Protocol):
    """The limits in `[limits]`. Any thread may call; nothing blocks."""

    @property
    def is_on(self) -> bool:
        """Whether there is any limit."""

    def take(self, principal: Principal, address: str, size: int) -> Mapping[str, str]:
        """Count a request with a body of `size` bytes. Return the `RateLimit-…` headers of its response.

        Raises `RateLimited`, with nothing counted.
        """

    def has_room(self, principal: Principal, address: str, size: int) -> bool:
        """Whether `take` would not raise now."""

    def acquire_stream(self, principal: Principal, address: str) -> Callable[[], None]:
        """Count a stream, and return what releases it (once). Raises `RateLimited`."""

    def acquire_connection(self, address: str) -> Callable[[], None] | None:
        """Count a connection, and return what releases it (once). None: there are too many."""


class NoLimits:
    """The `RateLimits` without any limit."""

    is_on = False

    def take(self, principal: Principal, address: str, size: int) -> Mapping[str, str]:
        return NO_HEADERS

    def has_room(self, principal: Principal, address: str, size: int) -> bool:
        return True

    def acquire_stream(self, principal: Principal, address: str) -> Callable[[], None]:
        return _release_nothing

    def acquire_connection(self, address: str) -> Callable[[], None] | None:
        return _release_nothing


def _release_nothing() -> None:
    """Do nothing."""


def client_network(address: str) -> str:
    """Return what an address is counted under: an IPv6 address under its /64, which one client usually has whole."""
    if ":" not in address:
        return address
    try:
        ipv6 = IPv6Address(address.partition("%")[0])
    except ValueError:  # a proxy sent another form
        return address
    if ipv6.ipv4_mapped is not None:
        return str(ipv6.ipv4_mapped)
    return f"{IPv6Address(int(ipv6) >> 64 << 64)}/64"
