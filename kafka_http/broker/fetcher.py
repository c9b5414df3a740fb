"""Reading by fetch requests of our own: from positions to records and the next positions."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

from kafka.errors import NoError, OffsetOutOfRangeError, for_code
from kafka.net.manager import KafkaConnectionManager
from kafka.protocol.consumer import FetchRequest, IsolationLevel, ListOffsetsRequest, OffsetSpec

from kafka_http.broker.admin import Admin
from kafka_http.broker.codec import decode
from kafka_http.broker.connections import Connections
from kafka_http.broker.errors import MOVED, translate
from kafka_http.broker.metadata import Metadata, NoLeader
from kafka_http.errors import BrokerUnavailable, KafkaHttpError
from kafka_http.records import (
    EARLIEST,
    LATEST,
    Fetched,
    Isolation,
    OffsetAt,
    PartitionInfo,
    Positions,
    Record,
    TopicPartition,
)

Leaders = Mapping[int, Sequence[TopicPartition]]
Answers = Mapping[TopicPartition, Any]

_PAUSES = (0.0, 0.05, 0.2, 0.5, 1.0)
"""Before each look for a leader that has moved, the last again and again; an election takes about a second."""
_SLICE = 0.1
_LEVEL = {"read_uncommitted": IsolationLevel.READ_UNCOMMITTED, "read_committed": IsolationLevel.READ_COMMITTED}
_SPEC: Mapping[OffsetAt, int] = {EARLIEST: OffsetSpec.EARLIEST, LATEST: OffsetSpec.LATEST}


class Fetcher:
    """The `Log` of a Kafka cluster. Any thread may call; each call has a connection to itself."""

    def __init__(self, connections: Connections, metadata: Metadata, admin: Admin, timeout: float) -> None:
        """`timeout` in seconds is that of a request; a fetch that waits gets it on top."""
        self._connections = connections
        self._metadata = metadata
        self._admin = admin
        self._timeout = timeout

    def topics(self) -> list[str]:
        return self._metadata.topics()

    def partitions(self, topic: str) -> list[PartitionInfo]:
        return self._metadata.partitions(topic)

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

    def fetch(
        self,
        positions: Positions,
        *,
        max_records: int,
        max_bytes: int,
        wait: float = 0,
        isolation: Isolation = "read_uncommitted",
    ) -> Fetched:
        look = _Look(positions, max_records, max_bytes, isolation)
        until = time.monotonic() + wait
        while True:
            fetched = self._look(look, max(0.0, until - time.monotonic()))
            if fetched.out_of_range or any(fetched.records.values()) or time.monotonic() >= until:
                return fetched
            look.positions = fetched.next

    def _look(self, look: "_Look", wait: float) -> Fetched:
        def ask(leaders: Leaders) -> Answers:
            longest = wait if len(leaders) == 1 else min(wait, _SLICE)
            requests = {node: look.request(partitions, longest) for node, partitions in leaders.items()}
            answers = self._send(requests, longest + self._timeout)
            return {
                TopicPartition(topic.topic, each.partition_index): each
                for answer in answers
                for topic in answer.responses
                for each in topic.partitions
            }

        answers = self._with_leaders(look.positions, wait, ask)
        missing = [each for each, answer in answers.items() if for_code(answer.error_code) is OffsetOutOfRangeError]
        return look.result(answers, self._ranges(missing, look.isolation))

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
        def ask(leaders: Leaders) -> Answers:
            requests = {
                node: _list_request(topic, {each.partition: at[each.partition] for each in places}, isolation)
                for node, places in leaders.items()
            }
            answers = self._send(requests, self._timeout)
            return {
                TopicPartition(topic, each.partition_index): each
                for answer in answers
                for named in answer.topics
                for each in named.partitions
            }

        answers = self._with_leaders([TopicPartition(topic, each) for each in at], 0, ask)
        return {place.partition: answer.offset for place, answer in answers.items()}

    def _send(self, requests: Mapping[int, Any], timeout: float) -> list[Any]:
        """One request to each of these nodes, all under way together."""

        async def ask(manager: KafkaConnectionManager) -> list[Any]:
            sent = [manager.send(request, node, int(timeout * 1000)) for node, request in requests.items()]
            return [await each for each in sent]

        return self._connections.run(ask, timeout)

    def _with_leaders(
        self, places: Collection[TopicPartition], wait: float, ask: Callable[[Leaders], Answers]
    ) -> Answers:
        """Ask the partitions' leaders, and again where one has moved. Raises what else their answers say."""
        until = time.monotonic() + wait + self._timeout
        failure: KafkaHttpError = NoLeader("The partition's leader is moving, try again.")
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            if time.monotonic() + pause > until:
                break
            time.sleep(pause)
            try:
                return self._attempt(places, ask)
            except _Moved as moved:
                failure = moved.failure
                for topic in {each.topic for each in places}:
                    self._metadata.forget(topic)
        raise failure

    def _attempt(self, places: Collection[TopicPartition], ask: Callable[[Leaders], Answers]) -> Answers:
        """Raises `_Moved` where another look at the metadata may help, so not where no broker has any."""
        try:
            leaders = self._metadata.by_leader(places)
        except NoLeader as error:
            raise _Moved(error) from error
        try:
            answers = ask(leaders)
        except BrokerUnavailable as error:
            raise _Moved(error) from error
        _check(answers)
        return answers


class _Moved(Exception):
    """A partition's leader is not, or not yet, where the metadata has it."""

    def __init__(self, failure: KafkaHttpError) -> None:
        self.failure = failure


class _Look:
    """What one call of `fetch` asks for."""

    def __init__(self, positions: Positions, max_records: int, max_bytes: int, isolation: Isolation) -> None:
        self.positions = positions
        self.isolation = isolation
        self._max_records = max_records
        self._share = max(1, max_bytes // len(positions))

    def request(self, places: Sequence[TopicPartition], wait: float) -> FetchRequest:
        """Without a session, and by topic name: from version 13 on Kafka wants ids."""
        asked: dict[str, list[Any]] = {each.topic: [] for each in places}
        for place in places:
            asked[place.topic].append(
                FetchRequest.FetchTopic.FetchPartition(
                    partition=place.partition,
                    current_leader_epoch=-1,
                    fetch_offset=self.positions[place],
                    last_fetched_epoch=-1,
                    log_start_offset=-1,
                    partition_max_bytes=self._share,
                )
            )
        return FetchRequest(
            replica_id=-1,
            max_wait_ms=int(wait * 1000),
            min_bytes=1,
            max_bytes=self._share * len(places),
            isolation_level=_LEVEL[self.isolation],
            session_id=0,
            session_epoch=-1,
            topics=[FetchRequest.FetchTopic(topic=topic, partitions=partitions) for topic, partitions in asked.items()],
            forgotten_topics_data=[],
            rack_id="",
            min_version=4,
            max_version=12,
        )

    def result(self, answers: Answers, out_of_range: Mapping[TopicPartition, tuple[int, int]]) -> Fetched:
        records: dict[TopicPartition, Sequence[Record]] = {}
        following: dict[TopicPartition, int] = {}
        ended: set[TopicPartition] = set()
        for place, answer in answers.items():
            if place in out_of_range:
                continue
            records[place], following[place] = self._decoded(place, answer)
            if following[place] >= self._end(answer):
                ended.add(place)
        return Fetched(records, following, frozenset(ended), out_of_range)

    def _decoded(self, place: TopicPartition, answer: Any) -> tuple[list[Record], int]:
        position = self.positions[place]
        if not answer.records:
            return [], position
        aborted = [(each.producer_id, each.first_offset) for each in answer.aborted_transactions or ()]
        return decode(answer.records, place, position, self._max_records, aborted)

    def _end(self, answer: Any) -> int:
        committed = self.isolation == "read_committed"
        return int(answer.last_stable_offset if committed else answer.high_watermark)


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


def _check(answers: Answers) -> None:
    for place, answer in answers.items():
        error = for_code(answer.error_code)
        if error in MOVED:
            raise _Moved(NoLeader(translate(error).message))
        if error not in (NoError, OffsetOutOfRangeError):
            raise translate(error, place.topic)
