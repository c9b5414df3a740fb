"""Requests and responses of share sessions: runs of acknowledgements, and acquired records by column."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from kafka_http.broker.batch_codec import BatchReader
from kafka_http.broker.messages import ShareAcknowledgeRequest, ShareFetchRequest
from kafka_http.records import RecordColumns, TopicPartition
from kafka_http.share_groups import AckType

Acks = Mapping[int, Mapping[int, AckType]]
"""The types of acknowledgements by partition and offset."""

MAX_RECORDS = 500
"""The most records of one request."""
_MAX_BYTES = 2 << 20
"""Size after which the broker stops to add batches to a response. The first batch is sent whole."""
_RECORD_LIMIT = 1
"""The acquire mode in which the number of records is a limit. The other one acquires whole batches."""
_ANY_SIZE = 1 << 62


class SessionId(NamedTuple):
    """What each request of a share session has: the group, the member and the topic's id."""

    group: str
    member_id: str
    topic_id: UUID


class PartitionChange(NamedTuple):
    """What changes in a session, which keeps the partitions of earlier requests."""

    new: Collection[int]
    gone: Collection[int]


def fetch_request(session: SessionId, epoch: int, max_records: int, change: PartitionChange, acks: Acks) -> Any:
    """Return a request that acknowledges, and acquires up to `max_records` without a wait."""
    new_request: Any = ShareFetchRequest
    forgotten = [new_request.ForgottenTopic(topic_id=session.topic_id, partitions=sorted(change.gone))]
    return new_request(
        group_id=session.group,
        member_id=session.member_id,
        share_session_epoch=epoch,
        max_wait_ms=0,
        min_bytes=1,
        max_bytes=_MAX_BYTES,
        max_records=max_records,
        batch_size=max(1, max_records),
        share_acquire_mode=_RECORD_LIMIT,
        is_renew_ack=False,
        topics=_topics(new_request.FetchTopic, "FetchPartition", session.topic_id, acks, change.new),
        forgotten_topics_data=forgotten if change.gone else [],
    )


def acknowledge_request(session: SessionId, epoch: int, acks: Acks) -> Any:
    """Return a request that acknowledges only. It may renew locks."""
    new_request: Any = ShareAcknowledgeRequest
    return new_request(
        group_id=session.group,
        member_id=session.member_id,
        share_session_epoch=epoch,
        is_renew_ack=has_renewals(acks),
        topics=_topics(new_request.AcknowledgeTopic, "AcknowledgePartition", session.topic_id, acks),
    )


def has_renewals(acks: Acks) -> bool:
    """Return whether some are renewals, which a fetch cannot carry."""
    return any(AckType.RENEW in types.values() for types in acks.values())


def _topics(new_topic: Any, kind: str, topic_id: UUID, acks: Acks, others: Iterable[int] = ()) -> list[Any]:
    new_partition = getattr(new_topic, kind)
    new_batch = new_partition.AcknowledgementBatch
    partitions = [
        new_partition(
            partition_index=each,
            acknowledgement_batches=[
                new_batch(first_offset=first, last_offset=last, acknowledge_types=types)
                for first, last, types in ack_runs(acks.get(each, {}))
            ],
        )
        for each in {*others, *acks}
    ]
    return [new_topic(topic_id=topic_id, partitions=partitions)] if partitions else []


def ack_runs(types: Mapping[int, AckType]) -> Iterator[tuple[int, int, list[int]]]:
    """Yield runs of consecutive offsets: the first, the last, and their types, or the one type that all have."""
    offsets = sorted(types)
    start = 0
    for end in range(1, len(offsets) + 1):
        if end == len(offsets) or offsets[end] != offsets[end - 1] + 1:
            run = [int(types[each]) for each in offsets[start:end]]
            yield offsets[start], offsets[end - 1], run[:1] if len(set(run)) == 1 else run
            start = end


class AcquiredColumns(NamedTuple):
    """Acquired records of a partition with their attempts, and the acquired offsets that have no record."""

    records: RecordColumns
    attempts: Sequence[int]
    gaps: Sequence[int]


def acquired_columns(tp: TopicPartition, response: Any) -> AcquiredColumns:
    """Decode a partition's part of a response. Raises `CorruptBatch`.

    The batches may have other records than those acquired, and control records count as acquired.
    """
    ranges = sorted(
        (each.first_offset, each.last_offset + 1, each.delivery_count) for each in response.acquired_records
    )
    first, end = ranges[0][0], ranges[-1][1]
    reader = BatchReader(bytes(response.records or b""), tp, first)
    records = RecordColumns(tp)
    while reader.position < end and (more := reader.take(end - reader.position, _ANY_SIZE, _ANY_SIZE)[0]):
        records = records + more if records else more
    return _select(records, ranges)


def _select(records: RecordColumns, ranges: Sequence[tuple[int, int, int]]) -> AcquiredColumns:
    """Select the records of some ranges of offsets."""
    selected = records[:0]
    attempts: list[int] = []
    gaps: list[int] = []
    for first, end, count in ranges:
        part = records[bisect_left(records.offsets, first) : bisect_left(records.offsets, end)]
        selected = selected + part if selected else part
        attempts += [count] * len(part)
        if len(part) < end - first:
            gaps += sorted(set(range(first, end)) - set(part.offsets))
    return AcquiredColumns(selected, attempts, gaps)
