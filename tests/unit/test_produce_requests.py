"""Produce requests and responses in bytes, checked with kafka-python's own classes."""

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.producer import ProduceRequest, ProduceResponse

from kafka_http.broker.produce_requests import MAX_VERSION, MIN_VERSION, ProduceProtocol, topic_field

VERSIONS = range(MIN_VERSION, MAX_VERSION + 1)
VERSION = st.sampled_from(VERSIONS)
TOPICS = st.dictionaries(
    st.text(min_size=1, max_size=9), st.dictionaries(st.integers(0, 2**31 - 1), st.binary(max_size=50), min_size=1)
)
RECORD_ERRORS = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.none() | st.text(max_size=5)), max_size=3)
RESULT = st.tuples(
    st.integers(0, 2**31 - 1), st.integers(-1, 120), st.integers(-1, 2**63 - 1), st.integers(-1, 2**63 - 1),
    RECORD_ERRORS, st.none() | st.text(max_size=5),
)  # fmt: skip
RESPONSES = st.dictionaries(st.text(max_size=9), st.lists(RESULT, max_size=3), max_size=3)


def decoded(request: bytes, version: int) -> Any:
    """Return a request as kafka-python reads it. It must have the size that it says."""
    assert struct.unpack_from(">i", request)[0] == len(request) - 4
    found = ProduceRequest.decode(request[4:], version=version, header=True)
    assert found.encode(version=version, header=True, framed=True) == request  # nothing is left over
    return found


@given(VERSION, TOPICS, st.integers(0, 2**31 - 1), st.text(max_size=9))
def test_request_is_read_by_the_client_library(
    version: int, topics: dict[str, dict[int, bytes]], number: int, client: str
) -> None:
    protocol = ProduceProtocol(version, client, 7000)
    found = decoded(
        protocol.encode(number, {topic_field(name): list(some.items()) for name, some in topics.items()}), version
    )
    assert (found.header.correlation_id, found.header.client_id) == (number, client)
    assert (found.transactional_id, found.acks, found.timeout_ms) == (None, -1, 7000)
    assert {
        topic.name: {each.index: bytes(each.records) for each in topic.partition_data} for topic in found.topic_data
    } == topics


@given(VERSION, st.text(min_size=1, max_size=9), st.integers(0, 2**31 - 1), st.binary(max_size=50))
def test_request_with_one_batch_has_the_same_bytes(version: int, topic: str, partition: int, records: bytes) -> None:
    protocol, field = ProduceProtocol(version, "client", 7000), topic_field(topic)
    one = protocol.encode_one(5, field, partition, records)
    assert one == protocol.encode(5, {field: [(partition, records)]})


def response(version: int, responses: dict[str, list[Any]], throttle_ms: int = 0, number: int = 5) -> bytes:
    """Return a response as a broker sends it, without its size."""
    topics = [
        ProduceResponse.TopicProduceResponse(
            name=name, partition_responses=[_partition(each) for each in results], version=version
        )
        for name, results in responses.items()
    ]
    answer = ProduceResponse(responses=topics, throttle_time_ms=throttle_ms, version=version)
    return struct.pack(">i", number) + bytes(answer.encode(version=version))


def _partition(result: Sequence[Any]) -> Any:
    index, error, offset, time, errors, message = result
    kind = ProduceResponse.TopicProduceResponse.PartitionProduceResponse
    one = kind.BatchIndexAndErrorMessage
    return kind(
        index=index,
        error_code=error,
        base_offset=offset,
        log_append_time_ms=time,
        log_start_offset=9,
        record_errors=[one(batch_index=each, batch_index_error_message=text) for each, text in errors],
        error_message=message,
    )


@given(VERSION, RESPONSES, st.integers(0, 2**31 - 1))
def test_response_of_the_client_library_is_read(version: int, responses: dict[str, list[Any]], throttle: int) -> None:
    found, seconds = ProduceProtocol(version, "client", 7000).decode(response(version, responses, throttle))
    results = [(topic_field(name), each) for name, some in responses.items() for each in some]
    assert [each[:5] for each in found] == [(topic, *each[:4]) for topic, each in results]
    if version == MAX_VERSION:
        assert [list(each.record_errors) for each in found] == [[index for index, _ in each[4]] for _, each in results]
    assert seconds == throttle / 1000


@pytest.mark.parametrize("version", VERSIONS)
def test_response_cut_at_any_byte_is_malformed(version: int) -> None:
    results = [(0, 0, 1, -1, [], None), (1, 87, -1, -1, [(3, "bad"), (4, None)], "rejected")]
    whole = response(version, {"first": results, "second": results}, 20)
    protocol = ProduceProtocol(version, "client", 7000)
    protocol.decode(whole)
    for size in range(4, len(whole)):
        with pytest.raises((ValueError, struct.error)):
            protocol.decode(whole[:size])


@given(VERSION, st.binary(max_size=80))
def test_corrupt_response_raises_or_is_read(version: int, data: bytes) -> None:
    """Corrupt counts must neither hang nor take much memory."""
    try:
        responses, _ = ProduceProtocol(version, "client", 7000).decode(data)
    except (ValueError, struct.error):
        return
    assert len(responses) <= len(data)


@pytest.mark.parametrize("version", VERSIONS)
def test_flipped_byte_never_hangs(version: int) -> None:
    whole = response(version, {"topic": [(1, 87, -1, -1, [(3, "bad")], "rejected")]}, 20)
    protocol = ProduceProtocol(version, "client", 7000)
    for position in range(4, len(whole)):
        for value in (0x00, 0x7F, 0x80, 0xFF):
            corrupt = bytearray(whole)
            corrupt[position] = value
            try:
                protocol.decode(bytes(corrupt))
            except (ValueError, struct.error):
                continue
