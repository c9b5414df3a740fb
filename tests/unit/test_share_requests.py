"""Share sessions' requests and responses: runs of acknowledgements, acquired records, pending acknowledgements."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from kafka_http.broker.batch_codec import CorruptBatch
from kafka_http.broker.messages import ShareFetchRequest
from kafka_http.broker.share_acks import PendingAcks
from kafka_http.broker.share_requests import (
    AcquiredColumns,
    PartitionChange,
    SessionId,
    ack_runs,
    acknowledge_request,
    acquired_columns,
    fetch_request,
)
from kafka_http.records import TopicPartition
from kafka_http.share_groups import Acknowledgement, AckType
from tests.support.record_batches import batch, marker

ACCEPT, RELEASE, REJECT, RENEW = AckType.ACCEPT, AckType.RELEASE, AckType.REJECT, AckType.RENEW
SESSION = SessionId("group", "member", UUID(int=7))


def acquired(data: bytes, *ranges: tuple[int, int, int]) -> AcquiredColumns:
    """Decode a response with these ranges: the first offset, the last, the number of deliveries."""
    names = ("first_offset", "last_offset", "delivery_count")
    found = [SimpleNamespace(**dict(zip(names, each, strict=True))) for each in ranges]
    return acquired_columns(TopicPartition("t", 3), SimpleNamespace(records=data, acquired_records=found))


def numbered(*offsets: int) -> list[bytes]:
    return [b"%d" % each for each in offsets]


@pytest.mark.parametrize(
    ("types", "runs"),
    [
        ({}, []),
        ({5: ACCEPT}, [(5, 5, [1])]),
        ({2: ACCEPT, 0: ACCEPT, 1: ACCEPT}, [(0, 2, [1])]),
        ({0: ACCEPT, 1: REJECT, 2: ACCEPT}, [(0, 2, [1, 3, 1])]),
        ({0: ACCEPT, 2: ACCEPT, 3: RELEASE}, [(0, 0, [1]), (2, 3, [1, 2])]),
    ],
)
def test_acknowledgements_are_sent_in_runs(types: dict[int, AckType], runs: list[tuple[int, int, list[int]]]) -> None:
    assert list(ack_runs(types)) == runs


def test_fetch_request_names_new_forgotten_and_acknowledged_partitions() -> None:
    request = fetch_request(SESSION, 4, 10, PartitionChange({0, 1}, {2}), {1: {9: ACCEPT}, 5: {7: REJECT}})
    decoded: Any = ShareFetchRequest.decode(request.encode(version=2), version=2)
    [topic] = decoded.topics
    acks = {each.partition_index: each.acknowledgement_batches for each in topic.partitions}
    assert {
        each: [(batch.first_offset, batch.acknowledge_types) for batch in found] for each, found in acks.items()
    } == {
        0: [],
        1: [(9, [1])],
        5: [(7, [3])],
    }
    assert [each.partitions for each in decoded.forgotten_topics_data] == [[2]]
    assert (decoded.share_session_epoch, decoded.max_records, decoded.max_wait_ms) == (4, 10, 0)


def test_acknowledge_request_says_whether_it_renews_locks() -> None:
    assert acknowledge_request(SESSION, 1, {0: {0: ACCEPT, 1: RENEW}}).is_renew_ack is True
    assert acknowledge_request(SESSION, 1, {0: {0: ACCEPT}}).is_renew_ack is False


def test_acquired_records_are_a_part_of_the_batches() -> None:
    data = batch(0, numbered(*range(10))) + batch(10, numbered(*range(10, 20)))
    found = acquired(data, (3, 4, 1), (12, 12, 2))
    assert [each.value for each in found.records] == [b"3", b"4", b"12"]
    assert (found.records.offsets, found.attempts, found.gaps) == ([3, 4, 12], [1, 1, 2], [])
    assert {(each.topic, each.partition) for each in found.records} == {("t", 3)}


def test_control_records_and_compacted_offsets_are_gaps() -> None:
    data = batch(0, numbered(0, 2), deltas=[0, 2], last=3, producer=9) + marker(4, 9, commit=True)
    found = acquired(data, (0, 4, 1))
    assert (found.records.offsets, found.gaps) == ([0, 2], [1, 3, 4])


def test_acquired_offsets_without_any_batch_are_gaps() -> None:
    found = acquired(b"", (5, 6, 1))
    assert (len(found.records), found.records.partition, found.gaps) == (0, 3, [5, 6])


def test_corrupt_batch_is_an_error() -> None:
    data = bytearray(batch(0, numbered(0, 1)))
    data[-1] ^= 1
    with pytest.raises(CorruptBatch):
        acquired(bytes(data), (0, 1, 1))


def ack(offset: int, type_: AckType = ACCEPT, partition: int = 0) -> Acknowledgement:
    return Acknowledgement(partition, offset, type_)


def settle_all(pending: PendingAcks) -> Sequence[Acknowledgement]:
    return [done for acks in pending.take().items() for done in pending.settle(*acks)]


def test_second_acknowledgement_of_a_message_waits_for_the_next_request() -> None:
    pending = PendingAcks()
    pending.add([ack(0, RENEW), ack(0), ack(1)])
    assert pending.take() == {0: {0: RENEW, 1: ACCEPT}}
    assert pending, "one waits"
    assert pending.take() == {0: {0: ACCEPT}}
    assert not pending


def test_unsettled_acknowledgements_are_those_without_a_result() -> None:
    pending = PendingAcks()
    pending.add([ack(0), ack(1), ack(2, partition=1)])
    pending.take()
    assert pending.settle(0, {0: ACCEPT}) == [ack(0)]
    assert pending.unsettled() == [ack(1), ack(2, partition=1)]
    assert pending.unsettled() == []


def test_acknowledgements_to_send_again_are_in_the_next_request() -> None:
    pending = PendingAcks()
    pending.add([ack(0), ack(1)])
    pending.send_again(pending.take())
    assert pending.unsettled() == []
    assert settle_all(pending) == [ack(0), ack(1)]


def test_dropped_acknowledgements_are_those_of_the_partitions() -> None:
    pending = PendingAcks()
    pending.add([ack(0, RENEW), ack(0), ack(1, partition=1), ack(1, REJECT, 1)])
    assert pending.drop([0]) == [ack(0, RENEW), ack(0)]
    assert settle_all(pending) == [ack(1, partition=1)]
    assert settle_all(pending) == [ack(1, REJECT, 1)]
