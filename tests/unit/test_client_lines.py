"""Batches of lines from files and pipes."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from kafka_http.cli import client_lines
from kafka_http.cli.client_lines import BATCH_BYTES, BATCH_LINES, Line, batches
from kafka_http.cli.client_requests import USAGE, RequestError


@contextmanager
def opened(directory: Path, content: bytes) -> Iterator[BinaryIO]:
    (directory / "file").write_bytes(content)
    with (directory / "file").open("rb", buffering=0) as file:
        yield file


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"\n", [b""]),
        (b"a\n\n\r\nb", [b"a", b"", b"\r", b"b"]),
        (b"x" * 65_535 + b"\n" + b"y" * 65_536 + b"\nz", [b"x" * 65_535, b"y" * 65_536, b"z"]),
    ],
)
def test_each_line_has_its_number_and_its_bytes(tmp_path: Path, content: bytes, lines: list[bytes]) -> None:
    with opened(tmp_path, content) as file:
        found = [line for batch in batches(file) for line in batch]
    assert found == [Line(number, text) for number, text in enumerate(lines, 1)]


def test_batches_are_bounded_in_lines_and_bytes(tmp_path: Path) -> None:
    with opened(tmp_path, b"\n" * (2 * BATCH_LINES + 1)) as file:
        assert [len(batch) for batch in batches(file)] == [BATCH_LINES, BATCH_LINES, 1]
    large = b"x" * (3 * BATCH_BYTES // 4) + b"\n"
    with opened(tmp_path, large * 5) as file:
        assert [len(batch) for batch in batches(file)] == [2, 2, 1]


def test_lines_of_a_pipe_come_before_its_end() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as file, os.fdopen(writing, "wb", buffering=0) as pipe:
        found = batches(file)
        pipe.write(b"one\ntwo\nthr")
        assert next(found) == [Line(1, b"one"), Line(2, b"two")]
        threading.Timer(0.05, pipe.write, [b"ee\n"]).start()
        assert next(found) == [Line(3, b"three")]
        pipe.write(b"end")
        pipe.close()
        assert list(found) == [[Line(4, b"end")]]


def test_line_that_is_too_long_is_an_error_after_the_lines_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_lines, "MAX_LINE_BYTES", 100_000)
    with opened(tmp_path, b"a\n" * 3 + b"x" * 300_000) as file:
        found = batches(file)
        assert len(next(found)) == 3
        with pytest.raises(RequestError, match="Line 4 is longer than 64 MiB") as caught:
            next(found)
    assert caught.value.exit_status == USAGE
