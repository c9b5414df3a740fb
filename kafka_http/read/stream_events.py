"""What streams are sent, piece by piece; those that send the same share it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec import Struct, field

from kafka_http.errors import KafkaHttpError
from kafka_http.records import PartitionOffsets, Record


class OffsetGap(Struct, frozen=True):
    """Offsets of a partition that the log had no more when they were to be read: from `from_` on, before `to`."""

    partition: int
    from_: int = field(name="from")
    to: int


class StreamBatch:
    """Records of a stream that follow each other: where it was before, and where it is behind them.

    `start` and `next` map each partition of the stream to an offset; `gaps` are before `start`. Not to be changed:
    streams share it.
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

    @property
    def rendered_size(self) -> int:
        """Bytes of all forms that it was rendered in."""
        return sum(len(each) for each in self._rendered.values() if isinstance(each, bytes))

    def prepare(self, render: "RenderBatch") -> None:
        """RenderBatch it now, for those who ask later. What goes wrong is for them as well."""
        try:
            self._rendered[render] = render(self)
        except KafkaHttpError as error:
            self._rendered[render] = error

    def rendered(self, render: "RenderBatch") -> bytes:
        """As `render` gives it, which is asked once. May wait where the format of the records does."""
        if render not in self._rendered:
            self.prepare(render)
        rendered = self._rendered[render]
        if isinstance(rendered, KafkaHttpError):
            raise rendered
        return rendered


RenderBatch = Callable[[StreamBatch], bytes]
"""Makes of a piece what is sent. Must be hashable; those that are equal give the same."""


class View(NamedTuple):
    """What streams have in common that send the same: the partitions, and the form."""

    partitions: frozenset[int]
    render: RenderBatch
