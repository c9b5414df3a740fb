"""Reading by fetch requests of our own: from positions to records and the next positions."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from kafka.protocol.consumer import FetchRequest, IsolationLevel, ListOffsetsRequest, OffsetSpec

from kafka_http.broker.admin_client import Admin
from kafka_http.broker.batch_codec import BatchReader, bytes_a_record
from kafka_http.broker.connections import ConnectionPool
from kafka_http.broker.leader_requests import Answers, LeaderRequests, is_out_of_range
from kafka_http.broker.prefetch_buffer import PrefetchBuffer, PrefetchedBatches, PrefetchedRead
from kafka_http.broker.record_search import RecordSearch
from kafka_http.broker.topic_metadata import TopicMetadata
from kafka_http.errors import KafkaHttpError, TopicRecreated
from kafka_http.records import (
    EARLIEST,
    LATEST,
    Fetched,
    Isolation,
    OffsetAt,
    PartitionInfo,
    Positions,
    Record,
    TopicIds,
    TopicPartition,
)

_LEVEL = {"read_uncommitted": IsolationLevel.READ_UNCOMMITTED, "read_committed": IsolationLevel.READ_COMMITTED}
_SPEC: Mapping[OffsetAt, int] = {EARLIEST: OffsetSpec.EARLIEST, LATEST: OffsetSpec.LATEST}

_GUESSED_BYTES = 250
"""What Kafka keeps of a record, while none of its topic has been seen."""
_LEAST_FETCH = 1 << 16
_AHEAD = 1 << 20
_AHEAD_OF_PARTITION = 1 << 18
"""Bytes to fetch at least for who reads on where he was, in all and of a partition: most batches are smaller."""
_ANY_SIZE = 1 << 62
_STILL_AT_END_SECONDS = 0.1
"""So soon a partition that was at its end is not asked again while others have records for the page."""
_SAME_TOPIC_SECONDS = 0.2
"""How old may be what says that a topic is still the one of which records are kept: an answer to a fetch by its id, or
the metadata."""
_BY_NAME, _BY_ID = 12, 13
"""The last version of a fetch that names topics, and the first that has their ids."""
_NO_ID = UUID(int=0)


class _Wanted(NamedTuple):
    """What a page has room for, what it shows, and of which topics."""

    records: int
    size: int
    isolation: Isolation
    ids: TopicIds


class Fetcher:
    """The `Log` of a Kafka cluster. Any thread may call; each call has a connection to itself."""

    def __init__(
        self, connections: ConnectionPool, metadata: TopicMetadata, admin: Admin, timeout: float, ahead: PrefetchBuffer
    ) -> None:
        """`timeout` in seconds is that of a request; a fetch that waits gets it on top."""
        self._connections = connections
        self._metadata = metadata
        self._admin = admin
        self._leaders = LeaderRequests(connections, metadata, timeout)
        self._ahead = ahead
        self._search = RecordSearch(self._rests)
        self._record_bytes: dict[str, int] = {}
        self._seen: dict[UUID, float] = {}
        """When a fetch by a topic's id was last begun that found it."""

    def topics(self) -> list[str]:
        return self._metadata.topics()

    def partitions(self, topic: str, max_age: float = 0) -> list[PartitionInfo]:
        return self._metadata.partitions(topic, max_age)

    def topic_id(self, topic: str, max_age: float = 0) -> UUID | None:
        return self._metadata.topic_id(topic, max_age)

    def topic_ids(self, topics: Collection[str], timeout: float | None = None) -> dict[str, UUID | None]:
        return self._metadata.topic_ids(topics, timeout)

    def configs(self, topic: str) -> dict[str, str]:
        self._metadata.partitions(topic)  # of an unknown topic the admin client says nothing
        return self._admin.configs(topic)

    def brokers(self) -> list[int]:
        return self._metadata.brokers()

    def alive(self) -> None:
        self._metadata.alive()

    def cluster_id(self) -> str:
        return self._metadata.cluster_id()

    def close(self) -> None:
        self._connections.close()

    def offsets(
        self, topic: str, at: Mapping[int, OffsetAt], isolation: Isolation = "read_uncommitted"
    ) -> dict[int, int]:
        found = self._list_offsets(topic, at, isolation)
        if beyond := [partition for partition, offset in found.items() if offset < 0]:
            found |= self._list_offsets(topic, dict.fromkeys(beyond, LATEST), isolation)
        return found

    def last(self, topic: str, counts: Mapping[int, int], isolation: Isolation = "read_uncommitted") -> dict[int, int]:
        ranges = self._ranges([TopicPartition(topic, each) for each in counts], isolation)
        found = self._search.last({place: counts[place.partition] for place in ranges}, ranges, isolation)
        return {place.partition: offset for place, offset in found.items()}

    def trailing_ends(
        self, positions: Positions, isolation: Isolation = "read_uncommitted"
    ) -> dict[TopicPartition, int]:
        return self._search.trailing_ends(positions, isolation)

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
        wanted = _Wanted(max_records, max_bytes, isolation, ids or {})
        until = time.monotonic() + wait
        while True:
            fetched = self._look(positions, wanted, max(0.0, until - time.monotonic()))
            if fetched.out_of_range or any(fetched.records.values()) or time.monotonic() >= until:
                return fetched
            positions = fetched.next

    def _look(self, positions: Positions, wanted: _Wanted, wait: float) -> Fetched:
        """What earlier fetches have left, and of the other partitions what Kafka has."""
        reading, rests = self._kept(positions, wanted)
        missing = {place: at for place, at in positions.items() if place not in rests or not rests[place].has_more}
        has_some = len(missing) < len(positions)
        answers: Answers = {}
        if not has_some or not _were_at_end(missing, rests):
            answers = self._ask(missing, wanted, 0 if has_some else wait, goes_on=bool(rests))
            if (now := self._reading(positions, wanted)) != reading:
                reading, rests = now, {}  # what was kept is of topics that are gone
        ranges = self._ranges([each for each, answer in answers.items() if is_out_of_range(answer)], wanted.isolation)
        for place, answer in answers.items():
            rests[place] = self._rest(place, positions[place], answer, wanted.isolation)
        for place in ranges:
            del rests[place]
        records, size = _taken({place: rests[place] for place in positions if place in rests}, wanted)
        self._ahead.keep(rests, reading)
        following = {place: rest.batches.position for place, rest in rests.items()}
        ended = frozenset(place for place in answers if place in rests and rests[place].is_at_end)
        return Fetched(records, following, ended, ranges, size)

    def _kept(
        self, positions: Positions, wanted: _Wanted
    ) -> tuple[PrefetchedRead, dict[TopicPartition, PrefetchedBatches]]:
        """What earlier fetches have left, as long as the topics are the same."""
        reading = self._reading(positions, wanted)
        rests = self._ahead.take(positions, reading)
        since = time.monotonic() - _SAME_TOPIC_SECONDS
        seen = all(each in self._seen and self._seen[each] > since for each in reading.topic_ids.values())
        if not seen and any(rest.has_more for rest in rests.values()):
            try:
                now = self._reading(positions, wanted, _SAME_TOPIC_SECONDS)
            except KafkaHttpError as error:
                if error.retry_after is None:
                    raise
                return reading, rests  # without brokers no topic is created again
            if now != reading:
                return now, {}
        return reading, rests

    def _reading(self, positions: Positions, wanted: _Wanted, max_age: float = float("inf")) -> PrefetchedRead:
        """Raises `TopicRecreated` where a topic is not the one wanted."""
        ids = {topic: self._metadata.topic_id(topic, max_age) for topic in {each.topic for each in positions}}
        for topic, topic_id in wanted.ids.items():
            if topic in ids and ids[topic] != topic_id:
                ids[topic] = self._metadata.topic_id(topic, 0)  # the caller may know it since
                if ids[topic] != topic_id:
                    raise TopicRecreated(topic)
        return PrefetchedRead(ids, wanted.isolation)

    def _ask(self, positions: Positions, wanted: _Wanted, wait: float, *, goes_on: bool) -> Answers:
        """What Kafka has of these partitions; more than is wanted for a reader who goes on where he was."""
        likely = wanted.records * max(self._record_bytes.get(each.topic, _GUESSED_BYTES) for each in positions)
        size = max(_LEAST_FETCH, min(wanted.size, likely))
        share = max(1, size // len(positions))
        if goes_on:
            share = max(share, _AHEAD_OF_PARTITION)
            size = max(size, min(share * len(positions), _AHEAD))
        return self._fetch(positions, wanted, share, size, wait)

    def _fetch(self, positions: Positions, wanted: _Wanted, share: int, size: int, wait: float = 0) -> Answers:
        """The leaders' answers, of `share` bytes of each partition, `size` in all. Topics go by their ids, so that an
        answer is of the topic that the metadata has."""
        names: dict[UUID, str] = {}
        began = time.monotonic()

        def request(places: Sequence[TopicPartition], longest: float) -> FetchRequest:
            nonlocal began
            asked = {place: positions[place] for place in places}
            reading = self._reading(asked, wanted)
            began = time.monotonic()
            names.update({topic_id: topic for topic, topic_id in reading.topic_ids.items() if topic_id is not None})
            return _fetch_request(asked, reading, share, min(size, share * len(places)), longest)

        def parts(answer: Any) -> Iterator[tuple[TopicPartition, Any]]:
            for topic in answer.responses:
                name = topic.topic or names[topic.topic_id]
                for each in topic.partitions:
                    yield TopicPartition(name, each.partition_index), each

        answers = self._leaders.ask(positions.keys(), request, parts, wait)
        self._seen.update(dict.fromkeys(names, began))
        return answers

    def _rests(self, positions: Positions, share: int, isolation: Isolation) -> dict[TopicPartition, PrefetchedBatches]:
        """`share` bytes of what Kafka has of each partition; those that do not have their position are left out."""
        wanted = _Wanted(0, 0, isolation, {})
        answers = self._fetch(positions, wanted, share, share * len(positions))
        return {
            place: self._rest(place, positions[place], answer, isolation)
            for place, answer in answers.items()
            if not is_out_of_range(answer)
        }

    def _rest(self, place: TopicPartition, offset: int, answer: Any, isolation: Isolation) -> PrefetchedBatches:
        data = answer.records or b""
        if size := bytes_a_record(data):
            self._record_bytes[place.topic] = size
        aborted = [(each.producer_id, each.first_offset) for each in answer.aborted_transactions or ()]
        end = answer.last_stable_offset if isolation == "read_committed" else answer.high_watermark
        return PrefetchedBatches(BatchReader(data, place, offset, aborted), int(end), time.monotonic())

    def _ranges(
        self, places: Collection[TopicPartition], isolation: Isolation
    ) -> dict[TopicPartition, tuple[int, int]]:
        ranges: dict[TopicPartition, tuple[int, int]] = {}
        for topic in {each.topic for each in places}:
            partitions = [each.partition for each in places if each.topic == topic]
            earliest = self._list_offsets(topic, dict.fromkeys(partitions, EARLIEST), isolation)
            latest = self._list_offsets(topic, dict.fromkeys(partitions, LATEST), isolation)
            ranges |= {TopicPartition(topic, each): (earliest[each], latest[each]) for each in partitions}
        return ranges

    def _list_offsets(self, topic: str, at: Mapping[int, OffsetAt], isolation: Isolation) -> dict[int, int]:
        def request(places: Sequence[TopicPartition], _: float) -> ListOffsetsRequest:
            return _list_request(topic, {each.partition: at[each.partition] for each in places}, isolation)

        answers = self._leaders.ask([TopicPartition(topic, each) for each in at], request, _listed_parts)
        return {place.partition: answer.offset for place, answer in answers.items()}


def _were_at_end(places: Collection[TopicPartition], rests: Mapping[TopicPartition, PrefetchedBatches]) -> bool:
    """Whether all of these had nothing to give a moment ago."""
    since = time.monotonic() - _STILL_AT_END_SECONDS
    return all(place in rests and rests[place].is_at_end and rests[place].is_since(since) for place in places)


def _taken(
    rests: Mapping[TopicPartition, PrefetchedBatches], wanted: _Wanted
) -> tuple[dict[TopicPartition, Sequence[Record]], int]:
    """The records of each, and the size of all."""
    records: dict[TopicPartition, Sequence[Record]] = {}
    most, size = wanted.records, wanted.size
    for left, (place, rest) in zip(range(len(rests), 0, -1), rests.items(), strict=True):
        first = size if most < wanted.records else _ANY_SIZE
        records[place], used = rest.batches.take(-(-most // left), size // left, first)
        most -= len(records[place])
        size -= used
    return records, wanted.size - size


def _fetch_request(positions: Positions, reading: PrefetchedRead, share: int, size: int, wait: float) -> FetchRequest:
    """For `share` bytes of each partition, `size` in all. Without a session. By topic ids where all are known, since
    from that version on Kafka knows no names."""
    ids = reading.topic_ids
    asked: dict[str, list[Any]] = {each.topic: [] for each in positions}
    for place, offset in positions.items():
        asked[place.topic].append(
            FetchRequest.FetchTopic.FetchPartition(
                partition=place.partition,
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
        isolation_level=_LEVEL[reading.isolation],
        session_id=0,
        session_epoch=-1,
        topics=[
            FetchRequest.FetchTopic(topic=topic, partitions=partitions, topic_id=ids[topic] or _NO_ID)
            for topic, partitions in asked.items()
        ],
        forgotten_topics_data=[],
        rack_id="",
        min_version=4,
        max_version=_BY_NAME if None in ids.values() else _BY_ID,
    )


def _listed_parts(answer: Any) -> Iterator[tuple[TopicPartition, Any]]:
    for topic in answer.topics:
        for each in topic.partitions:
            yield TopicPartition(topic.name, each.partition_index), each


def _list_request(topic: str, at: Mapping[int, OffsetAt], isolation: Isolation) -> ListOffsetsRequest:
    asked = [
        ListOffsetsRequest.ListOffsetsTopic.ListOffsetsPartition(
            partition_index=partition, current_leader_epoch=-1, timestamp=_timestamp(place)
        )
        for partition, place in at.items()
    ]
    return ListOffsetsRequest(
        replica_id=-1,
        isolation_level=_LEVEL[isolation],
        topics=[ListOffsetsRequest.ListOffsetsTopic(name=topic, partitions=asked)],
        min_version=2,
    )


def _timestamp(place: OffsetAt) -> int:
    """A time as it is, an end of the log as the negative number that the protocol has for it."""
    return max(0, place) if isinstance(place, int) else _SPEC[place]
