"""Which messages a read or a stream is to bring, and how they are to be shown: what the two have in common."""

from typing import NamedTuple

from kafka_http.consumers.consumer_offsets import check_consumer_name
from kafka_http.errors import InvalidRequest
from kafka_http.read.start_positions import FromCommitted, ReadStart
from kafka_http.records import Isolation, OffsetReset
from kafka_http.schemas.formats import Formats
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.web.messages.position_syntax import parse_partitions, parse_start
from kafka_http.web.query_parameters import QueryParameters

SELECTION = ("partition", "limit", "max_bytes", "format", "key_format", "ack", "isolation", "reset")


def wanted_formats(formats: Formats, topic: str, query: QueryParameters, accepted: str | None = None) -> TopicFormat:
    """By what to read keys and values: as the request says (`accepted` by its Accept), else as the topic's settings do.

    Raises `UnsupportedFormat`.
    """
    default = formats.topic_format(topic)
    wanted = TopicFormat(query.text("key_format") or default.key, accepted or query.text("format") or default.value)
    for each in filter(None, wanted):
        formats.check(each)
    return wanted


def wanted_isolation(query: QueryParameters) -> Isolation:
    choices: tuple[Isolation, ...] = ("read_uncommitted", "read_committed")
    return query.choice("isolation", choices, "read_uncommitted")


def acks_previous(query: QueryParameters) -> bool:
    return query.choice("ack", ("previous", ""), "") == "previous"


class ReadParameters(NamedTuple):
    """Where to start, and the partitions that `?partition=` narrows it to. `reset` names the end of the log that stands
    for an offset which the log does not have (None: that is an error)."""

    start: ReadStart
    wanted: frozenset[int] | None = None
    reset: OffsetReset | None = None

    @property
    def is_committed(self) -> bool:
        return isinstance(self.start.rest, FromCommitted)

    @property
    def has_all(self) -> bool:
        """Whether it has all partitions, those that the topic gets later as well."""
        return self.start.rest is not None and self.wanted is None


def select(consumer: str, offset: str, query: QueryParameters) -> ReadParameters:
    """What `<offset>`, `?partition=` and `?reset=` say. Raises `InvalidRequest`."""
    check_consumer_name(consumer)
    choices: tuple[OffsetReset, ...] = ("earliest", "latest")
    reset = None if query.text("reset") is None else query.choice("reset", choices, "earliest")
    start = parse_start(offset, reset or "earliest")
    if isinstance(start.rest, FromCommitted):
        reset = start.rest.reset
    partition = query.text("partition")
    if partition is None:
        return ReadParameters(start, None, reset)
    if start.partitions or start.rest is None or ":" in offset.partition("@")[0]:
        raise InvalidRequest(
            f"The position {offset[:100]!r} names its partitions: leave ?partition= away.", field="partition"
        )
    return ReadParameters(start, parse_partitions(partition), reset)
