"""Publishing of batches of lines, each exactly once, with a report of what is in Kafka."""

import re
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec

from kafka_http.backoff import Backoff
from kafka_http.cli.client_lines import Line
from kafka_http.cli.client_output import note
from kafka_http.cli.client_requests import USAGE, ApiClient, RequestError, path_of

LineResult = Mapping[str, Any]
"""The place of a message in Kafka, or its error, as the response has it."""

_UNKNOWN = 504
_ALWAYS_RETRIED = (409, 429)
_PATIENCE_SECONDS = 150.0
"""The server knows the result of a publish with an Idempotency-Key after at most 120 s."""


class StoredAs(NamedTuple):
    """Bytes as the JSON of a record has them: a text and its format."""

    text: str
    format: str

    @classmethod
    def from_bytes(cls, data: bytes) -> "StoredAs":
        """Return text, or base64 if the bytes are not UTF-8."""
        try:
            return cls(data.decode(), "text")
        except UnicodeDecodeError:
            return cls(b64encode(data).decode(), "binary")


class LineRecords:
    """Makes a record from each line: its bytes are the value, and all have the same key and headers."""

    def __init__(self, key: bytes | None, headers: Sequence[tuple[str, bytes]]) -> None:
        self._common: dict[str, Any] = {}
        if key is not None:
            stored = StoredAs.from_bytes(key)
            self._common |= {"key": stored.text, "key_format": stored.format}
        if headers:
            self._common["headers"] = [(name, _header_value(value)) for name, value in headers]

    def __call__(self, line: Line) -> bytes:
        """Return the JSON of a record, on one line."""
        stored = StoredAs.from_bytes(line.text)
        return msgspec.json.encode({"value": stored.text, "format": stored.format, **self._common})


def _header_value(value: bytes) -> str | dict[str, str]:
    stored = StoredAs.from_bytes(value)
    return stored.text if stored.format == "text" else {"base64": stored.text}


class PublishReport:
    """Which lines are in Kafka."""

    def __init__(self) -> None:
        self.written: list[int] = []
        """Ranges of lines, as pairs of a first and a last one in one list."""
        self.unknown: list[int] = []
        self.count = 0

    def add(self, line: int) -> None:
        """Note a line that is in Kafka."""
        self.count += 1
        _extend(self.written, line)

    def add_unknown(self, line: int) -> None:
        """Note a line that may be in Kafka."""
        _extend(self.unknown, line)

    def __str__(self) -> str:
        if not self.written and not self.unknown:
            return "Nothing is published."
        unknown = f" May be published: {_ranges(self.unknown)}." if self.unknown else ""
        return f"Published: {_ranges(self.written)}.{unknown} All other lines are not published."


def _extend(ranges: list[int], line: int) -> None:
    if ranges and ranges[-1] == line - 1:
        ranges[-1] = line
    else:
        ranges += (line, line)


def _ranges(ranges: Sequence[int]) -> str:
    pairs = zip(ranges[::2], ranges[1::2], strict=True)
    shown = [f"{first}" if first == last else f"{first}-{last}" for first, last in pairs]
    plural = "" if len(shown) == 1 and ranges[0] == ranges[1] else "s"
    return f"line{plural} {', '.join(shown)}" if shown else "nothing"


class BatchPublisher:
    """Publishes batches one after the other; the caller ends at the first failure. Not safe for threads.

    A request without a result is sent again with the same Idempotency-Key, so that nothing is written twice.
    """

    def __init__(self, client: ApiClient, topic: str) -> None:
        self.report = PublishReport()
        self._client = client
        self._path = path_of("messages", topic)

    def publish(self, lines: Sequence[Line], records: Sequence[bytes]) -> Iterator[LineResult]:
        """Publish the record of each line, and yield the results of lines that have one.

        Raises `RequestError` for the first line that failed, after the results. `report` has the lines in Kafka.
        """
        try:
            results = self._send(lines, records) if lines else []
        except RequestError as error:
            of_single = 0 if len(lines) == 1 and error.exit_status == USAGE else None
            index = error.details.get("record", of_single)
            if not isinstance(index, int) or not 0 <= index < len(lines):
                raise
            # A request with an invalid record wrote nothing.
            yield from self.publish(lines[:index], records[:index])
            raise _at_line(error, lines[index]) from None
        failed = self._note(lines, results)
        for line, result in zip(lines, results, strict=True):
            yield {"line": line.number, **result}
        if failed is not None:
            raise failed

    def _note(self, lines: Sequence[Line], results: Sequence[LineResult]) -> RequestError | None:
        """Note which lines are in Kafka. Return the first error."""
        failed = None
        for line, result in zip(lines, results, strict=True):
            error = result.get("error")
            if error is None:
                self.report.add(line.number)
                continue
            if error["code"] == _UNKNOWN:
                self.report.add_unknown(line.number)
            failed = failed or _at_line(RequestError(error["message"], code=error["code"]), line)
        return failed

    def _send(self, lines: Sequence[Line], records: Sequence[bytes]) -> Sequence[LineResult]:
        """Send a request until its result is known. Raises `RequestError`."""
        key, body = str(uuid4()), b"\n".join(records)
        attempts = _Attempts(retries_all=self.report.count > 0)
        try:
            while True:
                try:
                    return self._request(key, body, len(lines))
                except RequestError as error:
                    if error.records and (error.status != _UNKNOWN or error.is_replayed):
                        return error.records
                    attempts.wait_after(error)
        except BaseException as error:  # Ctrl-C, too
            if attempts.may_be_written or isinstance(error, KeyboardInterrupt):
                for line in lines:
                    self.report.add_unknown(line.number)
            raise

    def _request(self, key: str, body: bytes, count: int) -> Sequence[LineResult]:
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": f'"{key}"'}
        answer = self._client.call(
            *("POST", self._path, "records"), query={"lines": "records"}, body=body, headers=headers
        )
        results: Sequence[LineResult] = answer["records"]
        if len(results) != count:
            raise RequestError(f"{self._client.url} answered with {len(results)} results for {count} lines.", 200)
        return results


class _Attempts:
    """The attempts of one request."""

    def __init__(self, *, retries_all: bool) -> None:
        """`retries_all`: wait also for a server that is away, which is a wrong URL if nothing was published before."""
        self.may_be_written = False
        self._retries_all = retries_all
        self._backoff = Backoff(0.2, 5.0)
        self._end: float | None = None

    def wait_after(self, error: RequestError) -> None:
        """Wait until the next attempt. Raises the error if there is none."""
        self.may_be_written = error.is_unknown or (self.may_be_written and error.may_pass)
        if error.is_replayed or not error.may_pass:
            raise error
        if not (self._retries_all or self.may_be_written or error.status in _ALWAYS_RETRIED):
            raise error
        if self._end is None:
            self._end = time.monotonic() + _PATIENCE_SECONDS
            note(f"{error} Retrying.")
        if time.monotonic() > self._end:
            raise error
        time.sleep(max(self._backoff.next(), error.retry_after or 0.0))


_PLACE = re.compile(r"records\[\d+\]( \(line \d+\))?")
"""The place of a record in a request, which the user does not know."""


def _at_line(error: RequestError, line: Line) -> RequestError:
    message = _PLACE.sub("the record", str(error))
    where = f"Line {line.number}: " if line.number else ""
    return RequestError(f"{where}{message}", error.status, error.code)
