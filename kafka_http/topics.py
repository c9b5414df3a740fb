"""Topics: valid names, name patterns, partitions and offset ranges."""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import inf
from typing import NamedTuple
from uuid import UUID

import re2

from kafka_http.administration import TopicConfig
from kafka_http.broker_protocols import Log
from kafka_http.errors import InvalidRequest, InvalidValue, PartitionNotFound, TopicNotFound
from kafka_http.records import EARLIEST, LATEST, Isolation, PartitionInfo

NEW_PARTITIONS_SECONDS = 3.0
"""The maximum age of the partition list for readers of all partitions, and so the time to find new partitions."""

_LEGAL_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")

_INTERNAL = frozenset(("__consumer_offsets", "__transaction_state", "__share_group_state"))
"""Topics of the brokers. Their names do not depend on the cluster's settings."""


def is_legal_name(topic: str) -> bool:
    """Whether Kafka allows a topic name."""
    return _LEGAL_TOPIC.fullmatch(topic) is not None and topic not in {".", ".."}


def check_topic_name(topic: str) -> None:
    """Raise `InvalidRequest` if Kafka does not allow a topic name."""
    if not is_legal_name(topic):
        raise InvalidRequest(
            "Illegal topic name: expected 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-', "
            "but not '.' or '..'.",
            topic=topic[:249],
        )


@lru_cache(4096)
def check_publishable(topic: str) -> None:
    """Raise `InvalidRequest` if clients cannot publish to a topic."""
    check_topic_name(topic)
    if topic in _INTERNAL:
        raise InvalidRequest(f"Topic {topic} is internal to Kafka. Clients cannot publish to it.", topic=topic)


def check_changeable(topic: str) -> None:
    """Raise `InvalidRequest` if clients cannot create, change or delete a topic."""
    check_topic_name(topic)
    if topic in _INTERNAL:
        raise InvalidRequest(f"Topic {topic} is internal to Kafka. Clients cannot change it.", topic=topic)


class OffsetRange(NamedTuple):
    """The ends of a partition's log: its first offset, and the offset that the next record will get."""

    earliest: int
    latest: int

    def contains(self, offset: int) -> bool:
        """Whether the offset can be read from. The end of the log can."""
        return self.earliest <= offset <= self.latest


_MAX_FOUND = 1000


class Topics:
    """Metadata of the cluster's topics. Any thread may call. No method creates a topic."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._found_at: dict[str, float] = {}

    def names(self) -> list[str]:
        """Return the names of all topics, sorted, without internal topics."""
        return self._log.topics()

    def partitions(self, topic: str, max_age: float = 0) -> list[PartitionInfo]:
        """Return a topic's partitions by number, from metadata that is at most `max_age` seconds old.

        Raises `InvalidRequest`, `TopicNotFound`.
        """
        check_topic_name(topic)
        return self._log.partitions(topic, max_age)

    def check_exist(self, topics: Iterable[str]) -> None:
        """Check by recent metadata that topics exist. Raises `InvalidRequest`, `TopicNotFound`."""
        for each in topics:
            self.partitions(each, NEW_PARTITIONS_SECONDS)
            if len(self._found_at) >= _MAX_FOUND:
                self._found_at.clear()
            self._found_at[each] = time.monotonic()

    def were_found(self, topics: Iterable[str]) -> bool:
        """Whether `check_exist` has found these topics a moment ago. Does not block."""
        since = time.monotonic() - NEW_PARTITIONS_SECONDS
        return all(self._found_at.get(each, -inf) > since for each in topics)

    def id(self, topic: str) -> UUID | None:
        """Return Kafka's id of the topic. Raises `InvalidRequest`, `TopicNotFound`."""
        check_topic_name(topic)
        return self._log.topic_id(topic)

    def configs(self, topic: str) -> dict[str, str]:
        """Return a topic's settings, including defaults. Returns none if ACLs hide them.

        Raises `InvalidRequest`, `TopicNotFound`.
        """
        check_topic_name(topic)
        return self._log.configs(topic)

    def own_config(self, topic: str) -> TopicConfig | None:
        """Return the settings that are set on the topic itself. Returns None if ACLs hide them.

        Raises `InvalidRequest`, `TopicNotFound`.
        """
        check_topic_name(topic)
        return self._log.own_config(topic)

    def brokers(self) -> list[int]:
        """Return the ids of the live brokers."""
        return self._log.brokers()

    def select(self, topic: str, wanted: frozenset[int] | None, max_age: float = 0) -> list[int]:
        """Return the wanted partitions of a topic in order, or all of them (None).

        Raises `PartitionNotFound` for the first partition that does not exist.
        """
        existing = [each.partition for each in self.partitions(topic, max_age)]
        if wanted is None:
            return existing
        for partition in sorted(wanted):
            if partition not in existing:
                raise PartitionNotFound(topic, partition, len(existing))
        return sorted(wanted)

    def offset_ranges(
        self, topic: str, partitions: list[int], isolation: Isolation = "read_uncommitted"
    ) -> dict[int, OffsetRange]:
        """Return the offset range of each partition. For `read_committed` it ends at the last stable offset."""
        earliest = self._log.offsets(topic, dict.fromkeys(partitions, EARLIEST))
        latest = self._log.offsets(topic, dict.fromkeys(partitions, LATEST), isolation)
        return {partition: OffsetRange(earliest[partition], latest[partition]) for partition in partitions}


_MAX_PATTERN_CHARACTERS = 256

TopicPredicate = Callable[[str], bool]


def compile_pattern(pattern: str, field: str = "topic_pattern") -> TopicPredicate:
    """Return a function that tells whether a whole topic name matches a regular expression.

    It takes time linear in the length of the name (RE2). `field` is the name of the pattern in errors. Raises
    `InvalidValue`.
    """
    if len(pattern) > _MAX_PATTERN_CHARACTERS:
        raise InvalidValue(
            f"{field} must have at most {_MAX_PATTERN_CHARACTERS} characters, got {len(pattern)}.", field=field
        )
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args else "malformed"
        raise InvalidValue(
            f"{field} is not a valid regular expression: {reason}. "
            "It must be in RE2 syntax, which has no look-around and no back-references.",
            field=field,
        ) from None
    return lambda name: compiled.fullmatch(name) is not None


class TopicMatcher:
    """The cluster's topics at one time, to resolve many subscriptions. One thread uses it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._known = dict.fromkeys(log.topics(), True)
        self._listed = list(self._known)

    def matching(self, matches: TopicPredicate) -> list[str]:
        """Return the names of the topics that match."""
        return [name for name in self._listed if matches(name)]

    def existing(self, topics: Sequence[str]) -> list[str]:
        """Return the topics that exist. Internal topics, which `Log.topics` does not list, are found as well."""
        return [each for each in topics if self._exists(each)]

    def _exists(self, topic: str) -> bool:
        if topic not in self._known:
            try:
                self._known[topic] = bool(self._log.partitions(topic))
            except (TopicNotFound, InvalidRequest):
                self._known[topic] = False
        return self._known[topic]
