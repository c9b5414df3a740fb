"""The parameters that reads and streams share: where to start, which partitions, and how to show messages."""

from typing import NamedTuple, Self

from kafka_http.consumers.consumer_offsets import check_consumer_name
from kafka_http.errors import InvalidRequest
from kafka_http.read.start_positions import FromCommitted, ReadStart
from kafka_http.records import Isolation, OffsetReset
from kafka_http.schemas.formats import AUTO, Formats
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.web.messages.position_syntax import parse_partitions, parse_start
from kafka_http.web.query_parameters import QueryParameters

SHARED_PARAMETERS = ("partition", "limit", "max_bytes", "format", "key_format", "ack", "isolation", "reset")


def requested_formats(formats: Formats, topic: str, query: QueryParameters, accepted: str | None = None) -> TopicFormat:
    """Return the formats to decode keys and values with: those of the request, else of the topic's settings.

    `accepted` is the format in the Accept header. Without a setting for the topic, `auto` stays. Raises
    `UnsupportedFormat`.
    """
    default = formats.topic_format(topic)
    key = _requested_format(query.text("key_format"), default.key)
    value = accepted or _requested_format(query.text("format"), default.value)
    for each in (key, value):
        if each is not None and each != AUTO:
            formats.check(each)
    return TopicFormat(key, value)


def _requested_format(requested: str | None, default: str | None) -> str | None:
    return default or AUTO if requested == AUTO else requested or default


def requested_isolation(query: QueryParameters) -> Isolation:
    """Return the parameter `isolation`. Raises `InvalidRequest`."""
    choices: tuple[Isolation, ...] = ("read_uncommitted", "read_committed")
    return query.choice("isolation", choices, "read_uncommitted")


def acks_previous(query: QueryParameters) -> bool:
    """Return whether `?ack=previous` is given. Raises `InvalidRequest`."""
    return query.choice("ack", ("previous", ""), "") == "previous"


class ReadParameters(NamedTuple):
    """Where to start.

    `partitions` are those of `?partition=`, None for all. `reset` is the end of the log from which to read if the log
    does not have an offset; None makes that an error.
    """

    start: ReadStart
    partitions: frozenset[int] | None = None
    reset: OffsetReset | None = None

    @classmethod
    def from_request(cls, consumer: str, offset: str, query: QueryParameters) -> Self:
        """Parse the path's consumer and offset, `?partition=` and `?reset=`. Raises `InvalidRequest`."""
        check_consumer_name(consumer)
        choices: tuple[OffsetReset, ...] = ("earliest", "latest")
        reset = None if query.text("reset") is None else query.choice("reset", choices, "earliest")
        start = parse_start(offset, reset or "earliest")
        if isinstance(start.rest, FromCommitted):
            reset = start.rest.reset
        partition = query.text("partition")
        if partition is None:
            return cls(start, None, reset)
        if start.partitions or start.rest is None or ":" in offset.partition("@")[0]:
            raise InvalidRequest(
                f"Position {offset[:100]!r} names its partitions. Omit ?partition=.", field="partition"
            )
        return cls(start, parse_partitions(partition), reset)

    @property
    def is_committed(self) -> bool:
        return isinstance(self.start.rest, FromCommitted)

    @property
    def has_all(self) -> bool:
        """Whether all partitions are read, future ones too."""
        return self.start.rest is not None and self.partitions is None
