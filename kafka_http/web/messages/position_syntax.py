"""The syntax of `<offset>` in `/messages/<topic>/<consumer>/<offset>`, and of the positions in responses."""

import re
from datetime import UTC, datetime, timedelta

from kafka_http.errors import InvalidRequest
from kafka_http.read.start_positions import (
    FromCommitted,
    FromLast,
    FromOffset,
    FromOffsetSpec,
    ReadStart,
    StartPosition,
)
from kafka_http.records import OffsetReset, PartitionOffsets, Positions
from kafka_http.web.query_parameters import MAX_INT32, MAX_INT64

GRAMMAR = (
    "42 | earliest | latest | committed | -10 (the last ten) | @2026-11-21T10:00:00Z or @1790000000000 (a time) | "
    "0:42,3:17 (partition:offset; the offset may be earliest or latest, * means the partitions not listed)"
)
ALL = "*:earliest"
"""In a position: all partitions that it does not list, future ones too, from their start."""
_EPOCH = datetime.fromtimestamp(0, UTC)
_PAIR = re.compile(r"(?:([0-9]{1,10})|\*):(?:([0-9]{1,19})|earliest|latest)")
_ENDS = {"earliest": FromOffsetSpec("earliest"), "latest": FromOffsetSpec("latest")}


def _malformed(text: str) -> InvalidRequest:
    return InvalidRequest(f"Position must be one of {GRAMMAR}, got {text[:100]!r}.", field="offset")


def parse_start(text: str, reset: OffsetReset = "earliest") -> ReadStart:
    """Parse `<offset>`. `reset` applies to `committed`. Raises `InvalidRequest`, which shows the syntax."""
    if text == "committed":
        return ReadStart(FromCommitted(reset))
    if text in _ENDS:
        return ReadStart(_ENDS[text])
    if text.startswith("@"):
        return ReadStart(FromOffsetSpec(_parse_time(text)))
    if _is_number(text):
        return ReadStart(FromOffset(int(text)))
    if text.startswith("-") and _is_number(text[1:]):
        return ReadStart(FromLast(int(text[1:])))
    return _parse_pairs(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= MAX_INT64


def _parse_pairs(text: str) -> ReadStart:
    rest: StartPosition | None = None
    partitions: dict[int, FromOffset | FromOffsetSpec] = {}
    for pair in text.split(","):
        match = _PAIR.fullmatch(pair)
        if match is None:
            raise _malformed(text)
        number, offset = match.groups()
        start = _ENDS[pair.partition(":")[2]] if offset is None else FromOffset(int(offset))
        if number is None:
            if rest is not None or offset is not None:
                raise _malformed(text)
            rest = start
        else:
            partition = int(number)
            if partition in partitions or partition > MAX_INT32 or (offset and int(offset) > MAX_INT64):
                raise _malformed(text)
            partitions[partition] = start
    return ReadStart(rest, partitions)


def _parse_time(text: str) -> int:
    """Parse `@<milliseconds>` or `@<ISO 8601>` to milliseconds. A time without a zone is UTC."""
    if _is_number(text[1:]):
        return int(text[1:])
    try:
        time = datetime.fromisoformat(text[1:])
    except ValueError:
        raise _malformed(text) from None
    return milliseconds(time)


def milliseconds(time: datetime) -> int:
    """Return a time as Kafka's timestamp. A time without a zone is UTC."""
    zoned = time if time.tzinfo else time.replace(tzinfo=UTC)
    # Kafka accepts times from 1970 on. An earlier one is before all records, as 0 is.
    return max(0, -((_EPOCH - zoned) // timedelta(milliseconds=1)))


def parse_partitions(text: str) -> frozenset[int]:
    """Parse the value of `?partition=`: `0` or `0,3`. Raises `InvalidRequest`."""
    numbers = text.split(",")
    if not all(_is_number(number) and int(number) <= MAX_INT32 for number in numbers):
        raise InvalidRequest(f"partition must be numbers such as 0 or 0,3, got {text[:100]!r}.", field="partition")
    return frozenset(map(int, numbers))


def position_text(positions: PartitionOffsets, *, has_all: bool = False) -> str:
    """Return a position such as `0:42,3:17`.

    With `has_all` it is `0:42,3:17,*:earliest`: partitions that the topic gets later are read from their start.
    """
    pairs = [f"{partition}:{offset}" for partition, offset in sorted(positions.items())]
    return ",".join([*pairs, ALL] if has_all else pairs)


def page_position(positions: Positions, *, has_all: bool = False) -> str:
    """Return the position text of the positions of one topic."""
    return position_text({tp.partition: offset for tp, offset in positions.items()}, has_all=has_all)
