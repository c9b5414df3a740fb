"""Which topics a subscription means, by name or by pattern."""

from collections.abc import Callable, Sequence

import re2

from kafka_http.core.broker import Log
from kafka_http.errors import InvalidRequest, InvalidValue, TopicNotFound

_LONGEST = 256

Matches = Callable[[str], bool]


def compile_pattern(pattern: str, field: str = "topic_pattern") -> Matches:
    """Whether a whole name matches, in time linear in its length. Raises `InvalidValue`."""
    if len(pattern) > _LONGEST:
        raise InvalidValue(
            f"The {field} is {len(pattern)} characters long; it may have {_LONGEST}.", field=field
        )
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args else "malformed"
        raise InvalidValue(
            f"The {field} cannot be used: {reason}. It takes RE2's syntax, without look-around and "
            "back-references.",
            field=field,
        ) from None
    return lambda name: compiled.fullmatch(name) is not None


class TopicNames:
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
