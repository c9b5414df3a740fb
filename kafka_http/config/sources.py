"""Sources of settings: defaults < TOML file < environment < flags.

A variable is named like `KAFKA_HTTP_WORKERS`. `__` separates the names of a section and its key.

An unknown setting or a wrong value is a `ConfigError` that names the setting and its source.
"""

import os
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kafka_http.config import Config, ConfigError
from kafka_http.config.settings import RENAMED_SETTINGS, SETTINGS, Setting, is_secret, without_passwords
from kafka_http.config.spelling import nearest

ENVIRONMENT_PREFIX = "KAFKA_HTTP_"
_NOT_SETTINGS = ("CONFIG", "URL", "API_KEY")
"""Variables with the prefix that are no settings. The client commands, such as `kafka-http read`, use the last two."""
_KUBERNETES = re.compile(r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$")
"""Kubernetes sets such variables in every pod if there is a service named kafka-http. They are not settings."""


def load_config(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Load the settings of this process.

    `flags` and `defaults` map a setting to its value (a section to a mapping). Values may be texts, as in the
    environment. `environ` defaults to the environment of the process. The flag `config` or KAFKA_HTTP_CONFIG names the
    TOML file. Raises `ConfigError`.
    """
    given_flags, flags = flags, dict(flags or {})
    environ = dict(os.environ if environ is None else environ)
    file = flags.pop("config", None) or environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    values = [*_from_mapping(defaults or {}, "default", parse_text=True)]
    if file:
        values += _without_two_names(_from_file(Path(file)))
    values += _without_two_names(_from_environment(environ))
    values += _without_two_names(_from_mapping(flags, "command line", parse_text=True))
    return _combine(values).loaded_with(partial(load_config, given_flags, environ, defaults))


class _SourceValue(NamedTuple):
    """A value and its source. `path` are the names that lead to it. `is_text` says that it may be TOML."""

    path: tuple[str, ...]
    value: Any
    source: str
    is_text: bool

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def is_empty_table(self) -> bool:
        """Whether this is an empty table of a section of tables, or the empty section itself."""
        return len(self.path) <= 2 and isinstance(self.value, Mapping) and not self.value

    @property
    def setting_name(self) -> str:
        return RENAMED_SETTINGS.get(self.path[0], self.path[0])

    @property
    def setting(self) -> Setting:
        return SETTINGS[self.setting_name]


def _from_file(file: Path) -> Iterator[_SourceValue]:
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"The settings file {file} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"The settings file {file} is not TOML: {error}.") from None
    return _from_mapping(tables, str(file), parse_text=False)


def _from_environment(environ: Mapping[str, str]) -> Iterator[_SourceValue]:
    for variable, value in environ.items():
        rest = variable.removeprefix(ENVIRONMENT_PREFIX)
        if rest == variable or rest in _NOT_SETTINGS or _is_from_kubernetes(rest, value):
            continue
        path = tuple(rest.lower().split("__"))
        yield from _flatten(path, value, f"environment {variable}", parse_text=True)


def _is_from_kubernetes(rest: str, value: str) -> bool:
    return _KUBERNETES.match(rest) is not None or (rest == "PORT" and "://" in value)


def _from_mapping(values: Mapping[str, Any], source: str, *, parse_text: bool) -> Iterator[_SourceValue]:
    for name, value in values.items():
        yield from _flatten((name,), value, source, parse_text=parse_text)


def _flatten(path: tuple[str, ...], value: Any, source: str, *, parse_text: bool) -> Iterator[_SourceValue]:
    """Yield the values of a section one by one, so that each source can set some of them.

    An empty table of a section of tables is a value, too: `[access."alice"]` without rights is a rule.
    """
    leaf = _SourceValue(path, value, source, parse_text and isinstance(value, str))
    if leaf.setting_name in SETTINGS and leaf.setting.is_section:
        if len(path) == 1 and leaf.is_text:
            value = _parse_toml(value)
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from _flatten((*path, str(key)), inner, source, parse_text=parse_text)
            if value or leaf.setting.depth < 2:
                return
            leaf = leaf._replace(value={}, is_text=False)
    yield leaf


def _combine(given: list[_SourceValue]) -> Config:
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for each in given:
        _check_name(each)
        if each.setting.is_section:
            section = values.setdefault(each.setting_name, {})
            if not each.is_empty_table:
                _insert(section, each)
            elif len(each.path) > 1:
                section.setdefault(each.path[1], {})
        else:
            values[each.setting_name] = _convert(each)
        sources[each.name] = sources[".".join((each.setting_name, *each.path[1:]))] = each.source
    return Config(**values, sources=sources)


def _check_name(given: _SourceValue) -> None:
    inner = given.path[1:]
    if given.setting_name not in SETTINGS or (inner and not given.setting.is_section):
        otherwise = "Run `kafka-http config` for a list of all settings."
        raise unknown_setting(given.name, given.path[0], given.source, SETTINGS, otherwise)
    if (len(inner) < given.setting.depth and not given.is_empty_table) or not all(inner):
        raise _invalid(given)


def _without_two_names(given: Iterable[_SourceValue]) -> Iterator[_SourceValue]:
    """Yield the values of one source. Reject a setting that it gives under its old and its new name."""
    seen: dict[str, _SourceValue] = {}
    for each in given:
        first = seen.setdefault(each.setting_name, each)
        if first.path[0] != each.path[0]:
            raise ConfigError(
                f"The settings {first.path[0]} ({first.source}) and {each.path[0]} ({each.source}) are the same "
                f"setting. Keep only {first.setting_name}."
            )
        yield each


def _insert(section: dict[str, Any], given: _SourceValue) -> None:
    for key in given.path[1:-1]:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise _invalid(given)
    value = _parse_toml(given.value) if given.is_text else given.value
    if is_secret(given.name) and given.is_text and not isinstance(value, str):
        value = given.value  # a password of digits is a text
    section[given.path[-1]] = value


def _convert(given: _SourceValue) -> Any:
    """The value as the type of its setting. A text is read as TOML, else as it is."""
    setting, value = given.setting, given.value
    # A text from the environment may be TOML, but `10.0.0.0/8` and `1.2.3.4` are not.
    candidates = [(_parse_toml(value), True), (value, False)] if given.is_text else [(value, True)]
    for candidate, strict in candidates:
        listed = _as_list(candidate) if setting.is_list else candidate
        with suppress(msgspec.ValidationError):
            return msgspec.convert(listed, setting.hint, strict=strict, dec_hook=_decode)
    raise _invalid(given)


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        return [each.strip() for each in value.split(",")]
    return value if isinstance(value, list | tuple) else [value]


def _decode(type_: type, value: Any) -> Any:
    """Convert to one of our types that msgspec does not know."""
    if isinstance(value, type_):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError
    return type_(value)


def _parse_toml(text: str) -> Any:
    """The TOML value of a text, if it is exactly one value that a setting can have; else the text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except ValueError:
        return text
    value = parsed.pop("value")
    return value if not parsed and isinstance(value, str | int | float | list | dict) else text


def _invalid(given: _SourceValue) -> ConfigError:
    setting = given.setting
    is_hidden = setting.is_section or is_secret(setting.name) or "@" in str(given.value)  # a URL may have a password
    shown = "" if is_hidden else without_passwords(repr(given.value))
    return wrong_setting(setting._replace(name=given.name), given.source, f", got {shown}" if shown else "")


def unknown_setting(name: str, key: str, source: str, known: Collection[str], otherwise: str) -> ConfigError:
    """Return the error for a setting that does not exist. It suggests the known name that is most like `key`.

    `otherwise` is the last sentence if none is similar.
    """
    suggestion = nearest(key, known)
    hint = f"Did you mean {suggestion}?" if suggestion else otherwise
    return ConfigError(f"The setting {name} ({source}) does not exist. {hint}")


def wrong_setting(setting: Setting, source: str, shown: str = "") -> ConfigError:
    """Return the error for a value that a setting does not accept. `shown` is the end of the sentence: the value."""
    return ConfigError(f"The setting {setting.name} ({source}) must be {setting.expected}{shown}.")
