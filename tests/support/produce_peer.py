"""The broker's end of a produce connection, played by a test."""

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from kafka.protocol.producer import ProduceRequest, ProduceResponse

_TOPIC = ProduceResponse.TopicProduceResponse


class Request(NamedTuple):
    """A request as the broker reads it. `batches` has the bytes by topic and partition."""

    number: int
    batches: dict[tuple[str, int], bytes]


class ProducePeer:
    """Reads requests and sends responses. Its socket does not block."""

    def __init__(self, sock: Any, version: int = 8) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.version = version
        self.requests: list[Request] = []
        self._received = b""

    def read(self) -> list[Request]:
        """Read what has arrived, and return all requests so far."""
        try:
            while data := self.sock.recv(1 << 20):
                self._received += data
        except (BlockingIOError, OSError):
            pass
        while len(self._received) >= 4:
            end = 4 + struct.unpack_from(">i", self._received)[0]
            if len(self._received) < end:
                break
            self.requests.append(self._parsed(self._received[4:end]))
            self._received = self._received[end:]
        return self.requests

    def _parsed(self, frame: bytes) -> Request:
        request = ProduceRequest.decode(frame, version=self.version, header=True)
        batches = {
            (topic.name, each.index): bytes(each.records)
            for topic in request.topic_data
            for each in topic.partition_data
        }
        return Request(request.header.correlation_id, batches)

    def response(
        self, number: int, results: Mapping[tuple[str, int], tuple[int, int]], *, throttle_ms: int = 0
    ) -> bytes:
        """Return a response: (error code, offset) by topic and partition."""
        topics = [
            _TOPIC(name=topic, version=self.version, partition_responses=[_result(partition, *each)])
            for (topic, partition), each in results.items()
        ]
        answer = ProduceResponse(responses=topics, throttle_time_ms=throttle_ms, version=self.version)
        body = struct.pack(">i", number) + bytes(answer.encode(version=self.version))
        return struct.pack(">i", len(body)) + body

    def answer(self, request: Request, *, error: int = 0, offset: int = 7, throttle_ms: int = 0) -> None:
        """Send the same result for all partitions of a request."""
        results = dict.fromkeys(request.batches, (error, offset))
        self.sock.sendall(self.response(request.number, results, throttle_ms=throttle_ms))


def _result(partition: int, error: int, offset: int) -> Any:
    return _TOPIC.PartitionProduceResponse(
        index=partition, error_code=error, base_offset=offset, log_append_time_ms=-1, log_start_offset=0,
        record_errors=[], error_message=None,
    )  # fmt: skip
