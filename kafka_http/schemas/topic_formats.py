"""The default formats of topics: the settings section `[topics]`."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from kafka_http.config import ConfigError
from kafka_http.errors import KafkaHttpError
from kafka_http.topics import TopicPredicate, compile_pattern

_CACHED_TOPICS = 4096


class TopicFormat(NamedTuple):
    """The formats of a topic's keys and values if a request names none. None: no default."""

    key: str | None = None
    value: str | None = None


class TopicFormats:
    """Finds the default formats of a topic: those of the first pattern that matches its whole name."""

    def __init__(self, topics: Mapping[str, Any], check: Callable[[str], None]) -> None:
        """`check` raises for the name of a format that is not available. Raises `ConfigError`."""
        formats = [(_compile(pattern), _parse(pattern, value, check)) for pattern, value in topics.items()]

        def find(topic: str) -> TopicFormat:
            return next((format_ for matches, format_ in formats if matches(topic)), TopicFormat())

        self.find = lru_cache(_CACHED_TOPICS)(find)


def _compile(pattern: str) -> TopicPredicate:
    try:
        return compile_pattern(pattern, "pattern")
    except KafkaHttpError as error:
        raise ConfigError(f"topics.{pattern!r} is not a valid setting: {error.message}") from None


def _parse(pattern: str, value: Any, check: Callable[[str], None]) -> TopicFormat:
    if not isinstance(value, Mapping) or not value or not value.keys() <= {"key", "value"}:
        raise ConfigError(f'topics.{pattern!r} must have key, value or both, such as {{value = "avro"}}.')
    for role, name in value.items():
        try:
            check(name)
        except KafkaHttpError as error:
            raise ConfigError(f"topics.{pattern!r}.{role} is not a valid setting: {error.message}") from None
        except TypeError:  # an unhashable value
            raise ConfigError(f"topics.{pattern!r}.{role} must be the name of a format.") from None
    return TopicFormat(**value)
