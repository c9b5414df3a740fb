"""Reads records by fetch requests."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from kafka.protocol.consumer import FetchRequest, IsolationLevel, ListOffsetsRequest
from kafka.protocol.consumer import OffsetSpec as KafkaOffsetSpec

from kafka_http.administration import TopicConfig
from kafka_http.broker.admin_client import Admin
from kafka_http.broker.batch_codec import BatchReader, record_size
from kafka_http.broker.connections import ConnectionPool
from kafka_http.broker.leader_requests import LeaderRequests, PartitionResponses, is_out_of_range
from kafka_http.broker.prefetch_buffer import PrefetchBuffer, PrefetchedBatches, ReadConditions
from kafka_http.broker.record_search import RecordSearch
from kafka_http.broker.topic_metadata import TopicMetadata
from kafka_http.errors import KafkaHttpError, NotAuthorized, TopicRecreated
from kafka_http.records import (
    EARLIEST,
    LATEST,
    Fetched,
    Isolation,
    OffsetSpec,
    PartitionInfo,
    Positions,
    Record,
    TopicIds,
    TopicPartition,
)

_LEVEL = {"read_uncommitted": IsolationLevel.READ_UNCOMMITTED, "read_committed": IsolationLevel.READ_COMMITTED}
_SPEC: Mapping[OffsetSpec, int] = {EARLIEST: KafkaOffsetSpec.EARLIEST, LATEST: KafkaOffsetSpec.LATEST}

_GUESSED_BYTES = 250
"""Assumed size of a record of a topic that was not read yet."""
_MIN_FETCH_BYTES = 1 << 16
_PREFETCH_BYTES = 1 << 20
_PREFETCH_PARTITION_BYTES = 1 << 18
"""Minimum bytes to fetch, in total and of a partition, for a reader that continues. Most batches are smaller."""
_ANY_SIZE = 1 << 62
_STILL_AT_END_SECONDS = 0.1
"""A partition that was at its end is not fetched again within this time while others have records for the page."""
_SAME_TOPIC_SECONDS = 0.2
"""Prefetched records are used if a check of this age shows that the topic was not recreated.

A fetch by the topic's id is such a check, and so is the metadata.
"""
_BY_NAME, _BY_ID = 12, 13
"""The last fetch version with topic names, and the first with topic ids."""
_NO_ID = UUID(int=0)


class _PageLimits(NamedTuple):
    """The limits of a page, its isolation, and the ids that its topics must have."""

    records: int
    size: int
    isolation: Isolation
    ids: TopicIds


class Fetcher:
    """The `Log` of a Kafka cluster. Any thread may call; each call has its own connection."""

    def __init__(
        self, connections: ConnectionPool, metadata: TopicMetadata, admin: Admin, timeout: float, buffer: PrefetchBuffer
    ) -> None:
        """`timeout` is that of a request, in seconds. A fetch that waits for records has this time in addition."""
        self._connections = connections
        self._metadata = metadata
        self._admin = admin
        self._leaders = LeaderRequests(connections, metadata, timeout)
        self._buffer = buffer
        self._search = RecordSearch(self._prefetch)
        self._record_sizes: dict[str, int] = {}
        self._confirmed_at: dict[UUID, float] = {}
        """When the last successful fetch by a topic's id was sent."""

    def topics(self) -> list[str]:
        return self._metadata.topics()

    def partitions(self, topic: str, max_age: float = 0) -> list[PartitionInfo]:
        return self._metadata.partitions(topic, max_age)

    def topic_id(self, topic: str, max_age: float = 0) -> UUID | None:
        return self._metadata.topic_id(topic, max_age)

    def topic_ids(self, topics: Collection[str], timeout: float | None = None) -> dict[str, UUID | None]:
        return self._metadata.topic_ids(topics, timeout)

    def configs(self, topic: str) -> dict[str, str]:
        self._metadata.partitions(topic)  # the admin client does not report an unknown topic
        try:
            return self._admin.configs(topic)
        except NotAuthorized:
            return {}

    def own_config(self, topic: str) -> TopicConfig | None:
        self._metadata.partitions(topic)  # the admin client does not report an unknown topic
        return self._admin.own_config(topic)

    def brokers(self) -> list[int]:
        return self._metadata.brokers()

    def check_reachable(self) -> None:
        self._metadata.check_reachable()

    def cluster_id(self) -> str:
        return self._metadata.cluster_id()

    def close(self) -> None:
        self._connections.close()

    def offsets(
        self, topic: str, at: Mapping[int, OffsetSpec], isolation: Isolation = "read_uncommitted"
    ) -> dict[int, int]:
        found = self._list_offsets(topic, at, isolation)
        if after_last := [partition for partition, offset in found.items() if offset < 0]:
            found |= self._list_offsets(topic, dict.fromkeys(after_last, LATEST), isolation)
        return found

    def last(self, topic: str, counts: Mapping[int, int], isolation: Isolation = "read_uncommitted") -> dict[int, int]:
        ranges = self._offset_ranges([TopicPartition(topic, each) for each in counts], isolation)
        found = self._search.last_offsets({tp: counts[tp.partition] for tp in ranges}, ranges, isolation)
        return {tp.partition: offset for tp, offset in found.items()}

    def ends_without_records(
        self, positions: Positions, isolation: Isolation = "read_uncommitted"
    ) -> dict[TopicPartition, int]:
        return self._search.ends_without_records(positions, isolation)

    def fetch(
        self,
        positions: Positions,
        *,
        max_records: int,
        max_bytes: int,
        wait: float = 0,
        isolation: Isolation = "read_uncommitted",
        ids: TopicIds | None = None,
    ) -> Fetched:
        page = _PageLimits(max_records, max_bytes, isolation, ids or {})
        until = time.monotonic() + wait
        while True:
            fetched = self._fetch_page(positions, page, max(0.0, until - time.monotonic()))
            if fetched.out_of_range or any(fetched.records.values()) or time.monotonic() >= until:
                return fetched
            positions = fetched.next

    def _fetch_page(self, positions: Positions, page: _PageLimits, wait: float) -> Fetched:
        """Return the prefetched records, and fetch the partitions that have none."""
        conditions, prefetched = self._take_prefetched(positions, page)
        missing = {tp: at for tp, at in positions.items() if tp not in prefetched or not prefetched[tp].has_more}
        has_some = len(missing) < len(positions)
        responses: PartitionResponses = {}
        if not has_some or not _are_at_end(missing, prefetched):
            responses = self._fetch_missing(missing, page, 0 if has_some else wait, is_continued=bool(prefetched))
            if (now := self._conditions(positions, page)) != conditions:
                conditions, prefetched = now, {}  # a topic was recreated: drop the prefetched records
        ranges = self._offset_ranges(
            [each for each, response in responses.items() if is_out_of_range(response)], page.isolation
        )
        for tp, response in responses.items():
            prefetched[tp] = self._prefetched(tp, positions[tp], response, page.isolation)
        for tp in ranges:
            del prefetched[tp]
        records, size = _take_records({tp: prefetched[tp] for tp in positions if tp in prefetched}, page)
        self._buffer.put(prefetched, conditions)
        next_positions = {tp: prefetch.reader.position for tp, prefetch in prefetched.items()}
        at_end = frozenset(tp for tp in responses if tp in prefetched and prefetched[tp].is_at_end)
        return Fetched(records, next_positions, at_end, ranges, size)

    def _take_prefetched(
        self, positions: Positions, page: _PageLimits
    ) -> tuple[ReadConditions, dict[TopicPartition, PrefetchedBatches]]:
        """Return the prefetched records, unless a topic was recreated."""
        conditions = self._conditions(positions, page)
        prefetched = self._buffer.take(positions, conditions)
        since = time.monotonic() - _SAME_TOPIC_SECONDS
        seen = all(
            each in self._confirmed_at and self._confirmed_at[each] > since for each in conditions.topic_ids.values()
        )
        if not seen and any(each.has_more for each in prefetched.values()):
            try:
                now = self._conditions(positions, page, _SAME_TOPIC_SECONDS)
            except KafkaHttpError as error:
                if error.retry_after is None:
                    raise
                return conditions, prefetched  # without brokers no topic is recreated
            if now != conditions:
                return now, {}
        return conditions, prefetched

    def _conditions(self, positions: Positions, page: _PageLimits, max_age: float = float("inf")) -> ReadConditions:
        """Return the topic ids and the isolation. Raises `TopicRecreated` if a topic does not have its id in `page`."""
        ids = {topic: self._metadata.topic_id(topic, max_age) for topic in {each.topic for each in positions}}
        for topic, topic_id in page.ids.items():
            if topic in ids and ids[topic] != topic_id:
                ids[topic] = self._metadata.topic_id(topic, 0)  # the caller may have seen the new topic already
                if ids[topic] != topic_id:
                    raise TopicRecreated(topic)
        return ReadConditions(ids, page.isolation)

    def _fetch_missing(
        self, positions: Positions, page: _PageLimits, wait: float, *, is_continued: bool
    ) -> PartitionResponses:
        """Fetch these partitions: more than the page needs if the reader continues where it was."""
        estimate = page.records * max(self._record_sizes.get(each.topic, _GUESSED_BYTES) for each in positions)
        size = max(_MIN_FETCH_BYTES, min(page.size, estimate))
        share = max(1, size // len(positions))
        if is_continued:
            share = max(share, _PREFETCH_PARTITION_BYTES)
            size = max(size, min(share * len(positions), _PREFETCH_BYTES))
        return self._fetch(positions, page, share, size, wait)

    def _fetch(
        self, positions: Positions, page: _PageLimits, share: int, size: int, wait: float = 0
    ) -> PartitionResponses:
        """Fetch `share` bytes of each partition, `size` in all.

        Topics are named by their ids, so that a response belongs to the topic that the metadata knows.
        """
        topic_names: dict[UUID, str] = {}
        sent_at = time.monotonic()

        def request(partitions: Sequence[TopicPartition], wait_limit: float) -> FetchRequest:
            nonlocal sent_at
            requested = {tp: positions[tp] for tp in partitions}
            conditions = self._conditions(requested, page)
            sent_at = time.monotonic()
            topic_names.update(
                {topic_id: topic for topic, topic_id in conditions.topic_ids.items() if topic_id is not None}
            )
            return fetch_request(requested, conditions, share, min(size, share * len(partitions)), wait_limit)

        def by_partition(response: Any) -> Iterator[tuple[TopicPartition, Any]]:
            for topic in response.responses:
                name = topic.topic or topic_names[topic.topic_id]
                for each in topic.partitions:
                    yield TopicPartition(name, each.partition_index), each

        responses = self._leaders.ask(positions.keys(), request, by_partition, wait)
        self._confirmed_at.update(dict.fromkeys(topic_names, sent_at))
        return responses

    def _prefetch(
        self, positions: Positions, share: int, isolation: Isolation
    ) -> dict[TopicPartition, PrefetchedBatches]:
        """Fetch `share` bytes of each partition. Partitions whose position is out of range are left out."""
        page = _PageLimits(0, 0, isolation, {})
        responses = self._fetch(positions, page, share, share * len(positions))
        return {
            tp: self._prefetched(tp, positions[tp], response, isolation)
            for tp, response in responses.items()
            if not is_out_of_range(response)
        }

    def _prefetched(self, tp: TopicPartition, offset: int, response: Any, isolation: Isolation) -> PrefetchedBatches:
        data = response.records or b""
        if size := record_size(data):
            self._record_sizes[tp.topic] = size
        aborted = [(each.producer_id, each.first_offset) for each in response.aborted_transactions or ()]
        end = response.last_stable_offset if isolation == "read_committed" else response.high_watermark
        return PrefetchedBatches(BatchReader(data, tp, offset, aborted), int(end), time.monotonic())

    def _offset_ranges(
        self, partitions: Collection[TopicPartition], isolation: Isolation
    ) -> dict[TopicPartition, tuple[int, int]]:
        ranges: dict[TopicPartition, tuple[int, int]] = {}
        for topic in {each.topic for each in partitions}:
            numbers = [each.partition for each in partitions if each.topic == topic]
            earliest = self._list_offsets(topic, dict.fromkeys(numbers, EARLIEST), isolation)
            latest = self._list_offsets(topic, dict.fromkeys(numbers, LATEST), isolation)
            ranges |= {TopicPartition(topic, each): (earliest[each], latest[each]) for each in numbers}
        return ranges

    def _list_offsets(self, topic: str, at: Mapping[int, OffsetSpec], isolation: Isolation) -> dict[int, int]:
        def request(partitions: Sequence[TopicPartition], _: float) -> ListOffsetsRequest:
            return list_offsets_request(topic, {each.partition: at[each.partition] for each in partitions}, isolation)

        responses = self._leaders.ask([TopicPartition(topic, each) for each in at], request, _listed_partitions)
        return {tp.partition: response.offset for tp, response in responses.items()}


def _are_at_end(partitions: Collection[TopicPartition], prefetched: Mapping[TopicPartition, PrefetchedBatches]) -> bool:
    """Return whether all of these partitions had no more records a moment ago."""
    since = time.monotonic() - _STILL_AT_END_SECONDS
    return all(
        tp in prefetched and prefetched[tp].is_at_end and prefetched[tp].is_newer_than(since) for tp in partitions
    )


def _take_records(
    prefetched: Mapping[TopicPartition, PrefetchedBatches], page: _PageLimits
) -> tuple[dict[TopicPartition, Sequence[Record]], int]:
    """Take the records of a page, fairly from all partitions. Return them and their size in bytes."""
    records: dict[TopicPartition, Sequence[Record]] = {}
    records_left, size = page.records, page.size
    for left, (tp, prefetch) in zip(range(len(prefetched), 0, -1), prefetched.items(), strict=True):
        first_limit = size if records_left < page.records else _ANY_SIZE
        records[tp], used = prefetch.reader.take(-(-records_left // left), size // left, first_limit)
        records_left -= len(records[tp])
        size -= used
    return records, page.size - size


def fetch_request(positions: Positions, conditions: ReadConditions, share: int, size: int, wait: float) -> FetchRequest:
    """Return a fetch request without a session for `share` bytes of each partition, `size` in all.

    It has topic ids if all are known. The versions with topic ids have no names.
    """
    ids = conditions.topic_ids
    topics: dict[str, list[Any]] = {each.topic: [] for each in positions}
    for tp, offset in positions.items():
        topics[tp.topic].append(
            FetchRequest.FetchTopic.FetchPartition(
                partition=tp.partition,
                current_leader_epoch=-1,
                fetch_offset=offset,
                last_fetched_epoch=-1,
                log_start_offset=-1,
                partition_max_bytes=share,
            )
        )
    return FetchRequest(
        replica_id=-1,
        max_wait_ms=int(wait * 1000),
        min_bytes=1,
        max_bytes=size,
        isolation_level=_LEVEL[conditions.isolation],
        session_id=0,
        session_epoch=-1,
        topics=[
            FetchRequest.FetchTopic(topic=topic, partitions=partitions, topic_id=ids[topic] or _NO_ID)
            for topic, partitions in topics.items()
        ],
        forgotten_topics_data=[],
        rack_id="",
        min_version=4,
        max_version=_BY_NAME if None in ids.values() else _BY_ID,
    )


def _listed_partitions(response: Any) -> Iterator[tuple[TopicPartition, Any]]:
    for topic in response.topics:
        for each in topic.partitions:
            yield TopicPartition(topic.name, each.partition_index), each


def list_offsets_request(topic: str, at: Mapping[int, OffsetSpec], isolation: Isolation) -> ListOffsetsRequest:
    """Return a request for an offset of each partition of a topic: an end of its log, or the one at a timestamp."""
    partitions = [
        ListOffsetsRequest.ListOffsetsTopic.ListOffsetsPartition(
            partition_index=partition, current_leader_epoch=-1, timestamp=_timestamp(offset)
        )
        for partition, offset in at.items()
    ]
    return ListOffsetsRequest(
        replica_id=-1,
        isolation_level=_LEVEL[isolation],
        topics=[ListOffsetsRequest.ListOffsetsTopic(name=topic, partitions=partitions)],
        min_version=2,
    )


def _timestamp(at: OffsetSpec) -> int:
    """Return a timestamp unchanged, an end of the log as its negative number in the protocol."""
    return max(0, at) if isinstance(at, int) else _SPEC[at]
