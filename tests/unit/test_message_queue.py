"""Queues on share groups, over a fake Kafka and a clock that the test sets."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from kafka_http.consumers import message_locks
from kafka_http.consumers.queue_registry import QueueRegistry
from kafka_http.consumers.queue_service import LeaseResult, QueueMessage, QueueName, QueuePage
from kafka_http.errors import (
    BrokerUnavailable,
    GroupNotFound,
    NotAuthorized,
    QueueInUse,
    QueuesUnsupported,
    TopicNotFound,
    Unavailable,
    WouldBlock,
    WrongGroupType,
)
from kafka_http.metrics import QUEUE_MESSAGES
from kafka_http.records import NewRecord, Record
from tests.support.clock import Clock
from tests.support.fake_broker import FakeBroker
from tests.support.fake_share_groups import FakeShareMember
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
        """Let time pass, and the fake Kafka answer what is due."""
        self.clock.now += seconds
        self.registry.check_due()
        self.broker.share_groups.finish_turn()

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


def test_registry_shares_the_time_of_its_close_among_its_queues(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon with 300 queues needed 94 s to stop while no broker answered."""
    timeouts: list[float] = []

    def wait_in_vain(member: FakeShareMember, timeout: float) -> None:
        timeouts.append(timeout)
        Event().wait(timeout)
        member.groups.leave(member)

    for number in range(20):
        world.none(queue=QueueName("jobs", f"workers-{number}"))
    monkeypatch.setattr(FakeShareMember, "close", wait_in_vain)
    world.registry.close(0.5)
    assert len(timeouts) == 20
    assert sorted(timeouts)[3] < 0.1, "16 queues are closed at a time, and the other 4 have no time left"


def test_metrics_gauge_counts_leases(world: World) -> None:
    world.write("a", "b")
    page = world.acquire()
    assert world.registry.leases == 2

    world.settle(page)
    assert wait_for(lambda: world.registry.leases == 0)


def test_extended_lock_lasts_from_now_on(world: World) -> None:
    world.write("a")
    page = world.acquire(lock=5)

    (result,) = world.settle(page, "extend", lock=25)
    world.later(24)

    assert result.locked_until is not None
    assert result.locked_until - page.messages[0].locked_until == pytest.approx(20_000, abs=scaled(5_000))
    world.none()
    world.later(1)
    assert values(world.acquire()) == ["a"]


def test_extension_beyond_the_lock_of_kafka_renews_it_at_once(world: World) -> None:
    world.write("a")
    page = world.acquire(lock=30)
    world.later(14)

    assert codes(world.settle(page, "extend", lock=40)) == [None]
    world.later(29)

    world.none()
    assert codes(world.settle(page)) == [None]


def test_lock_that_is_extended_by_less_ends_earlier(world: World) -> None:
    """A retry with a delay: the client extends the lock to the delay, and forgets the lease."""
    world.write("a")
    page = world.acquire(lock=100)

    world.settle(page, "extend", lock=2)
    world.later(2)

    assert world.acquire().messages[0].attempt == 2


def test_expired_lease_cannot_be_extended(world: World) -> None:
    world.write("a")
    page = world.acquire(lock=5)
    world.clock.now += 5

    assert codes(world.settle(page, "extend", lock=30)) == [40904]


def test_message_is_settled_while_its_lock_is_renewed(world: World) -> None:
    world.write("a")
    page = world.acquire(lock=100)
    with world.broker.share_groups.paused():
        world.later(16)  # the renewal waits for its answer
        with ThreadPoolExecutor() as threads:
            settled = threads.submit(world.settle, page)
            world.broker.share_groups.resume()
            assert codes(settled.result(scaled(60))) == [None]

    world.later(100)
    world.none()


def test_same_settlement_twice_at_once_has_the_same_result(world: World) -> None:
    world.write("a")
    page = world.acquire()
    with world.broker.share_groups.paused(), ThreadPoolExecutor() as threads:
        calls = [threads.submit(world.settle, page) for _ in range(2)]
        other = threads.submit(world.settle, page, "reject")
        wait_for(lambda: world.registry.leases == 0)
        world.broker.share_groups.resume()
        results = [each.result(scaled(60)) for each in calls]

        assert {codes(each)[0] for each in [*results, other.result(scaled(60))]} == {None, 40904}


def test_lease_twice_in_one_call_has_the_same_result_twice(world: World) -> None:
    world.write("a")
    lease = world.acquire().messages[0].lease

    results = world.registry.settle_messages(QUEUE, [lease, lease], "acknowledge")

    assert results == [LeaseResult(lease, acknowledged=True)] * 2


def test_expired_last_attempt_writes_the_dead_letter_of_its_own_lease(world: World) -> None:
    world.write("a")
    for _ in range(2):
        world.settle(world.acquire(), "release")
    world.acquire(lock=5, dead="dead")

    world.later(5)

    (letter,) = wait_for(world.dead_letters)
    assert dict(letter.headers)["kafka-http-dead-reason"] == b"expired"
    assert dict(letter.headers)["kafka-http-dead-attempts"] == b"3"
    world.none()


def test_released_last_attempt_writes_a_dead_letter_before_it_answers(world: World) -> None:
    world.write("a")
    for _ in range(2):
        world.settle(world.acquire(), "release")

    assert codes(world.settle(world.acquire(dead="dead"), "release")) == [None]

    (letter,) = world.dead_letters()
    assert dict(letter.headers)["kafka-http-dead-reason"] == b"released"


def test_message_stays_locked_until_its_dead_letter_is_written(world: World) -> None:
    world.write("a")
    page = world.acquire(dead="gone")

    (result,) = world.settle(page, "reject")

    assert result.error is not None
    assert result.error.code == 503
    assert "gone" in result.error.message
    for _ in range(9):
        world.later(10)
        world.none()
    world.broker.create_topic("gone")
    for _ in range(4):
        world.later(10)
    (letter,) = world.broker.records("gone")
    assert letter.value == b"a"
    world.later(31)
    world.none()
    assert codes(world.settle(page)) == [40904]


def test_unanswered_dead_letter_keeps_the_message(world: World) -> None:
    world.write("a")
    page = world.acquire(dead="dead")
    world.broker.silent = True
    with ThreadPoolExecutor() as threads:
        settled = threads.submit(world.settle, page, "reject")
        wait_for(lambda: world.broker.unanswered)
        for _ in range(9):
            world.later(10)
        assert not settled.done()
        world.broker.answer()

        assert codes(settled.result(scaled(60))) == [None]
    assert len(world.dead_letters()) == 1


def test_message_whose_process_ended_in_the_last_attempt_becomes_a_dead_letter(world: World) -> None:
    """Kafka has one delivery more than clients: it writes the dead letter that a killed daemon could not write."""
    world.write("a")
    for _ in range(3):
        world.acquire(dead="dead")
        world.broker.share_groups.end_session("workers")

    world.none(dead="dead")

    (letter,) = wait_for(world.dead_letters)
    assert dict(letter.headers)["kafka-http-dead-attempts"] == b"4"
    world.none()


def test_lease_is_lost_with_the_session(world: World) -> None:
    world.write("a")
    page = world.acquire()

    world.broker.share_groups.end_session("workers")

    assert codes(world.settle(page)) == [40904]
    assert world.acquire().messages[0].attempt == 2


def test_lease_of_an_earlier_delivery_is_lost(world: World) -> None:
    world.write("a")
    old = world.acquire()
    world.settle(old, "release")
    new = world.acquire()

    assert codes(world.settle(old)) == [40904]
    assert codes(world.settle(new)) == [None]


def test_lease_is_lost_after_a_process_was_held_for_longer_than_the_lock_of_kafka(world: World) -> None:
    world.write("a")
    page = world.acquire(lock=100)
    other = world.start()
    world.clock.now += 60

    assert codes(world.settle(page)) == [40904]
    assert world.acquire(registry=other).messages[0].attempt == 2


def test_page_that_was_not_sent_goes_to_the_next_call_in_the_same_attempt(world: World) -> None:
    world.write("a", "b")
    page = world.acquire()

    world.registry.release_page(page.id)

    again = world.acquire()
    assert values(again) == ["a", "b"]
    assert [each.attempt for each in again.messages] == [1, 1]
    assert codes(world.settle(page)) == [40904, 40904]


def test_page_that_was_not_sent_is_released_if_nobody_waits(world: World) -> None:
    world.write("a")
    world.registry.release_page(world.acquire().id)

    world.later(2)

    assert world.acquire(registry=world.start()).messages[0].attempt == 2


def test_page_is_limited_in_bytes_but_has_one_message_of_any_size(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page crosses the daemon's socket as one message, which has a limit."""
    monkeypatch.setattr(message_locks, "MAX_PAGE_BYTES", 10)
    world.write("a" * 20, "b" * 5, "c" * 5, "d")
    pages = []
    while sum(map(len, pages)) < 4:
        pages.append(values(world.acquire(4)))
    assert ["a" * 20] in pages
    assert all(len("".join(each)) <= 10 or len(each) == 1 for each in pages)


def test_confirmed_page_is_not_released(world: World) -> None:
    world.write("a")
    page = world.acquire()
    world.registry.confirm_pages([page.id])

    world.registry.release_page(page.id)

    assert codes(world.settle(page)) == [None]


def test_blocked_partition_is_named_while_messages_wait_behind_its_window(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.broker.share_groups.set_group("workers", window=10)
    world.write(*"abcdefghijkl")
    held = world.acquire(1)
    world.settle(world.acquire(20))

    page = world.none()
    world.none()

    assert [(each.partition, each.offset, each.lease) for each in page.blocked] == [(0, 0, held.messages[0].lease)]
    assert caplog.text.count("gets no further messages") == 1
    world.settle(held)
    assert values(world.acquire()) == ["k", "l"]


def test_full_window_without_messages_behind_it_is_not_blocked(world: World) -> None:
    world.broker.share_groups.set_group("workers", window=10)
    world.write(*"abcdefghij")
    world.acquire(20)

    assert not world.none().blocked


def test_attempts_of_a_group_that_somebody_set_up_are_those_of_kafka_less_one(world: World) -> None:
    world.broker.share_groups.set_group("workers", attempts=2)
    world.write("a")

    world.settle(world.acquire(dead="dead"), "release")

    assert len(world.dead_letters()) == 1
    assert world.registry.queue_state(QUEUE).attempts == 1


def test_page_warns_if_the_settings_of_the_group_are_refused(world: World) -> None:
    world.broker.share_groups.refuses_settings = True

    (warning,) = world.none().warnings

    assert "ALTER_CONFIGS" in warning


def test_acquire_from_an_ordinary_consumer_raises_wrong_group_type(world: World) -> None:
    world.broker.commit("workers", "jobs", {0: 0})

    with pytest.raises(WrongGroupType):
        world.acquire()


def test_acquire_without_share_groups_raises_queues_unsupported(world: World) -> None:
    world.broker.share_groups.unsupported = True

    with pytest.raises(QueuesUnsupported):
        world.acquire()


def test_acquire_from_a_missing_topic_makes_no_group(world: World) -> None:
    with pytest.raises(TopicNotFound):
        world.acquire(queue=QueueName("missing", "workers"))

    assert world.broker.list_groups() == []


def test_waiting_call_fails_at_once_when_its_topic_is_deleted(world: World) -> None:
    world.none()
    with ThreadPoolExecutor() as threads:
        page = threads.submit(world.acquire)
        world.broker.delete_topic("jobs")

        with pytest.raises(TopicNotFound):
            page.result(scaled(30))


def test_recreated_topic_is_read_from_its_start(world: World) -> None:
    world.write("a")
    old = world.acquire()
    world.broker.delete_topic("jobs")
    world.broker.create_topic("jobs")
    world.write("b")

    (message,) = wait_for(lambda: _messages_if_any(world))

    assert message.record.value == b"b"
    assert codes(world.settle(old)) == [40904]


def _messages_if_any(world: World) -> Sequence[QueueMessage]:
    try:
        return world.acquire(wait=0).messages
    except TopicNotFound:
        return ()


def test_call_gets_messages_after_an_error_that_is_over(world: World) -> None:
    """The error of an earlier call must not end a later one: only calls that wait make the member look again."""
    world.none()
    world.broker.refused.add("jobs")
    with pytest.raises(NotAuthorized):
        wait_for(lambda: world.acquire(wait=0) and None)
    world.broker.refused.clear()
    world.write("a")

    assert values(world.acquire()) == ["a"]


def test_call_waits_while_no_broker_answers_and_gets_messages_afterwards(world: World) -> None:
    world.none()
    world.broker.down = True
    with ThreadPoolExecutor() as threads:
        page = threads.submit(world.acquire)
        with pytest.raises(BrokerUnavailable):
            wait_for(lambda: world.acquire(wait=0) and None)
        assert not page.done()
        world.broker.down = False
        world.write("a")

        assert values(page.result(scaled(60))) == ["a"]


def test_state_has_the_lag_of_each_partition_and_the_leases(world: World) -> None:
    queue = QueueName("many", "workers")
    world.write("a", "b", "c", topic="many", partition=1)
    page = world.acquire(2, queue=queue)
    first, second = page.messages
    world.registry.settle_messages(queue, [first.lease], "acknowledge")

    state = world.registry.queue_state(queue)

    assert [(each.partition, each.start, each.end, each.lag) for each in state.partitions] == [
        (0, 0, 0, 0),
        (1, 1, 3, 2),
        (2, 0, 0, 0),
        (3, 0, 0, 0),
    ]
    assert [(each.lease, each.attempt) for each in state.held] == [(second.lease, 1)]
    assert (state.lock.default, state.lock.min, state.lock.max) == (30, 1, 43200)


def test_state_of_a_queue_that_never_was_raises_group_not_found(world: World) -> None:
    with pytest.raises(GroupNotFound):
        world.registry.queue_state(QUEUE)


def test_queue_is_deleted_once_nothing_is_held(world: World) -> None:
    world.write("a")
    page = world.acquire()
    with pytest.raises(QueueInUse):
        world.registry.delete_queue(QUEUE)

    world.settle(page)
    world.registry.delete_queue(QUEUE)

    with pytest.raises(GroupNotFound):
        world.registry.queue_state(QUEUE)
    assert values(world.acquire()) == ["a"]  # a new queue


def test_queue_of_another_topic_keeps_its_messages_when_a_queue_is_deleted(world: World) -> None:
    world.write("a")
    world.write("b", topic="many")
    world.settle(world.acquire())
    other = world.acquire(queue=QueueName("many", "workers"))

    with pytest.raises(QueueInUse):
        world.registry.delete_queue(QUEUE)
    world.registry.settle_messages(QueueName("many", "workers"), [other.messages[0].lease], "acknowledge")
    world.registry.delete_queue(QUEUE)

    world.none(queue=QueueName("many", "workers"))


def test_settling_a_queue_that_is_not_open_joins_no_group(world: World) -> None:
    results = world.registry.settle_messages(QUEUE, ["0:0:0.abc1"], "acknowledge")

    assert codes(results) == [40904]
    assert world.broker.list_groups() == []


def test_idle_queue_leaves_its_group_and_joins_again_at_the_next_call(world: World) -> None:
    world.write("a")
    page = world.acquire(lock=2000)
    for _ in range(70):
        world.later(10)
    assert len(world.broker.members("workers")) == 1

    world.settle(page)
    world.later(599)
    assert len(world.broker.members("workers")) == 1
    world.later(1)

    wait_for(lambda: world.broker.members("workers") == [])
    world.write("b")
    assert values(world.acquire()) == ["b"]


def test_closed_registry_opens_no_queue(world: World) -> None:
    world.none()
    world.registry.close()

    with pytest.raises(Unavailable):
        world.acquire()


def test_waiting_call_returns_an_empty_page_when_the_registry_closes(world: World) -> None:
    world.none()
    with ThreadPoolExecutor() as threads:
        page = threads.submit(world.acquire)
        wait_for(lambda: world.broker.share_groups.wanted("workers"))
        world.registry.close()

        assert values(page.result(scaled(30))) == []


def test_many_clients_process_each_message_once(world: World) -> None:
    queue, count = QueueName("many", "workers"), 2000
    for partition in range(4):
        world.write(*(f"{partition}-{each}" for each in range(count // 4)), topic="many", partition=partition)
    processed: list[str] = []

    def work(limit: int) -> None:
        while page := world.registry.acquire_messages(queue, limit, 0, 30).messages:
            results = world.registry.settle_messages(queue, [each.lease for each in page], "acknowledge")
            assert codes(results) == [None] * len(page)
            processed.extend((each.record.value or b"").decode() for each in page)

    with ThreadPoolExecutor(16) as threads:
        for each in [threads.submit(work, 1 + number % 7) for number in range(16)]:
            each.result(scaled(120))

    assert len(processed) == len(set(processed)) == count
    assert world.registry.leases == 0


def test_metrics_count_what_happens_to_messages(world: World) -> None:
    before = _events()
    world.write("a", "b", "c", "d")
    a, b, c, d = (world.acquire(1, dead="dead" if each == "b" else "") for each in "abcd")
    world.settle(a)
    world.settle(b, "reject")
    world.settle(c, "release")
    world.settle(d, "extend", lock=1)
    world.later(1)
    world.settle(world.acquire())

    wait_for(lambda: _events()["expired"] > before["expired"])
    found = {event: _events()[event] - before[event] for event in _events()}
    assert {event: number for event, number in found.items() if number and event != "acquired"} == {
        "acknowledged": found["acknowledged"],
        "rejected": 1,
        "dead": 1,
        "released": 1,
        "expired": 1,
    }


def _events() -> Counter[str]:
    return Counter({key[1]: int(number.value) for key, number in QUEUE_MESSAGES._numbers.items() if key[0] == "jobs"})


def test_settled_messages_are_not_kept_until_the_ends_of_their_locks(world: World) -> None:
    world.write("a long value", topic="many")
    value = world.broker.records("many")[0].value
    queue = QueueName("many", "workers")
    (message,) = world.acquire(queue=queue, lock=30000).messages
    held = sys.getrefcount(value)

    world.registry.settle_messages(queue, [message.lease], "acknowledge")
    del message

    wait_for(lambda: sys.getrefcount(value) < held)


def started(world: World, limit: int = 10, wait: float = 60, lock: float = 30, dead: str = "") -> Any:
    """Start a call of a queue that is open."""
    return world.registry.start_acquire(QUEUE, limit, wait, lock, dead)


def is_called_back(call: Any) -> Event:
    done = Event()
    call.add_done_callback(done.set)
    return done


def test_started_call_gets_a_message_that_is_published_later(world: World) -> None:
    world.none()
    call = started(world)
    done = is_called_back(call)
    assert not done.is_set()

    world.write("a")

    assert done.wait(scaled(60))
    page = call.result(0)
    assert values(page) == ["a"]
    world.registry.release_page(page.id)
    assert world.acquire().messages[0].attempt == 1


def test_call_of_a_queue_that_is_not_open_cannot_be_started(world: World) -> None:
    """To open it blocks."""
    with pytest.raises(WouldBlock):
        started(world)
    with pytest.raises(WouldBlock):
        world.registry.start_settle(QUEUE, ["0:0:0.a"], "acknowledge")


@pytest.mark.parametrize("wait", [0, 20])
def test_started_call_without_messages_ends_after_its_wait(world: World, wait: float) -> None:
    world.none()
    call = started(world, wait=wait)
    done = is_called_back(call)

    if wait:
        world.later(wait - 1)
        assert not done.is_set()
        world.later(2)

    assert done.wait(scaled(60))
    assert values(call.result(0)) == []


def test_started_call_names_what_blocks_its_partition(world: World) -> None:
    world.broker.share_groups.set_group("workers", window=10)
    world.write(*"abcdefghijkl")
    held = world.acquire(1)
    world.settle(world.acquire(20))

    call = started(world, wait=0)

    assert is_called_back(call).wait(scaled(60))
    assert [each.lease for each in call.result(0).blocked] == [held.messages[0].lease]


def test_messages_of_an_abandoned_call_go_to_others_in_the_same_attempt(world: World) -> None:
    world.none()
    waiting, answered = started(world), started(world)
    waiting.abandon()
    world.write("a")
    assert is_called_back(answered).wait(scaled(60))

    answered.abandon()

    page = world.acquire()
    assert (values(page), page.messages[0].attempt) == (["a"], 1)
    assert not world.registry._queues[QUEUE].has_callers


def test_started_settlements_are_answered(world: World) -> None:
    world.write("a", "b")
    first, second = (each.lease for each in world.acquire(2).messages)

    call = world.registry.start_settle(QUEUE, [first, "0:9:0.unknown"], "acknowledge")
    extended = world.registry.start_settle(QUEUE, [second], "extend", 5)

    assert is_called_back(call).wait(scaled(60))
    assert codes(call.result(0)) == [None, 40904]
    assert is_called_back(extended).wait(scaled(60))
    assert extended.result(0)[0].locked_until is not None


def test_started_settlement_without_a_result_ends_with_an_error(world: World) -> None:
    world.write("a")
    page = world.acquire(dead="dead")
    world.broker.silent = True
    call = world.registry.start_settle(QUEUE, [page.messages[0].lease], "reject")
    done = is_called_back(call)
    wait_for(lambda: world.broker.unanswered)

    world.later(29)
    assert not done.is_set()
    world.later(2)

    assert done.wait(scaled(60))
    assert codes(call.result(0)) == [504]
    world.broker.answer()
