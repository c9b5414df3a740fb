"""Topics: legal names, patterns of names, partitions and offset ranges."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

import re2

from kafka_http.broker_protocols import Log
from kafka_http.errors import InvalidRequest, InvalidValue, PartitionNotFound, TopicNotFound
from kafka_http.records import EARLIEST, LATEST, Isolation, PartitionInfo

NEW_PARTITIONS_SECONDS = 3.0
"""How old may be what is known of a topic's partitions for who reads all of them, and goes on from a position that says
where new ones begin."""

_LEGAL_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")

_INTERNAL = frozenset(("__consumer_offsets", "__transaction_state", "__share_group_state"))
"""The brokers' own. That is all of them, whatever the cluster's settings."""


def check_topic_name(topic: str) -> None:
    """Raise `InvalidRequest` for a name that Kafka allows no topic to have."""
    if not _LEGAL_TOPIC.fullmatch(topic) or topic in {".", ".."}:
        raise InvalidRequest(
            "Illegal topic name: a topic has 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-', "
            "and is neither '.' nor '..'.",
            topic=topic[:249],
        )


def check_publishable(topic: str) -> None:
    """Raise `InvalidRequest` for a topic that Kafka lets no client publish to."""
    check_topic_name(topic)
    if topic in _INTERNAL:
        raise InvalidRequest(f"Kafka does not take this topic: {topic} is internal.", topic=topic)


class OffsetRange(NamedTuple):
    """The two ends of a partition's log: its first offset, and the one that the next record will get."""

    earliest: int
    latest: int

    def has(self, offset: int) -> bool:
        """Whether one can read from there: the end counts."""
        return self.earliest <= offset <= self.latest


class Topics:
    """What there is to know about the cluster's topics. Nothing here creates one."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def names(self) -> list[str]:
        return self._log.topics()

    def partitions(self, topic: str, max_age: float = 0) -> list[PartitionInfo]:
        """A topic's partitions in their order, as they were at most `max_age` seconds ago.

        Raises `InvalidRequest`, `TopicNotFound`.
        """
        check_topic_name(topic)
        return self._log.partitions(topic, max_age)

    def id(self, topic: str) -> UUID | None:
        """What tells the topic from a later one of its name. Raises `InvalidRequest`, `TopicNotFound`."""
        check_topic_name(topic)
        return self._log.topic_id(topic)

    def configs(self, topic: str) -> dict[str, str]:
        """A topic's settings, defaults included; none where ACLs hide them. Raises as `partitions` does."""
        check_topic_name(topic)
        return self._log.configs(topic)

    def brokers(self) -> list[int]:
        """The ids of the brokers that are alive."""
        return self._log.brokers()

    def select(self, topic: str, wanted: frozenset[int] | None, max_age: float = 0) -> list[int]:
        """The partitions of a topic, or those wanted. Raises `PartitionNotFound`, naming the first that is missing."""
        there = [each.partition for each in self.partitions(topic, max_age)]
        if wanted is None:
            return there
        for partition in sorted(wanted):
            if partition not in there:
                raise PartitionNotFound(topic, partition, len(there))
        return sorted(wanted)

    def ends(
        self, topic: str, partitions: list[int], isolation: Isolation = "read_uncommitted"
    ) -> dict[int, OffsetRange]:
        """Both ends of each partition; under `read_committed`, latest is the last stable offset."""
        earliest = self._log.offsets(topic, dict.fromkeys(partitions, EARLIEST))
        latest = self._log.offsets(topic, dict.fromkeys(partitions, LATEST), isolation)
        return {partition: OffsetRange(earliest[partition], latest[partition]) for partition in partitions}


_MAX_PATTERN_CHARACTERS = 256

Matches = Callable[[str], bool]


def compile_pattern(pattern: str, field: str = "topic_pattern") -> Matches:
    """Whether a whole name matches, in time linear in its length. Raises `InvalidValue`."""
    if len(pattern) > _MAX_PATTERN_CHARACTERS:
        raise InvalidValue(
            f"{field} has {len(pattern)} characters; the limit is {_MAX_PATTERN_CHARACTERS}.", field=field
        )
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args else "malformed"
        raise InvalidValue(
            f"The {field} cannot be used: {reason}. It takes RE2's syntax, without look-around and back-references.",
            field=field,
        ) from None
    return lambda name: compiled.fullmatch(name) is not None


class TopicMatcher:
    """One look at the cluster's topics, for many subscriptions."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._known = dict.fromkeys(log.topics(), True)
        self._listed = list(self._known)

    def matching(self, matches: Matches) -> list[str]:
        return [name for name in self._listed if matches(name)]

    def existing(self, topics: Sequence[str]) -> list[str]:
        """Those of the topics that are there; internal ones, which are not listed, as well."""
        return [each for each in topics if self._is_there(each)]

    def _is_there(self, topic: str) -> bool:
        if topic not in self._known:
            try:
                self._known[topic] = bool(self._log.partitions(topic))
            except (TopicNotFound, InvalidRequest):
                self._known[topic] = False
        return self._known[topic]
