"""Uses of private parts of kafka-python 3.0.12: its connection manager, its sockets, and its group coordinator.

Each class and function names the private parts that it uses and why. Look at all of them before you raise the pinned
version.
"""

import selectors
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from threading import current_thread
from typing import Any, NamedTuple

from kafka.consumer.subscription_state import SubscriptionState
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import (
    Cancelled,
    FencedInstanceIdError,
    KafkaConnectionError,
    KafkaTimeoutError,
    RequestTimedOutError,
)
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.connection import KafkaConnection
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaTCPTransport
from kafka.net.wakeup_notifier import WakeupNotifier

from kafka_http.broker.error_map import Unreachable, connection_problem
from kafka_http.config import ConfigError

_FIRST_RECEIVE, _NEXT_RECEIVES = 1 << 12, 1 << 18
_NOTHING_RECEIVED = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_COORDINATOR_TIMEOUT = 15.0
"""Seconds without a coordinator after which the brokers' addresses are looked up again."""


class _ClosingSocket(KafkaNetSocket):
    """Closes a socket that failed to connect. kafka-python leaves it to the garbage collector.

    `net_settings` selects it for connections without a proxy, by the scheme `direct`.
    """

    SCHEMES = ("direct",)

    async def sock_connect(self, net: Any, sock: Any, sockaddr: Any, timeout_at: float | None = None) -> Any:
        try:
            return await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise


def net_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a client's settings with the socket class of this module, unless a proxy is set."""
    return {**settings, "proxy_url": settings.get("proxy_url") or "direct://"}


def address_of(node: Any) -> str:
    """Return `host:port` of a broker."""
    return f"[{node.host}]:{node.port}" if ":" in node.host else f"{node.host}:{node.port}"


def _receive(sock: socket.socket) -> tuple[bytes, KafkaConnectionError | None]:
    """Return all that a non-blocking socket has received, and the error if the connection is lost.

    Most responses are small. After a full first part the rest of a fetch comes in large ones.
    """
    parts: list[bytes] = []
    size = _FIRST_RECEIVE
    try:
        while part := sock.recv(size):
            parts.append(part)
            if len(part) == size:
                size = _NEXT_RECEIVES
        error = KafkaConnectionError("socket disconnected")
    except _NOTHING_RECEIVED:
        return b"".join(parts), None
    except OSError as problem:
        error = KafkaConnectionError(problem)
    return b"".join(parts), error


class _Frame:
    """A response as kafka-python's decoder reads it. `KafkaBytes` copies it twice, and once more for each part."""

    def __init__(self, data: bytearray) -> None:
        self._data = memoryview(data)
        self._position = 0

    def read(self, size: int | None = None) -> memoryview:
        start = self._position
        self._position = len(self._data) if size is None else start + size
        return self._data[start : self._position]

    def seek(self, position: int) -> None:
        self._position = position

    def tell(self) -> int:
        return self._position


def exchange_directly(
    manager: KafkaConnectionManager, requests: Mapping[int, Any], deadline: float
) -> list[Any] | None:
    """Send a request to each of these nodes, wait for all responses, and return them in this order.

    Returns None if kafka-python's loop must do it, because a connection is not open, logged in and idle. The calling
    thread waits on the sockets: the loop takes about 0.5 ms for a request, and copies a response six times. Raises
    `KafkaConnectionError` and `RequestTimedOutError`. The client must be closed then.

    Uses `_conns`, the connections' `parser`, `transport` and `_reauth`, and what belongs to them.
    """
    connections = [manager._conns.get(node) for node in requests]
    if not all(map(_is_ready, connections)):
        return None
    try:
        for connection, request in zip(connections, requests.values(), strict=True):
            _send_request(connection, request, deadline)
        return [_receive_response(connection, deadline) for connection in connections]
    except TimeoutError:
        raise RequestTimedOutError from None
    except OSError as problem:
        raise KafkaConnectionError(problem) from problem


def _is_ready(connection: Any) -> bool:
    """Return whether a connection is logged in and has nothing in flight."""
    if connection is None or not connection.connected or connection.initializing or connection.paused:
        return False
    is_busy = connection.in_flight_requests or connection._request_buffer or connection.transport._write_buffer
    return not is_busy and not connection._reauth.is_reauthenticating


def _send_request(connection: Any, request: Any, deadline: float) -> None:
    if request.API_VERSION is None:
        request.API_VERSION = connection.broker_version_data.api_version(request)
    connection.parser.send_request(request)
    sock = connection.transport._sock
    sock.settimeout(_seconds_until(deadline))
    sock.sendall(connection.parser.send_bytes())


def _receive_response(connection: Any, deadline: float) -> Any:
    transport, parser = connection.transport, connection.parser
    size = int.from_bytes(_receive_exactly(transport._sock, 4, deadline))
    parser._validate_frame_size(size)
    frame = _receive_exactly(transport._sock, size, deadline)
    transport._sock.setblocking(False)
    transport.last_read = transport.last_write = time.monotonic()  # else it is closed as idle
    _, response = parser._process_response(_Frame(frame))
    connection._maybe_throttle(response)
    return response


def _receive_exactly(sock: socket.socket, size: int, deadline: float) -> bytearray:
    data = bytearray(size)
    left = memoryview(data)
    while left:
        sock.settimeout(_seconds_until(deadline))
        count = sock.recv_into(left)
        if not count:
            raise KafkaConnectionError("socket disconnected")
        left = left[count:]
    return data


def _seconds_until(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


class PatchedConnectionManager(KafkaConnectionManager):
    """A connection manager that raises `Cancelled` when this process closes it.

    kafka-python reports calls that its own `close` interrupts as broker failures, and logs errors. Its transports
    receive 4 KiB at a time, which takes a third of the CPU time of a fetch. Uses `_conns`, `_net`, `_build_transport`,
    `_do_bootstrap`, the loop's `_io_thread`, and the transports' `_write_buffer`, `_sock` and `_sock_recv`.
    """

    def __init__(self, net: NetworkSelector, **settings: Any) -> None:
        super().__init__(net, **settings)
        self._problems: dict[str, str] = {}

    def addresses_tried(self) -> str:
        """Return the addresses of the brokers, each with the reason if it cannot be reached."""
        brokers = [address_of(each) for each in self.cluster.brokers() or self.cluster.bootstrap_brokers()]
        return ", ".join(f"{each} ({self._problems[each]})" if each in self._problems else each for each in brokers)

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        address = address_of(node)
        try:
            transport = await super()._build_transport(node, timeout_at=timeout_at)
        except Exception as error:
            self._problems[address] = problem = connection_problem(error)
            raise Unreachable(f"{address} ({problem})") from error
        self._problems.pop(address, None)
        transport._sock_recv = partial(_receive, transport._sock)
        return transport

    def send(self, *args: Any, **kwargs: Any) -> Any:
        return Future().failure(Cancelled()) if self.closed else super().send(*args, **kwargs)

    def run(self, coro: Any, *args: Any) -> Any:
        try:
            return super().run(coro, *args)
        except RuntimeError as error:
            if self._net._closed:  # by another thread, just now
                raise Cancelled from error
            raise

    def close(self, node_id: Any = None, timeout_ms: Any = None) -> None:
        """Close all connections, or those of one node. If the loop has a thread, that thread does it.

        kafka-python's `close` does it on the caller's thread, while the loop's thread runs coroutines of the
        connections. These then write to a closed transport, or are executing when `Task.close` closes them.
        """
        loop_thread = self._net._io_thread
        if self.closed or loop_thread is None or loop_thread is current_thread() or not loop_thread.is_alive():
            self._close(node_id, timeout_ms)
        else:
            self._net.run(self._close, node_id, timeout_ms)

    def _close(self, node_id: Any, timeout_ms: Any) -> None:
        """Close connections on this thread.

        kafka-python's `close` waits for a socket with unsent bytes. A loop that is closed right after never sends them.
        """
        if node_id is None and not self.closed:
            for connection in list(self._conns.values()):
                if connection.transport is not None and connection.transport._write_buffer:
                    connection.transport.abort()
        super().close(node_id, timeout_ms)

    async def _do_bootstrap(self, deadline: float | None) -> Any:
        try:
            return await super()._do_bootstrap(deadline)
        except KafkaTimeoutError:
            if self.closed:
                raise Cancelled from None
            raise


class PooledConnectionManager(PatchedConnectionManager):
    """Does not refresh metadata by itself after a lost connection.

    kafka-python's bootstrap makes no progress in an idle client of the pool, and fails when the client is closed.
    """

    def get_connection(self, *args: Any, **settings: Any) -> Any:
        return super().get_connection(*args, **{**settings, "refresh_metadata_on_err": False})


class BoundedConnectionManager(PatchedConnectionManager):
    """Limits the time that a caller waits to `request_timeout_ms`. kafka-python has no limit."""

    def run(self, coro: Any, *args: Any) -> Any:
        async def call() -> Any:
            return await self.wait_for(self.call_soon(coro, *args), self.config["request_timeout_ms"])

        return super().run(call)


class SessionConnectionManager(PatchedConnectionManager):
    """The connection manager of a `GroupSession`."""

    def close_idle_connections(self) -> None:
        """Do nothing: the broker does it. kafka-python's timer would keep each closed client in memory for minutes."""


class ShareConnectionManager(SessionConnectionManager, PooledConnectionManager):
    """The connection manager of a share session, or one that share members have in common."""


class TakenSocket(NamedTuple):
    """A socket that kafka-python has connected and logged in.

    `versions` has the lowest and the highest version of the requested API. `lifetime` is that of the login in seconds,
    0 if it is not limited.
    """

    sock: Any
    versions: tuple[int, int]
    lifetime: float


def check_libraries() -> None:
    """Raise `ConfigError` if kafka-python lacks a private part that `take_socket` uses."""
    used = ((KafkaTCPTransport(None, None), ("_sock", "_net")), (KafkaConnection(None), ("_reauth", "transport")))
    missing = [f"{type(part).__name__}.{name}" for part, names in used for name in names if not hasattr(part, name)]
    if missing:
        raise ConfigError(
            f"The installed kafka-python {version('kafka-python')} cannot be used: {', '.join(missing)} is missing. "
            "Install the version that kafka_http asks for: kafka-python 3.0.12."
        )


async def take_socket(manager: KafkaConnectionManager, node: int, api_key: int) -> TakenSocket:
    """Connect to a broker, log in, and take the socket from kafka-python.

    kafka-python's own loop takes ten times the time for a request. Uses `KafkaConnection._reauth`,
    `broker_version_data.api_versions`, and the transport's `_sock` and `_net`.
    """
    connection = await manager.get_connection(node)
    versions = connection.broker_version_data.api_versions[api_key]
    lifetime = connection._reauth.session_lifetime_ms / 1000
    transport = connection.transport
    sock, transport._sock = transport._sock, None
    with suppress(KeyError, ValueError):
        transport._net.unregister_event(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
    connection.close()
    return TakenSocket(sock, tuple(versions), lifetime)


class PatchedCoordinator(ConsumerCoordinator):
    """A group coordinator that wakes its driver, reports when it is fenced, and can be stopped at any time.

    Uses `_handle_metadata_update`, `_on_join_complete_async`, `_send_heartbeat_request`, `_send_offset_commit_request`,
    `_close_heartbeat`, and `_cluster._listeners`. Its coroutines run on the thread of the loop.
    """

    def __init__(self, client: KafkaNetClient, subscription: SubscriptionState, wake: WakeupNotifier, **settings: Any):
        """`wake` is notified when there is something to do."""
        self._wake = wake
        self._fenced = False
        self._stopped = False
        self._missing_since: float | None = None
        super().__init__(client, subscription, **settings)

    def check(self) -> None:
        """Raise `FencedInstanceIdError`, or `KafkaTimeoutError` if there has been no coordinator for too long."""
        if self._fenced:
            raise FencedInstanceIdError
        if self._missing_since is not None and time.monotonic() > self._missing_since + _COORDINATOR_TIMEOUT:
            raise KafkaTimeoutError("The group's coordinator cannot be found.")

    def stop(self) -> None:
        self._stopped = True
        self._close_heartbeat()
        self._cluster._listeners.clear()

    def need_rejoin(self) -> bool:
        return not self._stopped and bool(super().need_rejoin())

    def lookup_coordinator(self) -> Future:
        if self._stopped:
            raise Cancelled
        self.check()
        if self._missing_since is None:
            self._missing_since = time.monotonic()
        found: Future = super().lookup_coordinator()
        return found.add_callback(self._on_coordinator_found)  # type: ignore[no-any-return]

    def _on_coordinator_found(self, _: Any) -> None:
        self._missing_since = None

    def request_rejoin(self) -> None:
        super().request_rejoin()
        self._wake.notify()

    def reset_generation(self, *args: Any, **kwargs: Any) -> None:
        super().reset_generation(*args, **kwargs)
        self._wake.notify()

    def _handle_metadata_update(self, cluster: Any) -> None:
        super()._handle_metadata_update(cluster)
        self._wake.notify()

    async def _on_join_complete_async(self, *args: Any) -> None:
        """Let each member watch for new partitions: after a takeover no member may know that it is the leader."""
        await super()._on_join_complete_async(*args)
        if self._assignment_snapshot is None:
            self._assignment_snapshot = self._metadata_snapshot

    async def _send_heartbeat_request(self) -> None:
        try:
            await super()._send_heartbeat_request()
        except FencedInstanceIdError:
            self._on_fenced()
            raise

    async def _send_offset_commit_request(self, offsets: Any) -> None:
        try:
            await super()._send_offset_commit_request(offsets)
        except FencedInstanceIdError:
            self._on_fenced()
            raise

    def _on_fenced(self) -> None:
        self._fenced = True
        self._wake.notify()
