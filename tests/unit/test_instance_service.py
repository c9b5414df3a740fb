"""Consumer instances of the v2 API, over a fake Kafka and a clock that the test sets."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kafka_http.consumers.consumer_instance import ConsumerInstance
from kafka_http.consumers.instance_registry import InstanceRegistry
from kafka_http.consumers.instance_service import ReadLease
from kafka_http.errors import (
    BrokerUnavailable,
    GroupHasMembers,
    IllegalState,
    InstanceBusy,
    InstanceExists,
    InstanceNotFound,
    InvalidValue,
    LeaseExpired,
    NotAuthorized,
    PartitionNotFound,
    TooManyInstances,
    Unavailable,
)
from kafka_http.read.page_reader import PageReader, ReadLimits
from kafka_http.records import (
    InstanceDefinition,
    InstanceProgress,
    InstanceSettings,
    NewRecord,
    OffsetEntry,
    StoredInstance,
    TopicPartition,
    offset_entries,
    offsets_of,
)
from tests.support.fake_broker import FakeBroker
from tests.support.polling import scaled, wait_for

G, A, B = "group", "a", "b"


class Store:
    """An `InstanceStore` in memory. `durable` has the flag of each `save`. If it is `down`, it cannot be reached."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], StoredInstance] = {}
        self.durable: list[bool] = []
        self.down = False

    def create(self, definition: InstanceDefinition) -> None:
        self._check()
        if (definition.group, definition.name) in self.kept:
            raise InstanceExists
        self.kept[definition.group, definition.name] = StoredInstance(definition, InstanceProgress())

    def update(self, definition: InstanceDefinition) -> None:
        self._check()
        if (old := self.kept.get((definition.group, definition.name))) is not None:
            self.kept[definition.group, definition.name] = StoredInstance(definition, old.progress)

    def save(self, group: str, name: str, progress: InstanceProgress, *, durable: bool = True) -> None:
        self._check()
        self.durable.append(durable)
        if (old := self.kept.get((group, name))) is not None:
            self.kept[group, name] = StoredInstance(old.definition, progress)

    def delete(self, group: str, name: str) -> None:
        self._check()
        self.kept.pop((group, name), None)

    def load(self) -> list[StoredInstance]:
        self._check()
        return list(self.kept.values())

    def _check(self) -> None:
        if self.down:
            raise Unavailable("The state store cannot be reached.")


class World:
    """A cluster with the topics `t` (one partition) and `four` (four), and the instances of one process."""

    def __init__(self) -> None:
        self.broker = FakeBroker()
        self.broker.create_topic("t")
        self.broker.create_topic("four", partitions=4)
        self.store = Store()
        self.now = 1000.0
        self.registries: list[InstanceRegistry] = []
        self.registry = self.start()
        self.reader = PageReader(self.broker.log)

    def start(self, **settings: Any) -> InstanceRegistry:
        """Start another process on the same store."""
        given = {"limit": 100, "idle_timeout": 300.0} | settings
        self.registries.append(InstanceRegistry(self.broker, self.store, clock=lambda: self.now, **given))
        return self.registries[-1]

    def create(self, name: str = A, *topics: str, **settings: Any) -> None:
        self.registry.create(G, name, InstanceSettings(**settings))
        if topics:
            self.registry.subscribe(G, name, topics, None)

    def write(self, topic: str, *values: str, partition: int = 0) -> None:
        self.broker.publish(topic, [NewRecord(each.encode(), partition=partition) for each in values], 5).result()

    def read(self, name: str = A, timeout: float = 5, limit: int = 1000) -> list[str]:
        """Read a page like GET …/records, and return its values."""
        lease = self.acquire(name, timeout)
        values, positions, delivered = self.look(lease, limit)
        self.registry.release_lease(lease, positions, delivered)
        return values

    def acquire(self, name: str = A, timeout: float = 5) -> ReadLease:
        return self.registry.acquire_lease(G, name, timeout)

    def look(self, lease: ReadLease, limit: int = 1000) -> tuple[list[str], list[OffsetEntry], list[OffsetEntry]]:
        """Return the values that a lease reads, the next positions, and the delivered offsets."""
        positions = offsets_of(lease.positions)
        page = self.reader.read(positions, ReadLimits(limit, 1 << 20), reset=lease.settings.reset)
        values = [(each.value or b"").decode() for each in page.records]
        return values, offset_entries(page.next), offset_entries({each: at + 1 for each, at in page.last.items()})

    def committed(self, topic: str = "t") -> dict[int, int]:
        return self.broker.committed(G, topic, range(4))


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.broker.down = False
    for each in world.registries:
        each.close(leave=True)


def test_create_instance_twice_in_a_group_raises_instance_exists(world: World) -> None:
    world.create()
    with pytest.raises(InstanceExists):
        world.create()
    world.registry.create("other", A, InstanceSettings(format="json"))
    assert world.registry.settings("other", A).format == "json"
    world.registry.delete("other", A)
    with pytest.raises(InstanceNotFound):
        world.registry.settings("other", A)
    assert world.registry.settings(G, A).format == "binary"


def test_create_instance_over_the_limit_raises_too_many_instances(world: World) -> None:
    registry = world.start(limit=2)
    for name in (A, B):
        registry.create(G, name, InstanceSettings())
    with pytest.raises(TooManyInstances, match="max_consumer_instances"):
        registry.create(G, "c", InstanceSettings())
    registry.delete(G, A)
    registry.create(G, "c", InstanceSettings())


def test_create_instance_while_store_is_down_leaves_no_instance(world: World) -> None:
    world.registry.start()
    world.store.down = True
    with pytest.raises(Unavailable):
        world.create()
    world.store.down = False
    world.create()


def test_read_with_reset_earliest_starts_at_the_beginning(world: World) -> None:
    world.write("t", "1", "2", "3")
    world.create(A, "t")
    assert world.read() == ["1", "2", "3"]
    assert world.read() == []
    world.write("t", "4")
    assert world.read() == ["4"]
    assert world.registry.assignments(G, A) == [("t", 0)]


def test_read_with_reset_latest_starts_at_the_end_at_the_first_read(world: World) -> None:
    world.write("t", "before")
    world.create(A, "t", reset="latest")
    assert world.read() == []
    world.write("t", "after")
    assert world.read() == ["after"]


def test_read_starts_at_the_committed_offset_of_the_group(world: World) -> None:
    world.write("t", "1", "2", "3")
    world.broker.commit(G, "t", {0: 2})
    world.create(A, "t", reset="latest")
    assert world.read() == ["3"]


@pytest.mark.parametrize("first", ["subscribe", "assign"])
def test_subscribe_and_assign_exclude_each_other(world: World, first: str) -> None:
    world.create()
    calls = {
        "subscribe": lambda: world.registry.subscribe(G, A, ["t"], None),
        "assign": lambda: world.registry.assign(G, A, [TopicPartition("t", 0)]),
    }
    with pytest.raises(IllegalState, match="not subscribed"):
        world.acquire()
    calls[first]()
    calls[first]()
    other = calls["assign" if first == "subscribe" else "subscribe"]
    with pytest.raises(IllegalState, match="mutually exclusive"):
        other()
    world.registry.unsubscribe(G, A)
    other()


def test_subscribe_twice_replaces_the_subscription(world: World) -> None:
    world.write("t", "t")
    world.write("four", "four", partition=2)
    world.create(A, "t")
    assert world.read() == ["t"]
    world.registry.subscribe(G, A, ["four"], None)
    assert world.registry.subscription(G, A) == ["four"]
    assert world.read() == ["four"]
    assert {each.topic for each in world.registry.assignments(G, A)} == {"four"}


def test_pattern_subscription_finds_topics_created_later(world: World) -> None:
    world.broker.create_topic("orders-1")
    world.broker.create_topic("more-orders-1")
    world.create()
    world.registry.subscribe(G, A, [], "orders-.*")
    assert world.registry.subscription(G, A) == ["orders-1"]
    assert world.read() == []
    world.broker.create_topic("orders-2")
    world.write("orders-2", "new")
    world.registry.update_topics()
    assert world.registry.subscription(G, A) == ["orders-1", "orders-2"]
    assert wait_for(world.read, 5) == ["new"]
    world.broker.delete_topic("orders-1")
    world.registry.update_topics()
    assert world.registry.subscription(G, A) == ["orders-2"]


def test_pattern_subscription_without_matching_topics_reads_nothing(world: World) -> None:
    world.create()
    world.registry.subscribe(G, A, [], "later.*")
    assert world.registry.subscription(G, A) == []
    lease = world.acquire(timeout=0)
    assert (lease.positions, lease.joining) == ([], False)
    world.registry.release_lease(lease)
    world.broker.create_topic("later")
    world.write("later", "x")
    world.registry.update_topics()
    assert wait_for(world.read, 5) == ["x"]
    world.broker.delete_topic("later")
    world.registry.update_topics()
    assert world.registry.subscription(G, A) == []
    assert world.acquire(timeout=0).positions == []


def test_subscription_to_a_missing_topic_reads_it_once_it_is_created(world: World) -> None:
    world.create(A, "t", "later")
    assert world.registry.subscription(G, A) == ["t", "later"]
    assert world.read() == []
    world.broker.create_topic("later")
    world.write("later", "x")
    world.registry.update_topics()
    assert wait_for(world.read, 5) == ["x"]


@pytest.mark.parametrize("pattern", ["(", "a(?=b)", r"(a)\1", "x" * 257, "(a{1000}){1000}"])
def test_subscribe_with_invalid_pattern_raises_invalid_value(world: World, pattern: str) -> None:
    world.create()
    with pytest.raises(InvalidValue, match="topic_pattern"):
        world.registry.subscribe(G, A, [], pattern)
    assert world.registry.subscription(G, A) == []


def test_pattern_matches_whole_names_in_linear_time(world: World) -> None:
    world.broker.create_topic("a" * 200 + "b")
    world.create()
    world.registry.subscribe(G, A, [], "fou")
    assert world.registry.subscription(G, A) == []
    world.registry.subscribe(G, A, [], "(a|a|aa)*")
    assert world.registry.subscription(G, A) == []


def test_assign_does_not_join_the_group(world: World) -> None:
    world.write("four", "x", partition=1)
    world.create()
    world.registry.assign(G, A, [TopicPartition("four", 1), TopicPartition("t", 0)])
    assert world.registry.assignments(G, A) == [("four", 1), ("t", 0)]
    assert world.read() == ["x"]
    assert world.broker.members(G) == []
    world.registry.commit(G, A, None)
    assert world.committed("four") == {1: 1}
    world.broker.join(G, "t")
    with pytest.raises(GroupHasMembers):
        world.registry.commit(G, A, [OffsetEntry("t", 0, 0)])


def test_assign_missing_partition_raises_partition_not_found(world: World) -> None:
    world.create()
    with pytest.raises(PartitionNotFound):
        world.registry.assign(G, A, [TopicPartition("t", 0), TopicPartition("four", 4)])
    assert world.registry.assignments(G, A) == []


def test_seek_sets_the_next_position(world: World) -> None:
    world.write("t", "1", "2", "3")
    world.create(A, "t")
    world.registry.seek(G, A, [OffsetEntry("t", 0, 2)])
    assert world.read() == ["3"]
    world.registry.seek_ends(G, A, [TopicPartition("t", 0)], "earliest")
    assert world.read() == ["1", "2", "3"]
    world.registry.seek(G, A, [OffsetEntry("t", 0, 77)])
    assert world.read() == ["1", "2", "3"]
    world.registry.seek_ends(G, A, [TopicPartition("t", 0)], "latest")
    assert world.read() == []
    world.registry.seek_times(G, A, [OffsetEntry("t", 0, 0)])
    assert world.read() == ["1", "2", "3"]
    world.registry.seek_times(G, A, [OffsetEntry("t", 0, int(time.time() * 1000) + 60_000)])
    assert world.read() == []
    with pytest.raises(IllegalState, match="No current assignment for partition four-0"):
        world.registry.seek(G, A, [OffsetEntry("t", 0, 0), OffsetEntry("four", 0, 0)])


def test_seek_does_not_change_the_delivered_offsets(world: World) -> None:
    world.write("t", "1", "2", "3")
    world.create(A, "t")
    assert world.read() == ["1", "2", "3"]
    world.registry.seek(G, A, [OffsetEntry("t", 0, 0)])
    world.registry.commit(G, A, None)
    assert world.committed() == {0: 3}
    assert world.read() == ["1", "2", "3"]


def test_seek_during_a_lease_wins_over_the_released_position(world: World) -> None:
    world.write("t", "1", "2", "3")
    world.create(A, "t")
    lease = world.acquire()
    _, positions, delivered = world.look(lease)
    world.registry.seek(G, A, [OffsetEntry("t", 0, 1)])
    world.registry.release_lease(lease, positions, delivered)
    assert world.read() == ["2", "3"]
    world.registry.commit(G, A, None)
    assert world.committed() == {0: 3}


def test_commit_with_and_without_offsets_commits(world: World) -> None:
    world.write("t", "1", "2", "3", "4")
    world.create(A, "t", auto_commit=False)
    world.registry.commit(G, A, None)
    assert world.committed() == {}
    world.read(limit=2)
    world.registry.commit(G, A, None)
    assert world.committed() == {0: 2}
    world.registry.commit(G, A, [OffsetEntry("t", 0, 2, "noted")])
    assert world.registry.committed(G, A, [TopicPartition("t", 0), TopicPartition("four", 0)]) == [
        OffsetEntry("t", 0, 3, "noted")
    ]


def test_auto_commit_commits_with_a_later_read(world: World) -> None:
    world.write("t", *"123456")
    world.create(A, "t")
    assert world.read(limit=2) == ["1", "2"]
    world.now += 4
    assert world.read(limit=2) == ["3", "4"]
    assert world.committed() == {}
    world.now += 1
    lease = world.acquire()
    assert world.committed() == {0: 4}
    world.registry.release_lease(lease, *world.look(lease)[1:])
    world.now += 100
    world.registry.end_idle()
    assert world.committed() == {0: 4}
    world.registry.delete(G, A)
    assert world.committed() == {0: 6}


def test_auto_commit_off_commits_nothing(world: World) -> None:
    world.write("t", "1")
    world.create(A, "t", auto_commit=False)
    world.read()
    world.now += 100
    world.read()
    world.registry.delete(G, A)
    assert world.committed() == {}


def test_delete_assigned_instance_auto_commits(world: World) -> None:
    world.write("t", "1")
    world.create()
    world.registry.assign(G, A, [TopicPartition("t", 0)])
    world.read()
    world.registry.delete(G, A)
    assert world.committed() == {0: 1}


def test_unsubscribe_commits_and_drops_the_offsets(world: World) -> None:
    world.write("t", "1", "2")
    world.create(A, "t")
    world.read()
    world.registry.seek(G, A, [OffsetEntry("t", 0, 0)])
    world.registry.unsubscribe(G, A)
    assert world.committed() == {0: 2}
    assert world.registry.subscription(G, A) == []
    assert world.broker.members(G) == []
    world.registry.subscribe(G, A, ["t"], None)
    assert world.read() == []


def recreate(world: World, *values: str) -> None:
    world.broker.delete_topic("t")
    world.broker._committed.clear()  # as Kafka does with the offsets of a deleted topic
    world.broker.create_topic("t")
    world.write("t", *values)


NEW = [f"new {each}" for each in range(20)]


@pytest.mark.parametrize("end", ["commit", "auto commit", "delete", "unsubscribe", "rebalance", "restart"])
def test_uncommitted_offsets_of_a_deleted_topic_are_not_committed_to_the_recreated_topic(
    world: World, end: str
) -> None:
    """8 was committed on the new topic, and its first 8 records were delivered to nobody."""
    world.create(A, "t")
    world.write("t", *(f"old {each}" for each in range(8)))
    assert len(world.read()) == 8
    recreate(world, *NEW)
    if end == "commit":
        world.registry.commit(G, A, None)
    elif end == "auto commit":
        world.now += 5
        world.registry.acquire_lease(G, A, 1)
    elif end == "rebalance":
        world.create(B, "t")
        world.acquire(B)  # waits until the partitions are shared out
    elif end == "restart":
        world.registry.close()
        world.registry = world.start()
        world.registry.start()
        world.registry.commit(G, A, None)
    else:
        getattr(world.registry, end)(G, A)
    assert world.committed() == {}
    if end in {"commit", "restart"}:
        assert world.read() == NEW


def test_late_release_of_a_deleted_topics_page_is_ignored(world: World) -> None:
    world.create(A, "t", auto_commit=False)
    world.write("t", "0", "1")
    lease = world.acquire()
    values, positions, delivered = world.look(lease)
    recreate(world, *NEW)
    world.registry.commit(G, A, None)
    world.registry.release_lease(lease, positions, delivered)
    world.registry.commit(G, A, None)
    assert (values, world.committed()) == (["0", "1"], {})
    assert world.read() == NEW


def test_idle_instance_is_deleted_without_commit(world: World) -> None:
    world.write("t", "1")
    world.create(A, "t")
    world.create(B)
    world.read()
    world.now += 250
    world.registry.subscription(G, B)
    world.now += 51
    world.registry.end_idle()
    with pytest.raises(InstanceNotFound):
        world.acquire()
    assert world.registry.names() == [(G, B)]
    assert (world.committed(), world.broker.members(G), list(world.store.kept)) == ({}, [], [(G, B)])


def test_lease_keeps_its_instance_from_being_idle(world: World) -> None:
    world.create(A, "t")
    lease = world.acquire(timeout=20)
    world.now += 40
    world.registry.end_idle()
    lease = world.registry.renew_lease(lease, (), 60)
    world.now += 80
    world.registry.end_idle()
    world.registry.release_lease(lease, (), ())
    world.registry.end_idle()
    assert world.registry.names() == [(G, A)]


def test_leases_may_be_released_while_expired_ones_are_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table may change while a thread goes through it: it goes through a copy."""
    leases = []
    for name in (A, B):
        world.create(name, "t")
        leases.append(world.acquire(name))
    lease_id = ConsumerInstance.lease_id

    def release_first(instance: ConsumerInstance) -> str | None:
        for each in leases:
            world.registry.release_lease(each)
        assert lease_id.fget is not None
        return lease_id.fget(instance)

    monkeypatch.setattr(ConsumerInstance, "lease_id", property(release_first))
    world.registry.end_idle()
    assert world.registry.names() == [(G, A), (G, B)]


def test_acquire_lease_serves_one_reader_at_a_time_in_order(world: World) -> None:
    world.write("t", *"123")
    world.create(A, "t")
    lease = world.acquire()
    with pytest.raises(InstanceBusy):
        world.acquire(timeout=0)
    order: list[str] = []

    def read(name: str) -> list[str]:
        order.append(name)
        values = world.read(limit=1)
        order.append(name)
        return values

    with ThreadPoolExecutor() as pool:
        waiting = []
        for name in ("first", "second"):
            waiting.append(pool.submit(read, name))
            wait_for(lambda name=name: name in order, 5)
            time.sleep(0.02)  # from there to its place in the queue
        world.registry.release_lease(lease)
        assert [each.result(5) for each in waiting] == [["1"], ["2"]]
    assert order == ["first", "second", "first", "second"]
    assert world.read() == ["3"]


def test_lease_of_one_instance_does_not_block_another(world: World) -> None:
    world.write("t", "1")
    world.create(A, "four")
    world.create(B, "t")
    lease = world.acquire(A)
    assert world.read(B) == ["1"]
    world.registry.release_lease(lease)


def test_release_without_offsets_delivers_the_page_again(world: World) -> None:
    world.write("t", "1", "2")
    world.create(A, "t")
    lease = world.acquire()
    assert world.look(lease)[0] == ["1", "2"]
    world.registry.release_lease(lease)
    world.registry.release_lease(lease, *world.look(lease)[1:])
    assert world.read() == ["1", "2"]


def test_lease_ends_after_its_time(world: World) -> None:
    world.write("t", "1", "2")
    world.create(A, "t")
    lease = world.acquire(timeout=10)
    world.now += 39
    with pytest.raises(InstanceBusy):
        world.acquire(timeout=0)
    world.now += 1
    assert world.read() == ["1", "2"]
    world.registry.release_lease(lease, [OffsetEntry("t", 0, 0)], [OffsetEntry("t", 0, 1)])
    with pytest.raises(LeaseExpired):
        world.registry.renew_lease(lease)
    assert world.read() == []


def test_delete_instance_ends_its_lease(world: World) -> None:
    world.create(A, "t")
    lease = world.acquire()
    world.registry.delete(G, A)
    with pytest.raises((LeaseExpired, InstanceNotFound)):
        world.registry.renew_lease(lease, (), 1)
    world.registry.release_lease(lease, [OffsetEntry("t", 0, 9)], [OffsetEntry("t", 0, 9)])
    world.registry.release_lease(lease)
    assert world.committed() == {}


def test_renew_lease_continues_after_an_empty_page(world: World) -> None:
    world.create(A, "t")
    lease = world.acquire()
    world.broker.pass_over("t", count=5)
    _, positions, _ = world.look(lease)
    assert positions == [OffsetEntry("t", 0, 5)]
    lease = world.registry.renew_lease(lease, positions)
    assert lease.positions == [OffsetEntry("t", 0, 5)]
    world.registry.seek(G, A, [OffsetEntry("t", 0, 2)])
    lease = world.registry.renew_lease(lease, positions)
    assert lease.positions == [OffsetEntry("t", 0, 2)]
    world.registry.release_lease(lease)


def test_members_share_partitions_until_one_leaves(world: World) -> None:
    for partition in range(4):
        world.write("four", str(partition), partition=partition)
    world.create(A, "four")
    assert sorted(world.read()) == ["0", "1", "2", "3"]
    world.create(B, "four")
    assert world.read(B) == []
    assert world.committed("four") == dict.fromkeys(range(4), 1)
    wait_for(lambda: len(world.registry.assignments(G, A)) == len(world.registry.assignments(G, B)) == 2, 5)
    for partition in range(4):
        world.write("four", str(partition), partition=partition)
    assert sorted(world.read(A) + world.read(B)) == ["0", "1", "2", "3"]
    world.registry.delete(G, B)
    wait_for(lambda: len(world.registry.assignments(G, A)) == 4, 5)
    assert world.read() == []


def test_rebalance_waits_for_a_page_being_delivered(world: World) -> None:
    for partition in range(4):
        world.write("four", str(partition), partition=partition)
    world.create(A, "four")
    lease = world.acquire()
    values, positions, delivered = world.look(lease)
    world.create(B, "four")
    wait_for(lambda: world.registry.assignments(G, A) == [], 5)
    world.registry.release_lease(lease, positions, delivered)
    assert (len(values), world.read(B), world.read(A)) == (4, [], [])
    assert world.committed("four") == dict.fromkeys(range(4), 1)


def test_renew_lease_lets_a_rebalance_proceed(world: World) -> None:
    world.create(A, "four")
    lease = world.acquire()
    assert len(lease.positions) == 4
    world.create(B, "four")
    wait_for(lambda: world.registry.assignments(G, A) == [], 5)
    lease = world.registry.renew_lease(lease, lease.positions, 5)
    assert (len(lease.positions), lease.joining) == (2, False)
    assert len(world.acquire(B).positions) == 2


def test_late_release_after_rebalance_counts_for_kept_partitions_only(world: World) -> None:
    for partition in range(4):
        world.write("four", str(partition), partition=partition)
    world.create(A, "four", auto_commit=False)
    lease = world.acquire()
    _, positions, delivered = world.look(lease)
    world.create(B, "four", auto_commit=False)
    other = world.acquire(B, timeout=10)
    world.registry.release_lease(lease, positions, delivered)
    kept = {each.partition for each in world.registry.assignments(G, A)}
    assert len(kept) == 2
    assert world.read(A) == []
    world.registry.commit(G, A, None)
    assert world.committed("four") == dict.fromkeys(kept, 1)
    assert {int(each) for each in world.look(other)[0]} == set(range(4)) - kept


def test_missed_generation_drops_the_offsets(world: World) -> None:
    world.write("t", "1", "2")
    world.create(A, "t", auto_commit=False)
    assert world.read(limit=1) == ["1"]
    world.registry.unsubscribe(G, A)
    world.registry.subscribe(G, A, ["t"], None)
    assert world.read() == ["1", "2"]


def test_restart_continues_the_stored_instances(world: World) -> None:
    world.write("t", "1", "2", "3")
    world.create(A, "t")
    world.create(B)
    world.registry.assign(G, B, [TopicPartition("t", 0)])
    assert (world.read(limit=1), world.read(B, limit=2)) == (["1"], ["1", "2"])
    world.registry.close()
    world.registry = world.start()
    assert (world.read(), world.read(B)) == (["2", "3"], ["3"])
    assert world.registry.subscription(G, A) == ["t"]
    world.registry.commit(G, A, None)
    assert world.committed() == {0: 3}


@pytest.mark.parametrize(("auto_commit", "committed"), [(True, {0: 2}), (False, {})])
def test_close_auto_commits(world: World, auto_commit: bool, committed: dict[int, int]) -> None:
    """A successor that came after the group had stopped waiting got delivered records again."""
    world.write("t", "1", "2", "3")
    world.create(A, "t", auto_commit=auto_commit)
    assert world.read(limit=2) == ["1", "2"]
    world.registry.close()
    assert world.committed() == committed


def test_restart_after_a_missed_rebalance_starts_at_committed_offsets(world: World) -> None:
    world.write("t", "1", "2", "3")
    world.create(A, "t", auto_commit=False)
    world.read(limit=2)
    world.registry.commit(G, A, None)
    world.read()
    world.registry.close()
    for name in ("x", "y"):
        other = world.start()
        other._store = Store()
        other.create(G, name, InstanceSettings())
        other.subscribe(G, name, ["t"], None)
        assert other.acquire_lease(G, name, 5) is not None
    world.registry = world.start()
    for each in world.registries[1:-1]:
        each.close(leave=True)
    assert wait_for(world.read, 5) == ["3"]


def test_fenced_instance_ends_in_this_process(world: World) -> None:
    world.create(A, "t")
    world.read()
    other = world.start()
    other.start()
    wait_for(lambda: other.assignments(G, A), 5)

    def is_gone() -> bool:
        try:
            world.registry.subscription(G, A)
        except InstanceNotFound:
            return True
        return False

    wait_for(is_gone, 5)
    world.registry.end_idle()
    assert world.registry.names() == []
    assert list(world.store.kept) == [(G, A)]
    assert other.assignments(G, A) == [("t", 0)]


def test_forget_ends_an_instance_but_keeps_it_stored(world: World) -> None:
    world.create(A, "t")
    world.read()
    world.registry.forget(G, A)
    with pytest.raises(InstanceNotFound):
        world.acquire()
    assert list(world.store.kept) == [(G, A)]


def test_page_is_stored_without_fsync_and_seek_with(world: World) -> None:
    """After a crash of the machine a page may come again, but a seek must not be lost."""
    world.write("t", "1", "2")
    world.create(A, "t", auto_commit=False)
    assert world.read() == ["1", "2"]
    assert world.store.durable == [False]
    world.registry.seek(G, A, [OffsetEntry("t", 0, 2)])
    assert world.store.durable == [False, True]
    world.registry.seek(G, A, [OffsetEntry("t", 0, 2)])
    assert world.store.durable == [False, True]


def test_read_while_store_is_down_succeeds(world: World) -> None:
    world.write("t", "1")
    world.create(A, "t")
    world.store.down = True
    assert world.read() == ["1"]
    assert world.read() == []


def test_subscribe_and_commit_while_broker_is_down_raise_broker_unavailable(world: World) -> None:
    world.create(A, "t", timeout=0.1)
    world.create(B, timeout=0.1)
    world.read()
    world.broker.down = True
    with pytest.raises(BrokerUnavailable):
        world.registry.subscribe(G, B, ["t"], None)
    with pytest.raises(BrokerUnavailable):
        world.registry.commit(G, A, [OffsetEntry("t", 0, 0)])
    world.broker.down = False
    world.registry.commit(G, A, [OffsetEntry("t", 0, 0)])


def test_acquire_lease_for_unauthorized_topic_raises_at_once(world: World) -> None:
    world.broker.refused.add("four")
    world.create(A, "four")
    began = time.monotonic()
    with pytest.raises(NotAuthorized):
        world.acquire(timeout=5)
    assert time.monotonic() - began < scaled(2)


def test_seek_and_commit_wait_for_the_assignment_up_to_the_timeout(world: World) -> None:
    class Never:
        def join(self, *_: Any) -> Any:
            return self

        def leave(self) -> None: ...

    class NoGroups(FakeBroker):
        memberships = Never()

    world.broker = NoGroups()
    world.broker.create_topic("t")
    world.registry = world.start()
    world.create(A, "t", timeout=0.1)
    calls: Sequence[Callable[[], Any]] = [
        lambda: world.registry.seek(G, A, [OffsetEntry("t", 0, 0)]),
        lambda: world.registry.commit(G, A, None),
        lambda: world.registry.seek_ends(G, A, [TopicPartition("t", 0)], "latest"),
    ]
    for call in calls:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="Retry"):
            call()
        assert 0.1 <= time.monotonic() - began < scaled(1)
    lease = world.acquire(timeout=0.1)
    assert (lease.joining, lease.positions) == (True, [])


def test_concurrent_instances_read_each_record_once(world: World) -> None:
    """Whatever is read is read once, though members come and go while pages are on their way."""
    count = 400
    for partition in range(4):
        world.write("four", *(f"{partition}-{each}" for each in range(count // 4)), partition=partition)
    got: list[str] = []
    done = threading.Event()

    def consume(name: str, rounds: int) -> None:
        for round_ in range(rounds):
            each = f"{name}-{round_}"
            world.create(each, "four")
            for _ in range(10):
                got.extend(world.read(each, limit=7))
            world.registry.delete(G, each)

    with ThreadPoolExecutor() as pool:
        for each in [pool.submit(consume, name, 3) for name in "abc"]:
            each.result(60)
    world.create("last", "four")
    until = time.monotonic() + 10
    while len(got) < count and time.monotonic() < until:
        got.extend(world.read("last"))
    done.set()
    assert sorted(got) == sorted(f"{p}-{i}" for p in range(4) for i in range(count // 4))
