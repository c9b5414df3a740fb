"""Builds record batches in the format that a broker stores."""

import struct
from collections.abc import Sequence

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CONTROL, TRANSACTIONAL = 0x20, 0x10


def batch(
    base: int,
    values: Sequence[bytes | None],
    *,
    deltas: Sequence[int] | None = None,
    last: int | None = None,
    codec: int = NONE,
    producer: int = -1,
    attributes: int = 0,
    timestamp: int = 5,
) -> bytes:
    """Return an encoded batch. `deltas` are the offset deltas of the records, `last` is the last offset delta."""
    builder = DefaultRecordBatchBuilder(2, codec, int(attributes & TRANSACTIONAL > 0), producer, 0, 0, 1 << 30)
    for delta, value in zip(deltas or range(len(values)), values, strict=True):
        builder.append(delta, timestamp=timestamp, key=b"k", value=value, headers=[("h", None)])
    data = builder.build()
    struct.pack_into(">q", data, 0, base)
    struct.pack_into(">h", data, 21, struct.unpack_from(">h", data, 21)[0] | attributes)
    if last is not None:
        struct.pack_into(">i", data, 23, last)
    struct.pack_into(">I", data, 17, calc_crc32c(bytes(data[21:])))
    return bytes(data)


def marker(base: int, producer: int, *, commit: bool) -> bytes:
    """Return the control batch that ends a transaction."""
    return batch(base, [struct.pack(">hi", 0, int(commit))], producer=producer, attributes=CONTROL | TRANSACTIONAL)
