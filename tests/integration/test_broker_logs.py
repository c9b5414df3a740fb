"""What the log says of Kafka while the broker is up: nothing at ERROR that no client was told."""

import io
import logging
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import current_thread
from typing import Any
from uuid import uuid4

import pytest
from kafka.errors import KafkaError
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from kafka_http.broker import KafkaBroker
from kafka_http.broker.client_settings import connection_settings
from kafka_http.broker.connections import ConnectionPool
from kafka_http.config import Config
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.errors import KafkaHttpError
from kafka_http.logs import _KAFKA_LEVELS, log_handler
from kafka_http.records import Assignment, NewRecord, ReleaseCallback
from tests.conftest import TopicFactory
from tests.support.open_broker import open_broker
from tests.support.polling import wait_for


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What would be in the server's log."""
    written = io.StringIO()
    handler = log_handler(written)
    logging.root.addHandler(handler)
    before = {name: logging.getLogger(name).level for name in _KAFKA_LEVELS}
    for name, level in _KAFKA_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    yield written
    logging.root.removeHandler(handler)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def config(kafka: EmbeddedKafka) -> Config:
    return Config(bootstrap_servers=(kafka.bootstrap_servers,))


@pytest.fixture
def foreign_uses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Uses of kafka-python's loops that only the thread that runs the loop may make, by any other thread.

    They are found whether or not the two threads meet: most of them do no harm, and a few fail a call or log an error.
    """
    found: list[str] = []

    def watched(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(loop: NetworkSelector, *args: Any, **settings: Any) -> Any:
            thread = loop._io_thread
            runner = thread if thread is not None and thread.is_alive() else loop._poll_owner
            if runner not in (None, current_thread()):
                found.append(f"{name} in {current_thread().name}, while {runner.name} runs the loop")
            return method(loop, *args, **settings)

        return call

    for name in ("call_at", "cancel", "register_event", "unregister_event"):
        monkeypatch.setattr(NetworkSelector, name, watched(name, getattr(NetworkSelector, name)))
    return found


async def _look(manager: KafkaConnectionManager) -> int:
    await manager.cluster.refresh_metadata()
    return len(manager.cluster.brokers())


def test_connection_closed_by_the_broker_while_idle_is_replaced_without_an_error(
    config: Config, log: io.StringIO
) -> None:
    lent: list[KafkaConnectionManager] = []

    async def look(manager: KafkaConnectionManager) -> int:
        lent.append(manager)
        return await _look(manager)

    with closing(ConnectionPool(connection_settings(config))) as connections:
        assert connections.run(look) == 1
        for connection in lent[0]._conns.values():
            connection.transport._sock.shutdown(socket.SHUT_RDWR)
        idle_since = time.monotonic()
        wait_for(lambda: time.monotonic() > idle_since + 1.1)
        assert connections.run(look) == 1
    assert log.getvalue() == ""


def test_job_that_fails_closes_its_client_without_an_error(config: Config, log: io.StringIO) -> None:
    async def fail(manager: KafkaConnectionManager) -> None:
        await _look(manager)
        raise KafkaError("no fault of the connection")

    with closing(ConnectionPool(connection_settings(config))) as connections:
        for _ in range(5):
            with pytest.raises(KafkaHttpError):
                connections.run(fail)
    assert log.getvalue() == ""


class _Listener:
    def __init__(self) -> None:
        self.is_assigned = False

    def revoking(self, release: ReleaseCallback) -> None:
        release({})

    def assigned(self, assignment: Assignment) -> None:
        self.is_assigned = True

    def lost(self) -> None:
        pass

    def fenced(self) -> None:
        pass

    def failed(self, error: KafkaHttpError) -> None:
        pass


@pytest.mark.parametrize("joined", [0, 1, 6])
def test_members_closed_while_they_join_log_no_error(
    config: Config, log: io.StringIO, foreign_uses: list[str], topic: TopicFactory, joined: int
) -> None:
    name = topic()
    for _ in range(3):
        with open_broker(config) as broker:
            listeners = [_Listener() for _ in range(6)]
            members = [broker.memberships.join(uuid4().hex, "m", [name], each) for each in listeners]
            wait_for(lambda listeners=listeners: sum(each.is_assigned for each in listeners) >= joined)
            for member in members[:3]:
                member.close()
    assert foreign_uses == []
    assert "ERROR" not in log.getvalue()


def test_calls_in_progress_as_the_broker_closes_fail_with_our_errors(
    config: Config, log: io.StringIO, foreign_uses: list[str], topic: TopicFactory
) -> None:
    """A thread that closed a client's connections while the client's own thread used them failed calls and more.

    Seen: `Error closing coroutine for cancelled task: ValueError('generator already executing')` in the log, and calls
    that failed with `RuntimeError('Transport closed for writes')`.
    """
    name = topic()
    for _ in range(5):
        begun: set[int] = set()
        with ThreadPoolExecutor(4) as pool:
            with open_broker(config) as broker:

                def call(number: int, broker: KafkaBroker = broker, begun: set[int] = begun) -> None:
                    while True:
                        broker.groups.committed("g", name, [0])
                        broker.producer.publish(name, [NewRecord(b"x")], 5).result()
                        begun.add(number)

                calls = [pool.submit(call, each) for each in range(4)]
                wait_for(lambda begun=begun, calls=calls: len(begun) == 4 or any(each.done() for each in calls), 20)
                assert not any(each.done() for each in calls)
            errors = [each.exception() for each in calls]
        assert [each for each in errors if not isinstance(each, KafkaHttpError)] == []
    assert foreign_uses == []
    assert "ERROR" not in log.getvalue()
