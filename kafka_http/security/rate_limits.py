"""Limits of principals and addresses: requests, bytes, streams and connections. They hold for the node."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from ipaddress import IPv6Address
from math import ceil
from threading import Lock
from typing import Annotated, Any, NamedTuple, Protocol

from msgspec import Meta, Struct

from kafka_http.config import ConfigError
from kafka_http.config.sections import read_section
from kafka_http.errors import RateLimited
from kafka_http.security.principal import ANONYMOUS_NAME, Principal
from kafka_http.security.shared_counters import Bucket, Rate, SharedCounters

SECTION = "limits"
NO_HEADERS: Mapping[str, str] = {}
_OPEN_RETRY_SECONDS = 5
_WILDCARDS = frozenset("*?[")
_MAX_REMEMBERED = 1024
"""Clients whose limits a process remembers. What they have used lies in the shared counters."""

Requests = Annotated[
    Annotated[float, Meta(ge=0.001, le=1e9)] | None, Meta(description="a number from 0.001 to 1000000000")
]
Bytes = Annotated[Annotated[float, Meta(ge=1024, le=1e12)] | None, Meta(description="a number of bytes, at least 1024")]
Seconds = Annotated[float, Meta(ge=0.1, le=3600, description="a number of seconds from 0.1 to 3600")]
Streams = Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="a whole number of at least 0")]
Connections = Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="a whole number of at least 1")]


class LimitSettings(Struct, frozen=True, kw_only=True):
    """The limits of each principal or address under one pattern: `[limits."pattern"]`. None: no limit."""

    requests: Annotated[Requests, "requests per second"] = None
    bytes: Annotated[Bytes, "bytes of request bodies per second, as they are sent; at least 1024"] = None
    burst: Annotated[Seconds, "seconds of the rate that may be used at once"] = 2.0
    streams: Annotated[Streams, "open streams and streaming publishes"] = None
    connections: Annotated[Connections, "open connections"] = None


class ClientLimits(Protocol):
    """The limits of the sender of a request. It may be kept. Any thread may call; nothing blocks."""

    client: str
    """Names the principal or the address."""
    has_connections: bool
    """Whether its connections are limited."""

    def take(self, size: int) -> Mapping[str, str]:
        """Count a request with a body of `size` bytes. Return the `RateLimit-…` headers of its response.

        Raises `RateLimited`, with nothing counted.
        """

    def give_back(self, size: int) -> None:
        """Undo `take` for a request that will be counted again."""

    def has_room(self, size: int) -> bool:
        """Whether `take` would not raise now."""

    def add_bytes(self, size: int) -> float:
        """Count bytes of a body that have arrived. Return the seconds to wait before more may arrive."""

    def acquire_stream(self) -> Callable[[], None]:
        """Count a stream, and return what releases it. It may be called twice. Raises `RateLimited`."""

    def acquire_connection(self) -> Callable[[], None]:
        """Count a connection, and return what releases it. It may be called twice. Raises `RateLimited`."""


class RateLimits(Protocol):
    """The limits in `[limits]`. Any thread may call; nothing blocks."""

    @property
    def is_on(self) -> bool:
        """Whether there is any limit."""

    @property
    def has_connections(self) -> bool:
        """Whether the connections of any client are limited."""

    def of(self, principal: Principal, address: str) -> ClientLimits:
        """Return the limits of a principal, or of the address for requests without one."""


class _Unlimited:
    """The `ClientLimits` without any limit."""

    client = ""
    has_connections = False

    def take(self, size: int) -> Mapping[str, str]:
        return NO_HEADERS

    def give_back(self, size: int) -> None:
        """Do nothing."""

    def has_room(self, size: int) -> bool:
        return True

    def add_bytes(self, size: int) -> float:
        return 0.0

    def acquire_stream(self) -> Callable[[], None]:
        return release_nothing

    def acquire_connection(self) -> Callable[[], None]:
        return release_nothing


UNLIMITED: ClientLimits = _Unlimited()


class NoLimits:
    """The `RateLimits` without any limit."""

    is_on = False
    has_connections = False

    def of(self, principal: Principal, address: str) -> ClientLimits:
        return UNLIMITED


def release_nothing() -> None:
    """Do nothing, as what releases something that is not counted."""


class ConnectionCounts:
    """The clients for which a connection counts, each once, until it is closed. That of a proxy may have several.

    The server gets it for each connection that it accepts. One thread at a time calls `add`, any thread `close`.
    """

    __slots__ = ("_releases", "is_refused", "last")

    def __init__(self) -> None:
        self.last: ClientLimits | None = None
        """The limits of the last client, for which the connection counts."""
        self.is_refused = False
        """Whether a client has too many connections, so that this one must be closed."""
        self._releases: dict[str, Callable[[], None]] | None = {}

    def add(self, limits: ClientLimits) -> None:
        """Count the connection for a client, if that is limited. Raises `RateLimited`."""
        if limits is self.last or not limits.has_connections:
            return
        with _counting:
            if self._releases is None:  # closed meanwhile
                return
            if limits.client not in self._releases:  # a reload makes other limits of the same client
                try:
                    self._releases[limits.client] = limits.acquire_connection()
                except RateLimited:
                    self.is_refused = True
                    raise
        self.last = limits

    def close(self) -> None:
        """Stop counting the connection. May be called twice."""
        with _counting:
            releases, self._releases = self._releases, None
        for release in (releases or {}).values():
            release()


_counting = Lock()
"""For all connections of a process, since each of them needs it only for its first request and its end."""


def load_limits(
    section: Mapping[str, Mapping[str, Any]], sources: Mapping[str, str], shared: SharedCounters
) -> RateLimits:
    """Return the limits in `[limits]`. Raises `ConfigError`."""
    entries = {pattern: _read_entry(pattern, values, sources) for pattern, values in section.items()}
    _check_order(list(entries))
    return ConfiguredLimits(entries, shared) if entries else NoLimits()


def _read_entry(pattern: str, values: Mapping[str, Any], sources: Mapping[str, str]) -> LimitSettings:
    name = f"{SECTION}.{pattern}"
    return LimitSettings(**read_section(LimitSettings, name, values, sources))


def _check_order(patterns: Sequence[str]) -> None:
    """Raise `ConfigError` for a pattern all of whose names match an earlier pattern."""
    for index, pattern in enumerate(patterns):
        for earlier in patterns[:index]:
            # The wildcards of the pattern are text here, which only a * of the earlier one matches
            if not _WILDCARDS.isdisjoint(pattern) and {"?", "["}.isdisjoint(earlier) and fnmatchcase(pattern, earlier):
                raise ConfigError(
                    f"{SECTION}.{pattern} has no effect: {SECTION}.{earlier} comes first and matches all its names."
                )


class ConfiguredLimits:
    """The `RateLimits` of the settings. The entry of the exact name counts, else the first whose pattern matches."""

    is_on = True

    def __init__(self, entries: Mapping[str, LimitSettings], shared: SharedCounters) -> None:
        self.has_connections = any(each.connections is not None for each in entries.values())
        self._entries = entries
        self._entry_of = lru_cache(_MAX_REMEMBERED)(self._find_entry)
        self._limits_of = lru_cache(_MAX_REMEMBERED)(partial(_EntryLimits, shared))

    def of(self, principal: Principal, address: str) -> ClientLimits:
        is_anonymous = principal.scheme in ("off", "anonymous")
        settings = self._entry_of(ANONYMOUS_NAME if is_anonymous else principal.name)
        if settings is None:
            return UNLIMITED
        client = f"address {client_network(address)}" if is_anonymous else f"principal {principal.name}"
        return self._limits_of(settings, client)

    def _find_entry(self, name: str) -> LimitSettings | None:
        exact = self._entries.get(name)
        return exact or next((each for pattern, each in self._entries.items() if fnmatchcase(name, pattern)), None)


class _Meter(NamedTuple):
    """A bucket, and how its limit is shown."""

    bucket: Bucket
    unit: str
    per_second: float
    limit: str
    """The value of `RateLimit-Limit`: the burst."""

    @classmethod
    def create(cls, shared: SharedCounters, client: str, unit: str, per_second: float, burst: float) -> "_Meter":
        rate = Rate(per_second, per_second * burst)
        return cls(shared.buckets.bucket(f"{unit} {client}", rate), unit, per_second, str(max(1, int(rate.burst))))

    def headers(self, backlog: float) -> dict[str, str]:
        """Return the headers of a response, `backlog` seconds before the bucket is full."""
        remaining = int((self.bucket.window - backlog) * self.per_second)
        return {
            "RateLimit-Limit": self.limit,
            "RateLimit-Remaining": str(remaining) if remaining > 0 else "0",
            "RateLimit-Reset": str(ceil(backlog)),
        }

    def refusal(self, client: str, wait: float, backlog: float) -> RateLimited:
        """Return the error of a request that may come again after `wait` seconds."""
        kind, _, name = client.partition(" ")
        error = RateLimited(
            f"The {kind} {name[:255]} may send {self.per_second:.15g} {self.unit} per second. Nothing was done. "
            f"Retry in {ceil(wait)} s."
        )
        error.headers = {**self.headers(backlog), "Retry-After": str(ceil(wait))}
        return error


class _EntryLimits:
    """The `ClientLimits` of a principal or an address."""

    __slots__ = ("_bytes", "_connections", "_requests", "_shared", "_streams", "client", "has_connections")

    def __init__(self, shared: SharedCounters, settings: LimitSettings, client: str) -> None:
        """`client` names the principal or the address."""
        self.client = client
        self.has_connections = settings.connections is not None
        self._shared = shared
        self._streams, self._connections = settings.streams, settings.connections
        self._requests, self._bytes = (
            None if rate is None else _Meter.create(shared, client, unit, rate, settings.burst)
            for unit, rate in (("requests", settings.requests), ("bytes", settings.bytes))
        )

    def take(self, size: int) -> Mapping[str, str]:
        requests, sizes = self._requests, self._bytes
        if requests is None and sizes is None:
            return NO_HEADERS
        buckets = self._shared.buckets
        with buckets.lock:
            now = buckets.clock()
            after = 0.0 if requests is None else requests.bucket.after(now, 1)
            after_bytes = 0.0 if sizes is None else sizes.bucket.after(now, size)
            if after >= 0 and after_bytes >= 0:
                if sizes is not None:
                    sizes.bucket.set(now + after_bytes)
                if requests is not None:
                    requests.bucket.set(now + after)
                    return requests.headers(after)
                return NO_HEADERS if sizes is None else sizes.headers(after_bytes)
        meter, wait = (requests, -after) if after < 0 else (sizes, -after_bytes)
        assert meter is not None  # noqa: S101  only a limit refuses
        raise meter.refusal(self.client, wait, meter.bucket.backlog(now))

    def give_back(self, size: int) -> None:
        for meter, cost in self._costs(size):
            meter.bucket.add(-cost)

    def has_room(self, size: int) -> bool:
        return all(meter.bucket.wait(cost) <= 0 for meter, cost in self._costs(size))

    def _costs(self, size: int) -> Iterator[tuple[_Meter, int]]:
        if self._requests is not None:
            yield self._requests, 1
        if self._bytes is not None:
            yield self._bytes, size

    def add_bytes(self, size: int) -> float:
        if self._bytes is None:
            return 0.0
        self._bytes.bucket.add(size)
        return self._bytes.bucket.wait(0)

    def acquire_stream(self) -> Callable[[], None]:
        return self._acquire("streams", self._streams)

    def acquire_connection(self) -> Callable[[], None]:
        return self._acquire("connections", self._connections)

    def _acquire(self, unit: str, limit: int | None) -> Callable[[], None]:
        if limit is None:
            return release_nothing
        release = self._shared.open_counts.acquire(f"{unit} {self.client}", limit)
        if release is None:
            kind, _, name = self.client.partition(" ")
            error = RateLimited(f"The {kind} {name[:255]} may have {limit} open {unit}. Close one, or retry later.")
            error.headers = {"Retry-After": str(_OPEN_RETRY_SECONDS)}
            raise error
        return release


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
