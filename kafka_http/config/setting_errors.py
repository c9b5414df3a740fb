"""The errors for settings that are unknown or have a wrong value, for all sections."""

from collections.abc import Collection, Mapping

from kafka_http.config.settings import ConfigError
from kafka_http.config.spelling import nearest


def setting_and_source(name: str, sources: Mapping[str, str]) -> str:
    """The subject of an error: `The setting producer.linger (settings.toml)`. `sources` are those of `Config`."""
    return f"The setting {name} ({sources.get(name, 'set by the program')})"


def unknown_setting(
    name: str,
    key: str,
    known: Collection[str],
    sources: Mapping[str, str],
    *,
    problem: str = "does not exist",
    otherwise: str = "",
) -> ConfigError:
    """The error for a setting whose `key`, a part of its dotted name, is not one of `known`.

    It suggests the nearest of them. If none is near, it ends with the sentence `otherwise`.
    """
    suggestion = nearest(key, known)
    hint = f"Did you mean {suggestion}?" if suggestion else otherwise
    return ConfigError(f"{setting_and_source(name, sources)} {problem}. {hint}".rstrip())


def invalid_setting(name: str, sources: Mapping[str, str], expected: str, value: str = "") -> ConfigError:
    """The error for a value that is not `expected`. A `value` that is not empty is shown."""
    got = f", got {value}" if value else ""
    return ConfigError(f"{setting_and_source(name, sources)} must be {expected}{got}.")
