"""Batches of a stream and their rendered forms, which streams with the same form share."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

from msgspec import Struct, field

from kafka_http.errors import KafkaHttpError
from kafka_http.records import PartitionOffsets, Record, payload_size


class OffsetGap(Struct, frozen=True):
    """Offsets of a partition that were no longer in the log when they were read: `from_` up to, not including, `to`."""

    partition: int
    from_: int = field(name="from")
    to: int


class StreamBatch:
    """Consecutive records of a stream.

    `start` and `next` are the offsets before and after the batch, for all partitions of the stream. `gaps` come before
    `start`. Streams share batches, so a batch must not be changed.
    """

    def __init__(
        self,
        start: PartitionOffsets,
        records: Sequence[Record],
        following: PartitionOffsets,
        gaps: Sequence[OffsetGap] = (),
    ) -> None:
        self.start = start
        self.records = records
        self.next = following
        self.gaps = gaps
        self._rendered: dict[RenderBatch, bytes | KafkaHttpError] = {}

    @cached_property
    def payload_size(self) -> int:
        """The size of all keys and values in bytes."""
        return payload_size(self.records)

    @property
    def rendered_size(self) -> int:
        """The size of all rendered forms in bytes."""
        return sum(len(each) for each in self._rendered.values() if isinstance(each, bytes))

    def prepare(self, render: "RenderBatch") -> None:
        """Render the batch now, so that `rendered` does not block. An error is kept for `rendered`."""
        try:
            self._rendered[render] = render(self)
        except KafkaHttpError as error:
            self._rendered[render] = error

    def rendered(self, render: "RenderBatch") -> bytes:
        """Return the output of `render`, which is called once. Blocks if the format of the records does.

        Raises the error of `render`.
        """
        if render not in self._rendered:
            self.prepare(render)
        rendered = self._rendered[render]
        if isinstance(rendered, KafkaHttpError):
            raise rendered
        return rendered


RenderBatch = Callable[[StreamBatch], bytes]
"""Renders a batch. Must be hashable; functions that are equal have equal output."""


class StreamForm(NamedTuple):
    """The partitions and the rendering of a stream. Streams of the same form share rendered batches."""

    partitions: frozenset[int]
    render: RenderBatch
