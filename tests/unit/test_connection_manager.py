"""Which thread closes the connections of kafka-python's clients."""

from collections.abc import Iterator
from threading import Event, Thread, current_thread
from typing import Any

import pytest
from kafka.net.compat import KafkaNetClient
from kafka.net.selector import NetworkSelector

from kafka_http.broker.connections import ConnectionPool
from kafka_http.broker.patches import PatchedConnectionManager, PooledConnectionManager
from tests.support.polling import wait_for

SETTINGS = {"bootstrap_servers": ["127.0.0.1:9"], "request_timeout_ms": 1000, "slow_task_threshold_secs": 0}


class Connection:
    """A connection that notes which thread closes it, and after which event."""

    def __init__(self, event: Event | None = None) -> None:
        self.transport = None
        self.connected = False
        self.closed_by: list[Thread] = []
        self.closed_after_event: list[bool] = []
        self._event = event or Event()

    def close(self) -> None:
        self.closed_by.append(current_thread())
        self.closed_after_event.append(self._event.is_set())


@pytest.fixture
def loop() -> Iterator[NetworkSelector]:
    loop = NetworkSelector(**SETTINGS)
    yield loop
    loop.close()


def client_with(loop: NetworkSelector, connection: Connection) -> KafkaNetClient:
    manager = PatchedConnectionManager(loop, **SETTINGS)
    manager._conns[1] = connection
    return KafkaNetClient(net=loop, manager=manager)


def test_connections_are_closed_by_the_thread_of_the_loop(loop: NetworkSelector) -> None:
    """The loop's thread would run coroutines of the connections while another thread closes them."""
    connection = Connection()
    client = client_with(loop, connection)
    loop.start()
    thread = loop._io_thread

    client.close()

    assert connection.closed_by == [thread]


def test_connections_are_closed_after_the_running_step_of_the_loop(loop: NetworkSelector) -> None:
    """kafka-python logged `ValueError('generator already executing')`."""
    is_running, may_end, has_ended = Event(), Event(), Event()
    connection = Connection(has_ended)
    client = client_with(loop, connection)

    def step() -> None:
        is_running.set()
        may_end.wait()
        has_ended.set()

    loop.start()
    loop.call_soon_threadsafe(step)
    is_running.wait()
    closer = Thread(target=client.close)
    closer.start()
    try:
        wait_for(lambda: loop._ready or connection.closed_by)  # the closer has passed it to the loop, or has done it
    finally:
        may_end.set()
        closer.join()

    assert connection.closed_after_event == [True]


@pytest.mark.parametrize("thread", ["never started", "stopped", "ended"])
def test_connections_of_a_loop_that_no_thread_runs_are_closed_by_the_caller(loop: NetworkSelector, thread: str) -> None:
    """A thread that has ended, for example because the process is a fork, can close nothing."""
    connection = Connection()
    client = client_with(loop, connection)
    if thread != "never started":
        loop.start()
    if thread == "stopped":
        loop.stop()
    if thread == "ended":
        loop._stop = True
        loop.wakeup()
        loop._io_thread.join()

    client.close()

    assert connection.closed_by == [current_thread()]


def test_connection_closed_in_a_coroutine_is_closed_there(loop: NetworkSelector) -> None:
    """A coroutine that closes a connection of its own client must not wait for its own thread."""
    connection = Connection()
    client = client_with(loop, connection)
    loop.start()
    thread = loop._io_thread

    loop.run(client.close, 1)

    assert connection.closed_by == [thread]
    client.close()


def test_client_released_while_the_pool_closes_is_closed(loop: NetworkSelector) -> None:
    """The pool closed the idle clients between two steps of another thread that released one, which stayed open."""
    pool = ConnectionPool(SETTINGS)

    class Idle(type(pool._idle)):  # type: ignore[misc]
        def append(self, client: Any) -> None:
            pool.close()
            super().append(client)

    pool._idle = Idle()
    client = KafkaNetClient(net=loop, manager=PooledConnectionManager(loop, **SETTINGS))

    pool._release(client, 0.0)

    assert client._manager.closed
    assert not pool._idle
