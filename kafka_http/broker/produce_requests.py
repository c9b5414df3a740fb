"""Produce requests and responses, versions 3 to 8, in bytes (Kafka protocol guide, ProduceRequest).

These are the versions before the flexible ones. Brokers of Kafka 0.11 to 4.x have them.
"""

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import NamedTuple

MIN_VERSION, MAX_VERSION = 3, 8
API_KEY = 0
_API_VERSION_WITH_LOG_START, _API_VERSION_WITH_RECORD_ERRORS = 5, 8
_HEAD = Struct(">ihhih")  # size of the rest, API key, API version, correlation id, size of the client id
_HEAD_SIZE = _HEAD.size - 4
_FIXED = Struct(">hhi")  # no transactional id, acks, timeout
_ONE_PARTITION = Struct(">iii")  # number of partitions, partition, size of the records
_PARTITION = Struct(">ii")  # partition, size of the records
_INT16, _INT32 = Struct(">h"), Struct(">i")
_RESULT = Struct(">ihqq")  # partition, error code, base offset, append time
_LOG_START_SIZE = 8
_NO_RECORD_ERRORS = b"\0\0\0\0\xff\xff"
_ACKS_ALL = -1


def topic_field(topic: str) -> bytes:
    """Return a topic's name as it is in requests and responses: with its size before it."""
    name = topic.encode()
    return _INT16.pack(len(name)) + name


class PartitionResponse(NamedTuple):
    """The part of a response about one partition. `topic` is a `topic_field`.

    `append_time` is in milliseconds, and -1 unless the topic uses LogAppendTime. `record_errors` has the index in the
    batch of each record that Kafka rejects, if it names them.
    """

    topic: bytes
    partition: int
    error_code: int
    base_offset: int
    append_time: int
    record_errors: Sequence[int] = ()


class ProduceProtocol:
    """Encodes the requests of one connection and decodes its responses."""

    def __init__(self, version: int, client_id: str, timeout_ms: int) -> None:
        """`timeout_ms` is the time that a broker waits for its replicas."""
        client = client_id.encode()
        self._version = version
        self._client_size = len(client)
        self._fixed = client + _FIXED.pack(-1, _ACKS_ALL, timeout_ms)
        self._fixed_one_topic = self._fixed + _INT32.pack(1)

    def encode_one(self, correlation_id: int, topic: bytes, partition: int, records: bytes) -> bytes:
        """Return a request with one batch. `topic` is a `topic_field`."""
        size = _HEAD_SIZE + len(self._fixed_one_topic) + len(topic) + _ONE_PARTITION.size + len(records)
        return b"%b%b%b%b%b" % (
            self._head(size, correlation_id),
            self._fixed_one_topic,
            topic,
            _ONE_PARTITION.pack(1, partition, len(records)),
            records,
        )

    def encode(self, correlation_id: int, topics: Mapping[bytes, Sequence[tuple[int, bytes]]]) -> bytes:
        """Return a request with batches: (partition, records) by `topic_field`. Each partition occurs once."""
        parts = [self._fixed, _INT32.pack(len(topics))]
        for topic, partitions in topics.items():
            parts += (topic, _INT32.pack(len(partitions)))
            for partition, records in partitions:
                parts += (_PARTITION.pack(partition, len(records)), records)
        return b"".join((self._head(_HEAD_SIZE + sum(map(len, parts)), correlation_id), *parts))

    def _head(self, size: int, correlation_id: int) -> bytes:
        return _HEAD.pack(size, API_KEY, self._version, correlation_id, self._client_size)

    def decode(self, frame: bytes) -> tuple[list[PartitionResponse], float]:
        """Return the responses for all partitions, and the seconds for which the broker wants no more requests.

        `frame` begins with the correlation id. Raises `ValueError` or `struct.error` if it is malformed.
        """
        responses: list[PartitionResponse] = []
        position = 8
        for _ in range(_INT32.unpack_from(frame, 4)[0]):
            end = position + 2 + _INT16.unpack_from(frame, position)[0]
            topic, count = frame[position:end], _INT32.unpack_from(frame, end)[0]
            position = end + 4
            for _ in range(count):
                response, position = self._partition(frame, position, topic)
                responses.append(response)
        return responses, _INT32.unpack_from(frame, position)[0] / 1000

    def _partition(self, frame: bytes, position: int, topic: bytes) -> tuple[PartitionResponse, int]:
        partition, error_code, base_offset, append_time = _RESULT.unpack_from(frame, position)
        position += _RESULT.size
        if self._version >= _API_VERSION_WITH_LOG_START:
            position += _LOG_START_SIZE
        errors: Sequence[int] = ()
        if self._version >= _API_VERSION_WITH_RECORD_ERRORS:
            if frame[position : position + 6] == _NO_RECORD_ERRORS:
                position += 6
            else:
                errors, position = _record_errors(frame, position)
        return PartitionResponse(topic, partition, error_code, base_offset, append_time, errors), position


def _record_errors(frame: bytes, position: int) -> tuple[list[int], int]:
    """Return the indexes of rejected records, and skip the messages."""
    indexes = []
    (count,) = _INT32.unpack_from(frame, position)
    position += 4
    for _ in range(count):
        indexes.append(_INT32.unpack_from(frame, position)[0])
        position = _skip_text(frame, position + 4)
    return indexes, _skip_text(frame, position)


def _skip_text(frame: bytes, position: int) -> int:
    size: int = _INT16.unpack_from(frame, position)[0]
    return position + 2 + max(0, size)
