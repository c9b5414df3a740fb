"""The formats of a topic's keys and values where a request does not name them: the section `[topics]`."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from kafka_http.config import ConfigError
from kafka_http.errors import KafkaHttpError
from kafka_http.topics import TopicPredicate, compile_pattern

_REMEMBERED = 4096


class TopicFormat(NamedTuple):
    """None where nothing is said."""

    key: str | None = None
    value: str | None = None


class TopicFormats:
    """The first pattern that matches a topic's whole name counts, in the order of the settings."""

    def __init__(self, topics: Mapping[str, Any], check: Callable[[str], None]) -> None:
        """`check` raises for a name that no format has. Raises `ConfigError`."""
        listed = [(_matches(pattern), _format(pattern, said, check)) for pattern, said in topics.items()]

        def find(topic: str) -> TopicFormat:
            return next((format_ for matches, format_ in listed if matches(topic)), TopicFormat())

        self.of = lru_cache(_REMEMBERED)(find)


def _matches(pattern: str) -> TopicPredicate:
    try:
        return compile_pattern(pattern, "pattern")
    except KafkaHttpError as error:
        raise ConfigError(f"The setting topics.{pattern!r}: {error.message}") from None


def _format(pattern: str, said: Any, check: Callable[[str], None]) -> TopicFormat:
    if not isinstance(said, Mapping) or not said or not said.keys() <= {"key", "value"}:
        raise ConfigError(f'The setting topics.{pattern!r} takes key, value or both, such as {{value = "avro"}}.')
    for role, name in said.items():
        try:
            check(name)
        except KafkaHttpError as error:
            raise ConfigError(f"The setting topics.{pattern!r}.{role}: {error.message}") from None
        except TypeError:  # no text
            raise ConfigError(f"The setting topics.{pattern!r}.{role} takes the name of a format.") from None
    return TopicFormat(**said)
