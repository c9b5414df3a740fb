"""Consumer instances of the v2 dialect, over a fake Kafka and a clock that the test sets."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

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
    Definition,
    InstanceProgress,
    InstanceSettings,
    NewRecord,
    RecordPlace,
    StoredInstance,
    TopicPartition,
)
from tests.attempts import scaled, wait_for
from tests.fakes import FakeBroker

G, A, B = "group", "a", "b"


class Store:
    """Keeps instances as a database does; `down`: it cannot be reached."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], StoredInstance] = {}
        self.down = False

    def create(self, definition: Definition) -> None:
        self._check()
        if (definition.group, definition.name) in self.kept:
            raise InstanceExists
        self.kept[definition.group, definition.name] = StoredInstance(definition, InstanceProgress())

    def update(self, definition: Definition) -> None:
        self._check()
        if (old := self.kept.get((definition.group, definition.name))) is not None:
            self.kept[definition.group, definition.name] = StoredInstance(definition, old.progress)

    def save(self, group: str, name: str, progress: InstanceProgress) -> None:
        self._check()
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
        """Another process on the same store."""
        given = {"limit": 100, "idle_timeout": 300.0} | settings
        self.registries.append(InstanceRegistry(self.broker, self.store, clock=lambda: self.now, **given))
        return self.registries[-1]

    def create(self, name: str = A, *topics: str, **settings: Any) -> None:
        self.registry.create(G, name, InstanceSettings(**settings))
        if topics:
            self.registry.subscribe(G, name, topics, None)

    def write(self, topic: str, *values: str, partition: int = 0) -> None:
        self.broker.produce(topic, [NewRecord(each.encode(), partition=partition) for each in values], 5)

    def read(self, name: str = A, timeout: float = 5, limit: int = 1000) -> list[str]:
        """What a GET answers."""
        loan = self.borrow(name, timeout)
        values, positions, delivered = self.look(loan, limit)
        self.registry.give_back(loan, positions, delivered)
        return values

    def borrow(self, name: str = A, timeout: float = 5) -> ReadLease:
        return self.registry.borrow(G, name, timeout)

    def look(self, loan: ReadLease, limit: int = 1000) -> tuple[list[str], list[RecordPlace], list[RecordPlace]]:
        """The values that a loan brings, the positions behind them, and what is delivered with them."""
        positions = {TopicPartition(each.topic, each.partition): each.offset for each in loan.positions}
        page = self.reader.read(positions, ReadLimits(limit, 1 << 20), reset=loan.settings.reset)
        values = [(each.value or b"").decode() for each in page.records]
        return values, places(page.next), places({each: at + 1 for each, at in page.last.items()})

    def committed(self, topic: str = "t") -> dict[int, int]:
        return self.broker.committed(G, topic, range(4))


def places(offsets: dict[TopicPartition, int]) -> list[RecordPlace]:
    return [RecordPlace(*each, at) for each, at in offsets.items()]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.broker.down = False
    for each in world.registries:
        each.close(leave=True)


def test_names_are_taken_once_for_each_group(world: World) -> None:
    world.create()
    with pytest.raises(InstanceExists):
        world.create()
    world.registry.create("other", A, InstanceSettings(format="json"))
    assert world.registry.settings("other", A).format == "json"
    world.registry.delete("other", A)
    with pytest.raises(InstanceNotFound):
        world.registry.settings("other", A)
    assert world.registry.settings(G, A).format == "binary"


def test_there_is_a_limit(world: World) -> None:
    registry = world.start(limit=2)
    for name in (A, B):
        registry.create(G, name, InstanceSettings())
    with pytest.raises(TooManyInstances, match="max_consumer_instances"):
        registry.create(G, "c", InstanceSettings())
    registry.delete(G, A)
    registry.create(G, "c", InstanceSettings())


def test_an_instance_that_the_store_does_not_take_is_not_there(world: World) -> None:
    world.registry.start()
    world.store.down = True
    with pytest.raises(Unavailable):
        world.create()
    world.store.down = False
    world.create()


def test_reading_from_the_beginning_and_on(world: World) -> None:
    world.write("t", "1", "2", "3")
    world.create(A, "t")
    assert world.read() == ["1", "2", "3"]
    assert world.read() == []
    world.write("t", "4")
    assert world.read() == ["4"]
    assert world.registry.assignments(G, A) == [("t", 0)]


def test_latest_is_where_the_log_ends_at_the_first_read(world: World) -> None:
    world.write("t", "before")
    world.create(A, "t", reset="latest")
    assert world.read() == []
    world.write("t", "after")
    assert world.read() == ["after"]


def test_the_committed_offset_is_where_a_group_goes_on(world: World) -> None:
    world.write("t", "1", "2", "3")
    world.broker.commit(G, "t", {0: 2})
    world.create(A, "t", reset="latest")
    assert world.read() == ["3"]


@pytest.mark.parametrize("first", ["subscribe", "assign"])
def test_either_subscribed_or_assigned(world: World, first: str) -> None:
    world.create()
    calls = {
        "subscribe": lambda: world.registry.subscribe(G, A, ["t"], None),
        "assign": lambda: world.registry.assign(G, A, [TopicPartition("t", 0)]),
    }
    with pytest.raises(IllegalState, match="not subscribed"):
        world.borrow()
    calls[first]()
    calls[first]()
    other = calls["assign" if first == "subscribe" else "subscribe"]
    with pytest.raises(IllegalState, match="mutually exclusive"):
        other()
    world.registry.unsubscribe(G, A)
    other()


def test_another_subscription_replaces_the_first(world: World) -> None:
    world.write("t", "t")
    world.write("four", "four", partition=2)
    world.create(A, "t")
    assert world.read() == ["t"]
    world.registry.subscribe(G, A, ["four"], None)
    assert world.registry.subscription(G, A) == ["four"]
    assert world.read() == ["four"]
    assert {each.topic for each in world.registry.assignments(G, A)} == {"four"}


def test_a_pattern_finds_topics_that_are_made_later(world: World) -> None:
    world.broker.create_topic("orders-1")
    world.broker.create_topic("more-orders-1")
    world.create()
    world.registry.subscribe(G, A, [], "orders-.*")
    assert world.registry.subscription(G, A) == ["orders-1"]
    assert world.read() == []
    world.broker.create_topic("orders-2")
    world.write("orders-2", "new")
    world.registry.look_up()
    assert world.registry.subscription(G, A) == ["orders-1", "orders-2"]
    assert wait_for(world.read, 5) == ["new"]
    world.broker.delete_topic("orders-1")
    world.registry.look_up()
    assert world.registry.subscription(G, A) == ["orders-2"]


def test_a_pattern_without_topics_yet(world: World) -> None:
    world.create()
    world.registry.subscribe(G, A, [], "later.*")
    assert world.registry.subscription(G, A) == []
    loan = world.borrow(timeout=0)
    assert (loan.positions, loan.joining) == ([], False)
    world.registry.drop(loan)
    world.broker.create_topic("later")
    world.write("later", "x")
    world.registry.look_up()
    assert wait_for(world.read, 5) == ["x"]
    world.broker.delete_topic("later")
    world.registry.look_up()
    assert world.registry.subscription(G, A) == []
    assert world.borrow(timeout=0).positions == []


def test_a_topic_subscribed_to_before_it_is_made(world: World) -> None:
    world.create(A, "t", "later")
    assert world.registry.subscription(G, A) == ["t", "later"]
    assert world.read() == []
    world.broker.create_topic("later")
    world.write("later", "x")
    world.registry.look_up()
    assert wait_for(world.read, 5) == ["x"]


@pytest.mark.parametrize("pattern", ["(", "a(?=b)", r"(a)\1", "x" * 257, "(a{1000}){1000}"])
def test_patterns_that_are_refused(world: World, pattern: str) -> None:
    world.create()
    with pytest.raises(InvalidValue, match="topic_pattern"):
        world.registry.subscribe(G, A, [], pattern)
    assert world.registry.subscription(G, A) == []


def test_a_pattern_matches_whole_names_in_linear_time(world: World) -> None:
    world.broker.create_topic("a" * 200 + "b")
    world.create()
    world.registry.subscribe(G, A, [], "fou")
    assert world.registry.subscription(G, A) == []
    world.registry.subscribe(G, A, [], "(a|a|aa)*")
    assert world.registry.subscription(G, A) == []


def test_an_assigned_instance_is_no_member(world: World) -> None:
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
        world.registry.commit(G, A, [RecordPlace("t", 0, 0)])


def test_only_partitions_that_a_topic_has_can_be_assigned(world: World) -> None:
    world.create()
    with pytest.raises(PartitionNotFound):
        world.registry.assign(G, A, [TopicPartition("t", 0), TopicPartition("four", 4)])
    assert world.registry.assignments(G, A) == []


def test_seeking(world: World) -> None:
    world.write("t", "1", "2", "3")
    world.create(A, "t")
    world.registry.seek(G, A, [RecordPlace("t", 0, 2)])
    assert world.read() == ["3"]
    world.registry.seek_ends(G, A, [TopicPartition("t", 0)], "earliest")
    assert world.read() == ["1", "2", "3"]
    world.registry.seek(G, A, [RecordPlace("t", 0, 77)])
    assert world.read() == ["1", "2", "3"]
    world.registry.seek_ends(G, A, [TopicPartition("t", 0)], "latest")
    assert world.read() == []
    world.registry.seek_times(G, A, [RecordPlace("t", 0, 0)])
    assert world.read() == ["1", "2", "3"]
    world.registry.seek_times(G, A, [RecordPlace("t", 0, int(time.time() * 1000) + 60_000)])
    assert world.read() == []
    with pytest.raises(IllegalState, match="No current assignment for partition four-0"):
        world.registry.seek(G, A, [RecordPlace("t", 0, 0), RecordPlace("four", 0, 0)])


def test_a_seek_leaves_what_was_delivered(world: World) -> None:
    world.write("t", "1", "2", "3")
    world.create(A, "t")
    assert world.read() == ["1", "2", "3"]
    world.registry.seek(G, A, [RecordPlace("t", 0, 0)])
    world.registry.commit(G, A, None)
    assert world.committed() == {0: 3}
    assert world.read() == ["1", "2", "3"]


def test_a_seek_while_a_page_is_on_its_way_counts(world: World) -> None:
    world.write("t", "1", "2", "3")
    world.create(A, "t")
    loan = world.borrow()
    _, positions, delivered = world.look(loan)
    world.registry.seek(G, A, [RecordPlace("t", 0, 1)])
    world.registry.give_back(loan, positions, delivered)
    assert world.read() == ["2", "3"]
    world.registry.commit(G, A, None)
    assert world.committed() == {0: 3}


def test_committing(world: World) -> None:
    world.write("t", "1", "2", "3", "4")
    world.create(A, "t", auto_commit=False)
    world.registry.commit(G, A, None)
    assert world.committed() == {}
    world.read(limit=2)
    world.registry.commit(G, A, None)
    assert world.committed() == {0: 2}
    world.registry.commit(G, A, [RecordPlace("t", 0, 2, "noted")])
    assert world.registry.committed(G, A, [TopicPartition("t", 0), TopicPartition("four", 0)]) == [
        RecordPlace("t", 0, 3, "noted")
    ]


def test_auto_commit_waits_for_a_later_read(world: World) -> None:
    world.write("t", *"123456")
    world.create(A, "t")
    assert world.read(limit=2) == ["1", "2"]
    world.now += 4
    assert world.read(limit=2) == ["3", "4"]
    assert world.committed() == {}
    world.now += 1
    loan = world.borrow()
    assert world.committed() == {0: 4}
    world.registry.give_back(loan, *world.look(loan)[1:])
    world.now += 100
    world.registry.tidy()
    assert world.committed() == {0: 4}
    world.registry.delete(G, A)
    assert world.committed() == {0: 6}


def test_without_auto_commit_nothing_is_committed(world: World) -> None:
    world.write("t", "1")
    world.create(A, "t", auto_commit=False)
    world.read()
    world.now += 100
    world.read()
    world.registry.delete(G, A)
    assert world.committed() == {}


def test_auto_commit_of_an_assigned_instance(world: World) -> None:
    world.write("t", "1")
    world.create()
    world.registry.assign(G, A, [TopicPartition("t", 0)])
    world.read()
    world.registry.delete(G, A)
    assert world.committed() == {0: 1}


def test_unsubscribing_commits_and_forgets(world: World) -> None:
    world.write("t", "1", "2")
    world.create(A, "t")
    world.read()
    world.registry.seek(G, A, [RecordPlace("t", 0, 0)])
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
def test_uncommitted_offsets_of_a_deleted_topic_are_not_committed_to_its_successor(world: World, end: str) -> None:
    """8 was committed on the new topic, and its first 8 records were delivered to nobody."""
    world.create(A, "t")
    world.write("t", *(f"old {each}" for each in range(8)))
    assert len(world.read()) == 8
    recreate(world, *NEW)
    if end == "commit":
        world.registry.commit(G, A, None)
    elif end == "auto commit":
        world.now += 5
        world.registry.borrow(G, A, 1)
    elif end == "rebalance":
        world.create(B, "t")
        world.borrow(B)  # waits until the partitions are shared out
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


def test_page_of_a_deleted_topic_that_is_delivered_late_counts_for_nothing(world: World) -> None:
    world.create(A, "t", auto_commit=False)
    world.write("t", "0", "1")
    loan = world.borrow()
    values, positions, delivered = world.look(loan)
    recreate(world, *NEW)
    world.registry.commit(G, A, None)
    world.registry.give_back(loan, positions, delivered)
    world.registry.commit(G, A, None)
    assert (values, world.committed()) == (["0", "1"], {})
    assert world.read() == NEW


def test_an_idle_instance_ends_and_commits_nothing(world: World) -> None:
    world.write("t", "1")
    world.create(A, "t")
    world.create(B)
    world.read()
    world.now += 250
    world.registry.subscription(G, B)
    world.now += 51
    world.registry.tidy()
    with pytest.raises(InstanceNotFound):
        world.borrow()
    assert world.registry.names() == [(G, B)]
    assert (world.committed(), world.broker.members(G), list(world.store.kept)) == ({}, [], [(G, B)])


def test_a_reader_keeps_its_instance_alive(world: World) -> None:
    world.create(A, "t")
    loan = world.borrow(timeout=20)
    world.now += 40
    world.registry.tidy()
    loan = world.registry.renew(loan, (), 60)
    world.now += 80
    world.registry.tidy()
    world.registry.give_back(loan, (), ())
    world.registry.tidy()
    assert world.registry.names() == [(G, A)]


def test_one_reader_at_a_time_in_their_order(world: World) -> None:
    world.write("t", *"123")
    world.create(A, "t")
    loan = world.borrow()
    with pytest.raises(InstanceBusy):
        world.borrow(timeout=0)
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
        world.registry.drop(loan)
        assert [each.result(5) for each in waiting] == [["1"], ["2"]]
    assert order == ["first", "second", "first", "second"]
    assert world.read() == ["3"]


def test_one_instance_waits_for_no_other(world: World) -> None:
    world.write("t", "1")
    world.create(A, "four")
    world.create(B, "t")
    loan = world.borrow(A)
    assert world.read(B) == ["1"]
    world.registry.drop(loan)


def test_a_page_that_did_not_arrive_comes_again(world: World) -> None:
    world.write("t", "1", "2")
    world.create(A, "t")
    loan = world.borrow()
    assert world.look(loan)[0] == ["1", "2"]
    world.registry.drop(loan)
    world.registry.give_back(loan, *world.look(loan)[1:])
    assert world.read() == ["1", "2"]


def test_a_loan_ends_after_its_time(world: World) -> None:
    world.write("t", "1", "2")
    world.create(A, "t")
    loan = world.borrow(timeout=10)
    world.now += 39
    with pytest.raises(InstanceBusy):
        world.borrow(timeout=0)
    world.now += 1
    assert world.read() == ["1", "2"]
    world.registry.give_back(loan, [RecordPlace("t", 0, 0)], [RecordPlace("t", 0, 1)])
    with pytest.raises(LeaseExpired):
        world.registry.renew(loan)
    assert world.read() == []


def test_deleting_ends_the_loan(world: World) -> None:
    world.create(A, "t")
    loan = world.borrow()
    world.registry.delete(G, A)
    with pytest.raises((LeaseExpired, InstanceNotFound)):
        world.registry.renew(loan, (), 1)
    world.registry.give_back(loan, [RecordPlace("t", 0, 9)], [RecordPlace("t", 0, 9)])
    world.registry.drop(loan)
    assert world.committed() == {}


def test_a_renewed_loan_goes_on_where_an_empty_page_ended(world: World) -> None:
    world.create(A, "t")
    loan = world.borrow()
    world.broker.pass_over("t", count=5)
    _, positions, _ = world.look(loan)
    assert positions == [RecordPlace("t", 0, 5)]
    loan = world.registry.renew(loan, positions)
    assert loan.positions == [RecordPlace("t", 0, 5)]
    world.registry.seek(G, A, [RecordPlace("t", 0, 2)])
    loan = world.registry.renew(loan, positions)
    assert loan.positions == [RecordPlace("t", 0, 2)]
    world.registry.drop(loan)


def test_members_share_and_one_leaves(world: World) -> None:
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


def test_a_rebalance_waits_for_a_page_on_its_way(world: World) -> None:
    for partition in range(4):
        world.write("four", str(partition), partition=partition)
    world.create(A, "four")
    loan = world.borrow()
    values, positions, delivered = world.look(loan)
    world.create(B, "four")
    wait_for(lambda: world.registry.assignments(G, A) == [], 5)
    world.registry.give_back(loan, positions, delivered)
    assert (len(values), world.read(B), world.read(A)) == (4, [], [])
    assert world.committed("four") == dict.fromkeys(range(4), 1)


def test_a_reader_that_waits_lets_a_rebalance_through(world: World) -> None:
    world.create(A, "four")
    loan = world.borrow()
    assert len(loan.positions) == 4
    world.create(B, "four")
    wait_for(lambda: world.registry.assignments(G, A) == [], 5)
    loan = world.registry.renew(loan, loan.positions, 5)
    assert (len(loan.positions), loan.joining) == (2, False)
    assert len(world.borrow(B).positions) == 2


def test_what_a_slow_reader_gives_back_counts_for_partitions_that_it_kept(world: World) -> None:
    for partition in range(4):
        world.write("four", str(partition), partition=partition)
    world.create(A, "four", auto_commit=False)
    loan = world.borrow()
    _, positions, delivered = world.look(loan)
    world.create(B, "four", auto_commit=False)
    other = world.borrow(B, timeout=10)
    world.registry.give_back(loan, positions, delivered)
    kept = {each.partition for each in world.registry.assignments(G, A)}
    assert len(kept) == 2
    assert world.read(A) == []
    world.registry.commit(G, A, None)
    assert world.committed("four") == dict.fromkeys(kept, 1)
    assert {int(each) for each in world.look(other)[0]} == set(range(4)) - kept


def test_generations_that_were_missed_forget_everything(world: World) -> None:
    world.write("t", "1", "2")
    world.create(A, "t", auto_commit=False)
    assert world.read(limit=1) == ["1"]
    world.registry.unsubscribe(G, A)
    world.registry.subscribe(G, A, ["t"], None)
    assert world.read() == ["1", "2"]


def test_another_process_brings_the_instances_back(world: World) -> None:
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
def test_close_commits_what_auto_commit_owes(world: World, auto_commit: bool, committed: dict[int, int]) -> None:
    """A successor that came after the group had stopped waiting got delivered records again."""
    world.write("t", "1", "2", "3")
    world.create(A, "t", auto_commit=auto_commit)
    assert world.read(limit=2) == ["1", "2"]
    world.registry.close()
    assert world.committed() == committed


def test_after_a_rebalance_that_it_slept_through_committed_offsets_count(world: World) -> None:
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
        assert other.borrow(G, name, 5) is not None
    world.registry = world.start()
    for each in world.registries[1:-1]:
        each.close(leave=True)
    assert wait_for(world.read, 5) == ["3"]


def test_a_fenced_instance_is_gone_here(world: World) -> None:
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
    world.registry.tidy()
    assert world.registry.names() == []
    assert list(world.store.kept) == [(G, A)]
    assert other.assignments(G, A) == [("t", 0)]


def test_holding_no_longer(world: World) -> None:
    world.create(A, "t")
    world.read()
    world.registry.forget(G, A)
    with pytest.raises(InstanceNotFound):
        world.borrow()
    assert list(world.store.kept) == [(G, A)]


def test_a_store_that_is_down_stops_nobody_from_reading(world: World) -> None:
    world.write("t", "1")
    world.create(A, "t")
    world.store.down = True
    assert world.read() == ["1"]
    assert world.read() == []


def test_no_broker(world: World) -> None:
    world.create(A, "t", timeout=0.1)
    world.create(B, timeout=0.1)
    world.read()
    world.broker.down = True
    with pytest.raises(BrokerUnavailable):
        world.registry.subscribe(G, B, ["t"], None)
    with pytest.raises(BrokerUnavailable):
        world.registry.commit(G, A, [RecordPlace("t", 0, 0)])
    world.broker.down = False
    world.registry.commit(G, A, [RecordPlace("t", 0, 0)])


def test_a_topic_that_is_not_allowed(world: World) -> None:
    world.broker.refused.add("four")
    world.create(A, "four")
    began = time.monotonic()
    with pytest.raises(NotAuthorized):
        world.borrow(timeout=5)
    assert time.monotonic() - began < scaled(2)


def test_positions_wait_for_the_assignment_for_the_timeout_of_the_instance(world: World) -> None:
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
        lambda: world.registry.seek(G, A, [RecordPlace("t", 0, 0)]),
        lambda: world.registry.commit(G, A, None),
        lambda: world.registry.seek_ends(G, A, [TopicPartition("t", 0)], "latest"),
    ]
    for call in calls:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="try again"):
            call()
        assert 0.1 <= time.monotonic() - began < scaled(1)
    loan = world.borrow(timeout=0.1)
    assert (loan.joining, loan.positions) == (True, [])


def test_many_threads_at_many_instances(world: World) -> None:
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
