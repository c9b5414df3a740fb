"""What `read` and `tail` share: their flags, ranges of offsets, and printing messages as they arrive."""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

import msgspec

from kafka_http.cli.client_address import add_server_flags
from kafka_http.cli.client_output import MessageFormat, ReceivedMessage, decode_message, note, write
from kafka_http.cli.client_progress import ReadProgress
from kafka_http.cli.client_requests import FAILED, ApiClient, path_of
from kafka_http.cli.client_stream import ResumedStream, StreamEvent

_CONSUMER = "kafka-http-cli"
"""The name in the path of a read without a consumer. The read changes nothing, so that it is in no list of groups."""


class OffsetSpan(NamedTuple):
    """The offsets to read in each partition, both ends included. `last` is None for all that follow."""

    first: int = 0
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> "OffsetSpan | None":
        """Return the range of `5` or `5-10`, None for another position."""
        found = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", text, re.ASCII)
        return found and cls(int(found[1]), int(found[2]) if found[2] else None)

    def __contains__(self, offset: object) -> bool:
        return isinstance(offset, int) and self.first <= offset and (self.last is None or offset <= self.last)


class StreamPart(NamedTuple):
    """A stream to open: where it starts, and how many messages it has at most, 0 for no limit."""

    position: str
    partition: str | None = None
    limit: int = 0


def add_reading_flags(parser: argparse.ArgumentParser, offset_help: str) -> None:
    """Add the flags of `read` and `tail`."""
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument("--offset", type=_offset, metavar="POSITION", help=offset_help)
    parser.add_argument("--partition", metavar="N,…", help="only these partitions (default: all)")
    parser.add_argument(
        "--consumer", metavar="NAME", help="read as this consumer, by default after what it has acknowledged"
    )
    parser.add_argument("--limit", type=_limit, metavar="N", default=0, help="end after N messages")
    parser.add_argument(
        "--format",
        type=MessageFormat,
        metavar="FORMAT",
        default=r"%v\n",
        help=r"what to print for a message, such as '%%p:%%o %%k %%v\n': topic %%t, partition %%p, offset %%o, "
        r"key %%k, value %%v, time in milliseconds %%T, headers %%h (default: '%%v\n')",
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json: print JSON lines")
    parser.add_argument(
        "--decode", metavar="FORMAT", help="decode values: json, text, avro, … (default: text prints the stored bytes)"
    )
    add_server_flags(parser)
    parser.set_defaults(usage_error=parser.error)


def _offset(text: str) -> str:
    span = OffsetSpan.parse(text)
    if not text or (span and span.last is not None and span.last < span.first):
        raise argparse.ArgumentTypeError(f"{text!r} is not a position such as 5, 5-10, earliest, latest, @TIME or -10")
    return text


def _limit(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of messages from 1")
    return int(text)


def _gap_text(gap: Mapping[str, int]) -> str:
    return f"Partition {gap['partition']}: Kafka deleted the offsets {gap['from']} to {gap['to'] - 1} before the read."


class TopicReading:
    """One run of `read` or `tail`: opens streams and prints their messages."""

    def __init__(self, client: ApiClient, arguments: argparse.Namespace, default: str) -> None:
        """`default` is the position without --offset and without --consumer."""
        self._client = client
        self._arguments = arguments
        self._topic: str = arguments.topic
        self._offset: str = arguments.offset or ("committed" if arguments.consumer else default)
        given = OffsetSpan.parse(self._offset)
        self._is_range, self._range = given is not None, given or OffsetSpan()
        self._remaining: int | None = arguments.limit or None
        self._has_errors = False

    def run(self, query: Mapping[str, str], progress: ReadProgress | None = None, *, endless: bool) -> int:
        """Print all messages. Return the exit status. Raises `RequestError`.

        `query` is for all streams. An `endless` stream also has the partitions that the topic gets later.
        """
        path = path_of("messages", self._topic, self._arguments.consumer or _CONSUMER)
        for part in self._parts(endless=endless):
            stream = ResumedStream(
                self._client, path + path_of(part.position), {**query, **self._query(part)}, endless=endless
            )
            with closing(stream.batches()) as batches:
                for events in batches:
                    self._print(events)
                    if progress:
                        progress.update(events[-1].id)
                    if self._remaining == 0:
                        return self._exit_status
        return self._exit_status

    @property
    def _exit_status(self) -> int:
        return FAILED if self._has_errors else 0

    def _query(self, part: StreamPart) -> dict[str, str]:
        """The parameters of a part. The bytes of a message come in base64, unless they are shown in a format."""
        stored = "binary" if self._arguments.output == "text" else ""
        limits = [each for each in (part.limit, self._remaining) if each]
        parameters = {
            "format": self._arguments.decode or stored,
            "key_format": stored,
            "partition": part.partition or "",
            "limit": str(min(limits)) if limits else "",
        }
        return {name: value for name, value in parameters.items() if value}

    def _parts(self, *, endless: bool) -> Iterator[StreamPart]:
        """Return the streams to read one after the other."""
        wanted = self._arguments.partition
        starts = self._starts() if self._is_range else {}
        if not starts:  # the server checks the position; of a range beyond the log it says which offsets there are
            yield StreamPart(str(self._range.first) if self._is_range else self._offset, wanted)
        elif self._range.last is None:
            rest = ",*:earliest" if endless and wanted is None else ""
            yield StreamPart(",".join(f"{partition}:{start}" for partition, start in starts.items()) + rest)
        else:
            for partition, start in starts.items():
                yield StreamPart(f"{partition}:{start}", limit=self._range.last - start + 1)

    def _starts(self) -> dict[int, int]:
        """Return where each partition that has offsets of the range is read from."""
        first, last = self._range
        topic = self._client.call("GET", path_of("messages", self._topic), "partitions")
        partitions = {str(each["partition"]): each for each in topic["partitions"]}
        wanted = set((self._arguments.partition or ",".join(partitions)).split(","))
        starts = {}
        for each in partitions.values() if wanted <= set(partitions) else ():
            start = max(first, each["earliest"])
            is_there = first <= each["latest"] if last is None else start <= min(last, each["latest"] - 1)
            if is_there and str(each["partition"]) in wanted:
                starts[each["partition"]] = start
                if start > first:
                    note(f"Partition {each['partition']} has no offsets before {start}.")
        return starts

    def _print(self, events: Sequence[StreamEvent]) -> None:
        """Print those messages that are in the range."""
        for event in events:
            if event.kind == "gap":
                note(_gap_text(msgspec.json.decode(event.data)))
        lines = [(decode_message(event.data), event.data) for event in events if event.data and not event.kind]
        lines = [line for line in lines if line[0].offset in self._range][: self._remaining]
        write(self._shown(message, data) for message, data in lines)
        if self._remaining is not None:
            self._remaining -= len(lines)

    def _shown(self, message: ReceivedMessage, data: bytes) -> bytes:
        if self._arguments.output == "json":
            return data + b"\n"
        if message.error is not None:
            self._has_errors = True
            note(f"{self._topic} {message.partition}:{message.offset}: {message.error.get('message')}")
        shown: bytes = self._arguments.format(self._topic, message)
        return shown
