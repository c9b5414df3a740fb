"""Queues on share groups, over a fake Kafka and a clock that the test sets."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kafka_http.consumers.queue_registry import QueueRegistry
from kafka_http.consumers.queue_service import LeaseResult, QueueName, QueuePage
from kafka_http.records import NewRecord, Record
from tests.support.clock import Clock
from tests.support.fake_broker import FakeBroker
from tests.support.polling import scaled, wait_for

QUEUE = QueueName("jobs", "workers")


class World:
    """A cluster with the topics `jobs` (one partition), `many` (four) and `dead`, and the queues of one node."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.broker = FakeBroker()
        self.broker.share_groups.clock = self.clock
        for name, partitions in (("jobs", 1), ("many", 4), ("dead", 1)):
            self.broker.create_topic(name, partitions)
        self.registries: list[QueueRegistry] = []
        self.registry = self.start()

    def start(self, **settings: Any) -> QueueRegistry:
        """Start another node, or another process of this one."""
        given = {"attempts": 3} | settings
        self.registries.append(QueueRegistry(self.broker, clock=self.clock, **given))
        return self.registries[-1]

    def write(self, *values: str, topic: str = "jobs", partition: int = 0) -> None:
        self.broker.publish(topic, [NewRecord(each.encode(), partition=partition) for each in values], 5).result()

    def acquire(self, limit: int = 10, *, wait: float = 60, lock: float = 30, **named: Any) -> QueuePage:
        """Acquire messages, which are there."""
        registry = named.pop("registry", self.registry)
        page = registry.acquire_messages(named.pop("queue", QUEUE), limit, scaled(wait), lock, **named)
        assert isinstance(page, QueuePage)
        return page

    def none(self, **named: Any) -> QueuePage:
        """Acquire messages where there are none."""
        page = self.acquire(wait=0, **named)
        assert values(page) == []
        return page

    def settle(self, page: QueuePage, settlement: Any = "acknowledge", lock: float = 0) -> list[LeaseResult]:
        return self.registry.settle_messages(QUEUE, [each.lease for each in page.messages], settlement, lock)

    def later(self, seconds: float) -> None:
        """Let time pass, in steps in which each renewal can be answered."""
        self.clock.now += seconds
        self.registry.check_due()

    def dead_letters(self) -> Sequence[Record]:
        return self.broker.records("dead")

    def close(self) -> None:
        for each in self.registries:
            each.close()
        self.broker.closed = True


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    yield found
    found.close()


def values(page: QueuePage) -> list[str]:
    return [(each.record.value or b"").decode() for each in page.messages]


def codes(results: Sequence[LeaseResult]) -> list[int | None]:
    return [each.error and each.error.code for each in results]


def test_acquire_returns_messages_with_leases_and_attempts(world: World) -> None:
    world.write("a", "b", "c")

    page = world.acquire(2)

    assert values(page) == ["a", "b"]
    assert [each.attempt for each in page.messages] == [1, 1]
    assert [each.lease.split(".")[0] for each in page.messages] == ["0:0:0", "0:1:0"]
    assert len({each.lease for each in page.messages}) == 2


def test_acknowledged_message_is_not_delivered_again(world: World) -> None:
    world.write("a", "b")
    first = world.acquire(1)

    results = world.settle(first)
    world.later(31)

    assert results == [LeaseResult(first.messages[0].lease, acknowledged=True)]
    assert values(world.acquire()) == ["b"]
    world.none()


def test_lease_is_lost_after_acknowledgement(world: World) -> None:
    world.write("a")
    page = world.acquire()
    world.settle(page)

    assert codes(world.settle(page)) == [40904]


def test_unknown_lease_is_lost_while_others_are_acknowledged(world: World) -> None:
    world.write("a")
    (message,) = world.acquire().messages
    leases = ["0:7:0.abc1", message.lease, "x"]

    results = world.registry.settle_messages(QUEUE, leases, "acknowledge")

    assert [each.lease for each in results] == leases
    assert codes(results) == [40904, None, 40904]


def test_waiting_call_gets_a_message_that_is_published_meanwhile(world: World) -> None:
    world.none()
    with ThreadPoolExecutor() as threads:
        page = threads.submit(world.acquire)
        world.write("a")

        assert values(page.result(scaled(60))) == ["a"]


def test_released_message_is_delivered_again_in_its_next_attempt(world: World) -> None:
    world.write("a")

    assert codes(world.settle(world.acquire(), "release")) == [None]

    (message,) = world.acquire().messages
    assert message.attempt == 2


def test_lock_that_ends_gives_the_message_to_the_next_call(world: World) -> None:
    world.write("a")
    old = world.acquire(lock=5)

    world.later(5)

    (message,) = world.acquire().messages
    assert message.attempt == 2
    assert codes(world.settle(old)) == [40904]


def test_lock_that_is_longer_than_that_of_kafka_is_renewed(world: World) -> None:
    world.write("a")
    page = world.acquire(lock=100)

    for _ in range(9):
        world.later(10)
        world.none()

    assert codes(world.settle(page)) == [None]


def test_group_is_prepared_with_one_attempt_more(world: World) -> None:
    world.none()

    assert world.broker.share_groups.settings("workers").attempts == 4
    assert world.registry.queue_state(QUEUE).attempts == 3


def test_message_is_dropped_after_its_last_attempt(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.write("a")
    for _ in range(3):
        world.settle(world.acquire(), "release")

    world.none()
    assert "dropped a message of jobs: partition 0, offset 0, attempts 3" in caplog.text


def test_dead_letter_is_written_when_a_message_is_rejected(world: World) -> None:
    world.broker.publish("jobs", [NewRecord(b"a", b"k", timestamp=7, headers=[("h", b"1")])], 5).result()

    world.settle(world.acquire(dead="dead"), "reject")

    (letter,) = world.dead_letters()
    assert (letter.key, letter.value, letter.timestamp) == (b"k", b"a", 7)
    assert dict(letter.headers) == {
        "h": b"1",
        "kafka-http-dead-topic": b"jobs",
        "kafka-http-dead-partition": b"0",
        "kafka-http-dead-offset": b"0",
        "kafka-http-dead-attempts": b"1",
        "kafka-http-dead-reason": b"rejected",
    }
    world.none()


def test_closed_registry_releases_what_it_holds(world: World) -> None:
    world.write("a")
    world.acquire()
    world.registry.close()

    (message,) = world.acquire(registry=world.start()).messages
    assert message.attempt == 2


def test_metrics_gauge_counts_leases(world: World) -> None:
    world.write("a", "b")
    page = world.acquire()
    assert world.registry.leases == 2

    world.settle(page)
    assert wait_for(lambda: world.registry.leases == 0)
