"""Connections to the brokers that the calling thread drives itself: one borrower at a time, no thread behind them."""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any, TypeVar, cast

from kafka.errors import (
    Cancelled,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MetadataEmptyBrokerList,
    NodeNotReadyError,
    RequestTimedOutError,
)
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.protocol.metadata import MetadataRequest

from kafka_http.broker.error_map import (
    CONNECTION_LOST,
    Unreachable,
    connection_problem,
    is_unavailable,
    note_addresses,
    translate,
)
from kafka_http.errors import BrokerUnavailable

Answer = TypeVar("Answer")
Job = Callable[[KafkaConnectionManager], Awaitable[Answer]]
"""A coroutine function that sends what it has to and awaits the answers."""

_REST_AFTER_FAILURE = 0.3
_LOGIN = "the connection was closed at the login, as it is where a broker does not accept this server's credentials"
_LOOK_AFTER = 1.0
"""Seconds that a client is idle after which it learns, before its next use, which connections brokers have closed."""
_QUICK_MS = 2000
"""For a request that any broker can answer, so that there is time left to ask another."""


class _ClosingSocket(KafkaNetSocket):
    """Closes a socket that did not connect. kafka-python keeps it, in a traceback, until that is collected."""

    SCHEMES = ("direct",)

    async def sock_connect(self, net: Any, sock: Any, sockaddr: Any, timeout_at: float | None = None) -> Any:
        try:
            return await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise


class PatchedConnectionManager(KafkaConnectionManager):
    """kafka-python 3.0.12's manager, for which its own close is no failure of Kafka's.

    kafka-python's answers a call that its close interrupts with the error that it has for brokers that do not answer,
    and logs that. This one says `Cancelled`, which the log leaves out.
    """

    def __init__(self, net: NetworkSelector, **settings: Any) -> None:
        super().__init__(net, **settings)
        self._problems: dict[str, str] = {}

    def asked(self) -> str:
        """The addresses of the brokers, and why those failed that cannot be reached."""
        brokers = [_address(each) for each in self.cluster.brokers() or self.cluster.bootstrap_brokers()]
        return ", ".join(f"{each} ({self._problems[each]})" if each in self._problems else each for each in brokers)

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        address = _address(node)
        try:
            transport = await super()._build_transport(node, timeout_at=timeout_at)
        except Exception as error:
            self._problems[address] = problem = connection_problem(error)
            raise Unreachable(f"{address} ({problem})") from error
        self._problems.pop(address, None)
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
        """Close all, or one node's. kafka-python's waits for a socket that has bytes to send, which a loop that closes
        right after it forgets."""
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


class _PooledConnectionManager(PatchedConnectionManager):
    """Looks for nothing by itself. kafka-python's begins a bootstrap whenever a connection is lost, which a client that
    nobody drives does not get on with: it fails as the client is closed."""

    def get_connection(self, *args: Any, **settings: Any) -> Any:
        return super().get_connection(*args, **{**settings, "refresh_metadata_on_err": False})


def _address(node: Any) -> str:
    return f"[{node.host}]:{node.port}" if ":" in node.host else f"{node.host}:{node.port}"


def net_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A client's settings, with the kind of socket for who has no proxy."""
    return {**settings, "proxy_url": settings.get("proxy_url") or "direct://"}


class ConnectionPool:
    """A pool of kafka-python's network clients, made on first use in this process. Any thread may call.

    A client is lent to one caller at a time, because a broker answers a connection's requests in their order. One on
    which anything failed is closed. Where no broker lets itself be reached, callers are told so without a new attempt
    for a moment: an attempt may take its whole time.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """`settings` are those of `KafkaNetClient`."""
        self._settings = net_settings(settings)
        self._timeout = settings["request_timeout_ms"] / 1000
        self._idle: deque[tuple[KafkaNetClient, float]] = deque()
        self._connecting = Lock()
        self._failed_until = 0.0
        self._failure: KafkaError | None = None
        self._closed = False

    def run(self, job: Job[Answer], timeout: float | None = None) -> Answer:
        """The job's answer, within `timeout` seconds (by default a request's).

        Tried a second time where the connection had gone. Raises our errors.
        """
        deadline = time.monotonic() + (timeout or self._timeout)
        try:
            try:
                return self._attempt(job, deadline, fresh=False)
            except CONNECTION_LOST:
                return self._attempt(job, deadline, fresh=True)
        except KafkaError as error:
            raise translate(error) from error

    def close(self) -> None:
        """Close what is idle; what is lent is closed as it comes back."""
        self._closed = True
        while self._idle:
            with suppress(IndexError):
                self._idle.pop()[0].close()

    def _attempt(self, job: Job[Answer], deadline: float, *, fresh: bool) -> Answer:
        client = self._borrow(deadline, fresh=fresh)
        try:
            answer = _drive(client, job, deadline)
        except BaseException as error:
            if isinstance(error, KafkaError):
                note_addresses(error, cast("PatchedConnectionManager", client._manager).asked())
            _abort(client)
            raise
        self._give_back(client)
        return answer

    def _borrow(self, deadline: float, *, fresh: bool) -> KafkaNetClient:
        """An idle client; with `fresh`, or where there is none, a new one."""
        if not fresh and (idle := self._take_idle()) is not None:
            return idle
        if not self._connecting.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise RequestTimedOutError()
        try:
            return self._connect(deadline)
        finally:
            self._connecting.release()

    def _take_idle(self) -> KafkaNetClient | None:
        with suppress(IndexError):
            client, since = self._idle.pop()
            if time.monotonic() > since + _LOOK_AFTER:
                client.poll(timeout_ms=0)
            return client
        return None

    def _connect(self, deadline: float) -> KafkaNetClient:
        if self._closed:
            raise BrokerUnavailable("This server is closing down.")
        if self._failure is not None and time.monotonic() < self._failed_until:
            raise self._failure
        net = NetworkSelector(**self._settings)
        client = KafkaNetClient(net=net, manager=_PooledConnectionManager(net, **self._settings))
        bootstrap = _Bootstrap()
        try:
            _drive(client, bootstrap, min(deadline, time.monotonic() + self._timeout))
        except KafkaError as error:
            _abort(client)
            self._failure, self._failed_until = bootstrap.failure(error), time.monotonic() + _REST_AFTER_FAILURE
            raise self._failure from error
        except BaseException:
            _abort(client)
            raise
        self._failure = None
        return client

    def _give_back(self, client: KafkaNetClient) -> None:
        if self._closed:
            client.close()
        else:
            self._idle.append((client, time.monotonic()))


async def ask_any(manager: KafkaConnectionManager, request: Any) -> Any:
    """The answer of a broker that can be reached. A request object serves once."""
    failure: KafkaError = NodeNotReadyError()
    for _ in range(len(manager.cluster.brokers())):
        if (node := manager.least_loaded_node()) is None:
            break
        try:
            return await manager.send(request, node, _QUICK_MS)
        except (*CONNECTION_LOST, RequestTimedOutError) as error:
            failure = error
    raise failure


def _drive(client: KafkaNetClient, job: Job[Answer], deadline: float) -> Answer:
    """Run the job's coroutine on this thread until its end or the deadline."""
    manager = client._manager
    left_ms = max(1, int((deadline - time.monotonic()) * 1000))
    return manager.run(manager.wait_for, manager.call_soon(job, manager), left_ms)  # type: ignore[no-any-return]


def _abort(client: KafkaNetClient) -> None:
    """Close it with what is under way. `close` alone forgets the sockets that have bytes to send."""
    for connection in list(client._manager._conns.values()):
        if connection.transport is not None:
            connection.transport.abort()
    client.close()


class _Bootstrap:
    """Learns the cluster's brokers, asking each server of the settings once.

    `KafkaConnectionManager.bootstrap` goes on until its time is over, though every server refuses at once.
    """

    def __init__(self) -> None:
        self._tried: dict[str, str] = {}

    async def __call__(self, manager: KafkaConnectionManager) -> None:
        failure: KafkaError = MetadataEmptyBrokerList()
        for server in manager.cluster.bootstrap_brokers():
            address = _address(server)
            self._tried[address] = "timed out"
            try:
                connection = await manager.get_connection(server.node_id)
                answer = await connection.send_request(MetadataRequest(topics=[], allow_auto_topic_creation=False))
                manager.cluster.update_metadata(answer)
                if manager.cluster.brokers():
                    return
                self._tried[address] = "it knows of no brokers"
            except KafkaError as error:
                failure = error
                at_login = _ended_at_login(manager, error)
                self._tried[address] = _LOGIN if at_login else connection_problem(error.__cause__ or error)
            finally:
                manager.close(server.node_id)
        raise failure

    def failure(self, error: KafkaError) -> KafkaError:
        """The error with each address and why it failed; `error` itself where a broker has answered with it."""
        if not is_unavailable(error):
            return error
        return Unreachable(", ".join(f"{address} ({reason})" for address, reason in sorted(self._tried.items())))


def _ended_at_login(manager: KafkaConnectionManager, error: KafkaError) -> bool:
    """kafka-python throws away what a broker says before it closes: it drops the last bytes with the connection."""
    secured = str(manager.config["security_protocol"]).startswith("SASL")
    return secured and isinstance(error, KafkaConnectionError) and "disconnected" in str(error)
