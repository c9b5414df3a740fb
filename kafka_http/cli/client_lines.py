"""The input of `publish`: a file or stdin as batches of lines."""

import os
import select
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from kafka_http.cli.client_requests import RequestError

_READ_BYTES = 1 << 16
BATCH_LINES = 5000
BATCH_BYTES = 1 << 20
"""What one request has at most; a single line may be longer."""
MAX_LINE_BYTES = 64 << 20


class Line(NamedTuple):
    """A line without its LF. Numbers start with 1; 0 is a whole file."""

    number: int
    text: bytes


def batches(file: BinaryIO) -> Iterator[list[Line]]:
    """Yield the lines of a file opened without a buffer. Lines of a pipe are not held back until a batch is full.

    Nothing is read while the caller handles a batch. Raises `RequestError` for a line over 64 MiB.
    """
    lines: list[Line] = []
    size = 0
    for line in _lines(file):
        if line is not None:
            lines.append(line)
            size += len(line.text)
        if lines and (line is None or len(lines) >= BATCH_LINES or size >= BATCH_BYTES):
            yield lines
            lines, size = [], 0
    if lines:
        yield lines


def _lines(file: BinaryIO) -> Iterator[Line | None]:
    """Yield lines, and None when no more input is there at the moment."""
    rest = bytearray()
    number = 0
    while data := _read(file):
        searched = len(rest)
        rest += data
        if rest.find(b"\n", searched) >= 0:
            *complete, last = bytes(rest).split(b"\n")
            for text in complete:
                number += 1
                yield Line(number, text)
            rest = bytearray(last)
        if len(rest) > MAX_LINE_BYTES:
            yield None  # the lines before it can be published
            raise RequestError(f"Line {number + 1} is longer than 64 MiB.", 413)
        if not _has_input(file):
            yield None
    if rest:
        yield Line(number + 1, bytes(rest))


def _read(file: BinaryIO) -> bytes:
    return os.read(file.fileno(), _READ_BYTES)


def _has_input(file: BinaryIO) -> bool:
    return bool(select.select([file], [], [], 0)[0])
