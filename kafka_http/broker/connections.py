"""A pool of connections to the brokers, driven by the calling thread; no thread runs behind them."""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, TypeVar, cast

from kafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MetadataEmptyBrokerList,
    NodeNotReadyError,
    RequestTimedOutError,
)
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.protocol.metadata import MetadataRequest

from kafka_http.broker.error_map import (
    CONNECTION_LOST,
    Unreachable,
    connection_problem,
    count_error,
    is_unavailable,
    note_addresses,
    translate,
)
from kafka_http.broker.patches import (
    PatchedConnectionManager,
    PooledConnectionManager,
    address_of,
    exchange_directly,
    net_settings,
)
from kafka_http.errors import BrokerUnavailable
from kafka_http.request_facts import waiting_for_kafka

Result = TypeVar("Result")
Exchange = Callable[[KafkaConnectionManager], Awaitable[Result]]
"""A coroutine function that sends requests and awaits their responses."""
ClientExchange = Callable[[KafkaNetClient, float], Result]
"""Uses a client until a deadline (monotonic clock)."""

_RECONNECT_DELAY = 0.3
"""Seconds without another attempt after one that took long."""
_DELAY_PER_ATTEMPT = 10
"""The delay is at most so many times as long as the attempt: one that is refused at once is soon made again."""
_LOGIN = "the connection was closed during login, as brokers do when they reject the credentials"
_POLL_SECONDS = 1.0
"""Time after which a client's loop runs before its next use: brokers close connections, and sessions are renewed."""
_ONE_BROKER_MS = 2000
"""Timeout of a request that any broker can answer, so that there is time to ask another one."""


class ConnectionPool:
    """A pool of kafka-python's network clients, made on first use in this process. Any thread may call.

    Each client serves one caller at a time, because a broker answers a connection's requests in order. A client on
    which anything fails is closed. If no broker can be reached, callers get the same error for a moment, and nothing is
    tried again, because an attempt may take the whole timeout. The moment is short if the attempt was.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """`settings` are those of `KafkaNetClient`."""
        self._settings = net_settings(settings)
        self._timeout = settings["request_timeout_ms"] / 1000
        self.servers = ", ".join(settings["bootstrap_servers"])
        """The addresses in the settings, for errors."""
        self._idle: deque[tuple[KafkaNetClient, float]] = deque()
        self._connecting = Lock()
        self._failed_until = 0.0
        self._failure: KafkaError | None = None
        self._closed = False

    def run(self, exchange: Exchange[Result], timeout: float | None = None) -> Result:
        """Run an exchange within `timeout` seconds (default: that of a request) and return its result.

        It is retried once on a new connection if the connection was lost. Raises errors of `kafka_http.errors`.
        """
        return self._retried(partial(_run_until, exchange), timeout)

    def ask_nodes(self, requests: Mapping[int, Any], timeout: float) -> list[Any]:
        """Send a request to each of these nodes at the same time. Return the responses in this order. As `run`."""
        return self._retried(partial(_ask_nodes, requests), timeout)

    def _retried(self, exchange: ClientExchange[Result], timeout: float | None) -> Result:
        deadline = time.monotonic() + (timeout or self._timeout)
        try:
            with waiting_for_kafka():
                try:
                    return self._attempt(exchange, deadline, fresh=False)
                except CONNECTION_LOST:
                    return self._attempt(exchange, deadline, fresh=True)
        except KafkaError as error:
            count_error(type(error))
            raise translate(error, servers=self.servers) from error

    def close(self) -> None:
        """Close the idle clients now, and those in use when they are released."""
        self._closed = True
        self._close_idle()

    def _attempt(self, exchange: ClientExchange[Result], deadline: float, *, fresh: bool) -> Result:
        client, polled_at = self._acquire(deadline, fresh=fresh)
        try:
            result = exchange(client, deadline)
        except BaseException as error:
            if isinstance(error, KafkaError):
                note_addresses(error, cast("PatchedConnectionManager", client._manager).addresses_tried())
            _abort(client)
            raise
        self._release(client, polled_at)
        return result

    def _acquire(self, deadline: float, *, fresh: bool) -> tuple[KafkaNetClient, float]:
        """Return an idle client; with `fresh`, or if there is none, a new one. Also return when its loop last ran."""
        if not fresh and (idle := self._take_idle()) is not None:
            return idle
        if not self._connecting.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise RequestTimedOutError()
        try:
            return self._connect(deadline), time.monotonic()
        finally:
            self._connecting.release()

    def _take_idle(self) -> tuple[KafkaNetClient, float] | None:
        with suppress(IndexError):
            client, polled_at = self._idle.pop()
            if (now := time.monotonic()) > polled_at + _POLL_SECONDS:
                client.poll(timeout_ms=0)
                polled_at = now
            return client, polled_at
        return None

    def _connect(self, deadline: float) -> KafkaNetClient:
        if self._closed:
            raise BrokerUnavailable("This server is shutting down.")
        if self._failure is not None and time.monotonic() < self._failed_until:
            raise self._failure
        net = NetworkSelector(**self._settings)
        client = KafkaNetClient(net=net, manager=PooledConnectionManager(net, **self._settings))
        bootstrap = Bootstrap()
        began = time.monotonic()
        try:
            _run_until(bootstrap, client, min(deadline, began + self._timeout))
        except KafkaError as error:
            _abort(client)
            now = time.monotonic()
            self._failed_until = now + min(_RECONNECT_DELAY, _DELAY_PER_ATTEMPT * (now - began))
            self._failure = bootstrap.failure(error)
            raise self._failure from error
        except BaseException:
            _abort(client)
            raise
        self._failure = None
        return client

    def _release(self, client: KafkaNetClient, polled_at: float) -> None:
        self._idle.append((client, polled_at))
        if self._closed:  # checked last: another thread may call `close` at any time
            self._close_idle()

    def _close_idle(self) -> None:
        """Close the idle clients. A client that was popped is this thread's alone."""
        while self._idle:
            with suppress(IndexError):
                self._idle.pop()[0].close()


async def ask_any(manager: KafkaConnectionManager, request: Any) -> Any:
    """Send a request to the brokers, one after the other, and return the first response."""
    failure: KafkaError = NodeNotReadyError()
    for _ in range(len(manager.cluster.brokers())):
        if (node := manager.least_loaded_node()) is None:
            break
        try:
            return await manager.send(request, node, _ONE_BROKER_MS)
        except (*CONNECTION_LOST, RequestTimedOutError) as error:
            failure = error
    raise failure


def _ask_nodes(requests: Mapping[int, Any], client: KafkaNetClient, deadline: float) -> list[Any]:
    async def ask(manager: KafkaConnectionManager) -> list[Any]:
        timeout_ms = int((deadline - time.monotonic()) * 1000)
        sent = [manager.send(request, node, timeout_ms) for node, request in requests.items()]
        return [await each for each in sent]

    responses = exchange_directly(client._manager, requests, deadline)
    return _run_until(ask, client, deadline) if responses is None else responses


def _run_until(exchange: Exchange[Result], client: KafkaNetClient, deadline: float) -> Result:
    """Run an exchange on this thread to its end or the deadline."""
    manager = client._manager
    left_ms = max(1, int((deadline - time.monotonic()) * 1000))
    return manager.run(manager.wait_for, manager.call_soon(exchange, manager), left_ms)  # type: ignore[no-any-return]


def _abort(client: KafkaNetClient) -> None:
    """Close a client with its requests in flight. Its `close` alone leaks sockets that have unsent bytes."""
    for connection in list(client._manager._conns.values()):
        if connection.transport is not None:
            connection.transport.abort()
    client.close()


class Bootstrap:
    """An exchange that learns the cluster's brokers. It asks each server of the settings once.

    `KafkaConnectionManager.bootstrap` retries until its timeout, even if all servers refuse at once.
    """

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}

    async def __call__(self, manager: KafkaConnectionManager) -> None:
        failure: KafkaError = MetadataEmptyBrokerList()
        for server in manager.cluster.bootstrap_brokers():
            address = address_of(server)
            self._problems[address] = "timed out"
            try:
                connection = await manager.get_connection(server.node_id)
                response = await connection.send_request(MetadataRequest(topics=[], allow_auto_topic_creation=False))
                manager.cluster.update_metadata(response)
                if manager.cluster.brokers():
                    return
                self._problems[address] = "it knows of no brokers"
            except KafkaError as error:
                failure = error
                is_login = _failed_at_login(manager, error)
                self._problems[address] = _LOGIN if is_login else connection_problem(error.__cause__ or error)
            finally:
                manager.close(server.node_id)
        raise failure

    def failure(self, error: KafkaError) -> KafkaError:
        """Return the error with each address and its problem; `error` itself if a broker answered with it."""
        if not is_unavailable(error):
            return error
        return Unreachable(", ".join(f"{address} ({reason})" for address, reason in sorted(self._problems.items())))


def _failed_at_login(manager: KafkaConnectionManager, error: KafkaError) -> bool:
    """Return whether the login failed. kafka-python drops the broker's last bytes, which contain the reason."""
    is_sasl = str(manager.config["security_protocol"]).startswith("SASL")
    return is_sasl and isinstance(error, KafkaConnectionError) and "disconnected" in str(error)
