"""Consumer instances with a real Kafka, without HTTP."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewPartitions

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.errors import KafkaHttpError
from kafka_http.records import NewRecord, OffsetEntry, RecordMetadata, TopicPartition
from tests.conftest import TopicFactory
from tests.contract.test_group_memberships import Listener
from tests.support.embedded_cluster import EmbeddedCluster
from tests.support.instance_holder import Holder
from tests.support.polling import scaled, wait_for

HolderFactory = Callable[..., Holder]


@pytest.fixture
def hold(kafka: EmbeddedKafka) -> Iterator[HolderFactory]:
    """Return a function that starts another process with instances."""
    holders: list[Holder] = []

    def make(directory: Path | None = None, bootstrap_servers: str = kafka.bootstrap_servers) -> Holder:
        holders.append(Holder(bootstrap_servers, directory, consumer={"metadata_max_age_ms": 1000}))
        return holders[-1]

    yield make
    for each in holders:
        each.close()


@pytest.fixture
def holder(hold: HolderFactory) -> Holder:
    return hold()


@pytest.fixture
def group() -> str:
    return f"group-{uuid4().hex[:12]}"


def write(holder: Holder, topic: str, values: list[bytes], partitions: int = 1) -> None:
    records = [NewRecord(value, partition=index % partitions) for index, value in enumerate(values)]
    outcomes = holder.broker.producer.publish(topic, records, 10).result()
    assert all(isinstance(each, RecordMetadata) for each in outcomes), outcomes


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % each for each in range(start, start + count)]


def committed(holder: Holder, group: str, topic: str, partitions: int = 1) -> list[OffsetEntry]:
    return holder.instances.committed(group, "a", [TopicPartition(topic, each) for each in range(partitions)])


def test_first_read_returns_records(holder: Holder, topic: TopicFactory, group: str) -> None:
    name = topic(4)
    write(holder, name, numbers(100), 4)
    holder.create(group, "a", [name])
    assert sorted(holder.read(group, "a")) == sorted(numbers(100))
    assert holder.read(group, "a") == []


def test_members_share_partitions_until_one_leaves(
    holder: Holder, hold: HolderFactory, topic: TopicFactory, group: str
) -> None:
    name, other = topic(4), hold()
    holder.create(group, "a", [name])
    other.create(group, "b", [name])
    wait_for(lambda: len(holder.instances.assignments(group, "a")) == 2)
    wait_for(lambda: len(other.instances.assignments(group, "b")) == 2)
    write(holder, name, numbers(100), 4)
    first, second = holder.read(group, "a"), other.read(group, "b")
    assert (len(first), len(second)) == (50, 50)
    assert sorted(first + second) == sorted(numbers(100))
    began = time.monotonic()
    other.instances.delete(group, "b")
    wait_for(lambda: len(holder.instances.assignments(group, "a")) == 4)
    assert time.monotonic() - began < scaled(5)
    assert holder.read(group, "a") == []


def test_commit_with_and_without_offsets_commits(holder: Holder, topic: TopicFactory, group: str) -> None:
    name = topic()
    write(holder, name, numbers(10))
    holder.create(group, "a", [name], auto_commit=False)
    holder.instances.commit(group, "a", None)
    assert committed(holder, group, name) == []
    assert len(holder.read(group, "a", limit=4)) == 4
    holder.instances.commit(group, "a", None)
    assert committed(holder, group, name) == [OffsetEntry(name, 0, 4)]
    holder.instances.commit(group, "a", [OffsetEntry(name, 0, 6, "noted")])
    assert committed(holder, group, name) == [OffsetEntry(name, 0, 7, "noted")]


def test_committed_records_are_not_read_again(holder: Holder, topic: TopicFactory, group: str) -> None:
    name = topic(2)
    write(holder, name, numbers(20), 2)
    got = []
    for round_ in range(4):
        holder.create(group, f"a{round_}", [name], auto_commit=round_ % 2 == 0)
        got += holder.read(group, f"a{round_}", limit=4)
        if round_ % 2:
            holder.instances.commit(group, f"a{round_}", None)
        holder.instances.delete(group, f"a{round_}")
    assert len(got) == len(set(got)) == 16


def test_revoked_partitions_commit_delivered_records(
    holder: Holder, hold: HolderFactory, topic: TopicFactory, group: str
) -> None:
    name, other = topic(2), hold()
    write(holder, name, numbers(10), 2)
    holder.create(group, "a", [name])
    assert len(holder.read(group, "a")) == 10
    assert committed(holder, group, name, 2) == []
    other.create(group, "b", [name])
    assert other.read(group, "b") == []
    assert committed(holder, group, name, 2) == [OffsetEntry(name, 0, 5), OffsetEntry(name, 1, 5)]


def test_pattern_includes_topic_that_is_created_later(
    holder: Holder, topic: TopicFactory, group: str, kafka: EmbeddedKafka
) -> None:
    name = topic()
    holder.create(group, "a", pattern=f"{name}.*")
    assert holder.read(group, "a") == []
    with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)) as admin:
        admin.create_topics([f"{name}-later"])
        admin.wait_for_topics([f"{name}-later"])
    write(holder, f"{name}-later", [b"new"])
    assert holder.read_all(group, "a", 1) == [b"new"]
    assert holder.instances.subscription(group, "a") == [name, f"{name}-later"]


def test_assigned_instance_commits_without_membership(holder: Holder, topic: TopicFactory, group: str) -> None:
    name = topic(2)
    write(holder, name, numbers(10), 2)
    holder.create(group, "a")
    holder.instances.assign(group, "a", [TopicPartition(name, 1)])
    assert len(holder.read(group, "a")) == 5
    assert holder.broker.groups.members(group) == []
    holder.instances.delete(group, "a")
    assert holder.broker.groups.committed(group, name, [0, 1]) == {1: 5}


def test_killed_process_is_replaced_without_rebalance(
    hold: HolderFactory, topic: TopicFactory, group: str, kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    holder, name = hold(), topic(2)
    write(holder, name, numbers(20), 2)
    arguments = [sys.executable, "-m", "tests.support.instance_holder", kafka.bootstrap_servers, str(tmp_path), group]
    with subprocess.Popen([*arguments, name, "6"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"6\n"
            witness = Listener()
            member = holder.broker.memberships.join(group, "witness", [name], witness.ears)
            witness.wait(lambda: witness.partitions)
        finally:
            process.send_signal(signal.SIGKILL)
    began = time.monotonic()
    successor = hold(tmp_path)
    values = successor.read(group, "killed")
    taken = time.monotonic() - began
    ((_, kept),) = successor.instances.assignments(group, "killed")
    mine = [value for index, value in enumerate(numbers(20)) if index % 2 == kept]
    assert 0 < len(values) < len(mine)  # delivered records are not read again even without a commit
    assert values == mine[-len(values) :]
    assert len(witness.assignments) == 1
    assert taken < scaled(2)
    member.leave()


def test_new_partitions_are_read_after_takeover(
    hold: HolderFactory, topic: TopicFactory, group: str, kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    name, holder = topic(), hold(tmp_path)
    holder.create(group, "a", [name])
    assert holder.read(group, "a") == []
    holder.close(leave=False)
    holder = hold(tmp_path)
    assert holder.read(group, "a") == []
    with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)) as admin:
        admin.create_partitions({name: NewPartitions(3)})
    wait_for(lambda: len(holder.instances.assignments(group, "a")) == 3)


def test_deleted_topic_does_not_block_other_topics(
    holder: Holder, topic: TopicFactory, group: str, kafka: EmbeddedKafka
) -> None:
    one, other = topic(), topic()
    holder.create(group, "a", [one, other])
    assert holder.read(group, "a") == []
    with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)) as admin:
        admin.delete_topics([one])
    wait_for(lambda: holder.instances.assignments(group, "a") == [(other, 0)])
    write(holder, other, [b"still"])
    assert holder.read(group, "a") == [b"still"]


@pytest.mark.slow
def test_joining_and_leaving_members_lose_and_duplicate_nothing(
    hold: HolderFactory, topic: TopicFactory, group: str
) -> None:
    count, name = 12_000, topic(6)
    holders = [hold() for _ in range(3)]
    got: list[bytes | None] = []
    written = threading.Event()

    def produce() -> None:
        for start in range(0, count, 500):
            write(holders[0], name, numbers(500, start), 6)
            written.wait(0.2)
        written.set()

    def consume(holder: Holder, who: str, rounds: int) -> None:
        for round_ in range(rounds):
            each = f"{who}-{round_}"
            holder.create(group, each, [name])
            until = time.monotonic() + 2
            while time.monotonic() < until:
                got.extend(holder.read(group, each, limit=100))
            holder.instances.delete(group, each)

    with ThreadPoolExecutor() as pool:
        running = [pool.submit(produce)] + [pool.submit(consume, each, str(n), 3) for n, each in enumerate(holders)]
        for each in running:
            each.result(90)
    holders[0].create(group, "last", [name])
    got += holders[0].read_all(group, "last", count - len(got))
    assert sorted(got, key=lambda value: int(value or b"")) == numbers(count)


def test_members_rejoin_after_outage(hold: HolderFactory, group: str, fresh_kafka: EmbeddedKafka) -> None:
    holder = hold(bootstrap_servers=fresh_kafka.bootstrap_servers)
    with closing(KafkaAdminClient(bootstrap_servers=fresh_kafka.bootstrap_servers)) as admin:
        admin.create_topics({"t": {"num_partitions": 2}})
        admin.wait_for_topics(["t"])
    write(holder, "t", numbers(10), 2)
    for name in ("a", "b"):
        holder.create(group, name, ["t"], auto_commit=False)
    wait_for(lambda: all(len(holder.instances.assignments(group, each)) == 1 for each in "ab"))
    assert len(holder.read(group, "a") + holder.read(group, "b")) == 10
    for name in ("a", "b"):
        holder.instances.commit(group, name, None)
    fresh_kafka.kill()
    with pytest.raises(KafkaHttpError):
        holder.instances.commit(group, "a", None)
    fresh_kafka.start()
    wait_for(lambda: is_up(holder))
    write(holder, "t", numbers(10, 10), 2)

    def both() -> list[bytes | None]:
        try:
            return [value for each in "ab" for value in holder.read(group, each)]
        except KafkaHttpError:
            return []

    got: set[bytes | None] = set()
    # a late member causes a rebalance, after which uncommitted records may be read twice
    wait_for(lambda: got.update(both()) or len(got) >= 10, 30)
    assert got == set(numbers(10, 10))
    wait_for(lambda: not holder.instances.commit(group, "a", None))


@pytest.mark.slow
def test_members_rejoin_after_coordinator_moves(hold: HolderFactory, kafka_cluster: EmbeddedCluster) -> None:
    holder = hold(bootstrap_servers=kafka_cluster.bootstrap_servers)
    with closing(KafkaAdminClient(bootstrap_servers=kafka_cluster.bootstrap_servers)) as admin:
        admin.create_topics({"t": {"num_partitions": 3, "replication_factor": 3}})
        admin.wait_for_topics(["t"])
    groups = [f"group-{each}" for each in range(6)]  # so that this broker is the coordinator of some
    for group in groups:
        holder.create(group, "a", ["t"], timeout=20.0)
        assert holder.read(group, "a") == []
    kafka_cluster.brokers[2].kill()
    began = time.monotonic()
    for group in groups:
        wait_for(lambda group=group: commits(holder, group), 30)
        assert len(holder.instances.assignments(group, "a")) == 3
    assert time.monotonic() - began < scaled(30)


def is_up(holder: Holder) -> bool:
    try:
        holder.broker.log.check_reachable()
    except KafkaHttpError:
        return False
    return True


def commits(holder: Holder, group: str) -> bool:
    try:
        holder.instances.commit(group, "a", [OffsetEntry("t", 0, 0)])
    except KafkaHttpError:
        return False
    return True
