"""Where settings come from: defaults < TOML file < environment (`KAFKA_HTTP_WORKERS=4`, `__` nests) < flags.

What is unknown or ill-typed is a `ConfigError` that names the setting and its source.
"""

import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kafka_http.config import Config, ConfigError
from kafka_http.config.settings import SETTINGS, Setting, is_secret, without_passwords
from kafka_http.config.spelling import nearest

ENVIRONMENT_PREFIX = "KAFKA_HTTP_"
_OF_KUBERNETES = re.compile(r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$")
"""A service called kafka-http puts such variables into every pod of its namespace; they are not settings."""


def load_config(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """The settings of this process.

    `flags` and `defaults` map a setting to its value (a section to a mapping); a text is read as the environment's
    are. The flag `config` or KAFKA_HTTP_CONFIG names the TOML file. Raises `ConfigError`.
    """
    flags = dict(flags or {})
    environ = os.environ if environ is None else environ
    file = flags.pop("config", None) or environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    given = [*_from_mapping(defaults or {}, "default", text=True)]
    if file:
        given += _from_file(Path(file))
    given += _from_environment(environ)
    given += _from_mapping(flags, "command line", text=True)
    return _put_together(given)


class _Given(NamedTuple):
    """A value and where it came from. `text`: to be read as TOML, else as it stands."""

    path: tuple[str, ...]
    value: Any
    source: str
    text: bool

    @property
    def name(self) -> str:
        return ".".join(self.path)


def _from_file(file: Path) -> Iterator[_Given]:
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"The settings file {file} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"The settings file {file} is not TOML: {error}.") from None
    return _from_mapping(tables, str(file), text=False)


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Given]:
    for variable, value in environ.items():
        rest = variable.removeprefix(ENVIRONMENT_PREFIX)
        if rest in (variable, "CONFIG") or _is_of_kubernetes(rest, value):
            continue
        path = tuple(rest.lower().split("__"))
        yield from _from_value(path, value, f"environment {variable}", text=True)


def _is_of_kubernetes(rest: str, value: str) -> bool:
    return _OF_KUBERNETES.match(rest) is not None or (rest == "PORT" and "://" in value)


def _from_mapping(values: Mapping[str, Any], source: str, *, text: bool) -> Iterator[_Given]:
    for name, value in values.items():
        yield from _from_value((name,), value, source, text=text)


def _from_value(path: tuple[str, ...], value: Any, source: str, *, text: bool) -> Iterator[_Given]:
    """A section's values one by one, so that each source may give some of them."""
    if path[0] in SETTINGS and SETTINGS[path[0]].is_section:
        if len(path) == 1 and text and isinstance(value, str):
            value = _as_toml(value, value)
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from _from_value((*path, str(key)), inner, source, text=text)
            return
    yield _Given(path, value, source, text and isinstance(value, str))


def _put_together(given: list[_Given]) -> Config:
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for each in given:
        _check_name(each)
        if SETTINGS[each.path[0]].is_section:
            _put_in(values.setdefault(each.path[0], {}), each)
        else:
            values[each.path[0]] = _converted(each)
        sources[each.name] = each.source
    return Config(**values, sources=sources)


def _check_name(given: _Given) -> None:
    name, *inner = given.path
    setting = SETTINGS.get(name)
    if setting is None or (inner and not setting.is_section):
        otherwise = "Run `kafka-http config` for a list of all settings."
        raise unknown_setting(given.name, name, given.source, SETTINGS, otherwise)
    if len(inner) < setting.depth or not all(inner):
        raise _wrong(given)


def _put_in(section: dict[str, Any], given: _Given) -> None:
    for key in given.path[1:-1]:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise _wrong(given)
    value = given.value
    if given.text:
        value = _as_toml(value, value)
        if is_secret(given.name) and not isinstance(value, str):
            value = given.value  # a password of digits is still a text
    section[given.path[-1]] = value


def _converted(given: _Given) -> Any:
    setting, value = SETTINGS[given.path[0]], given.value
    readings = [(_as_toml(value, value), True), (value, False)] if given.text else [(value, True)]
    for reading, strict in readings:
        listed = _as_list(reading) if setting.is_list else reading
        with suppress(msgspec.ValidationError):
            return msgspec.convert(listed, setting.hint, strict=strict, dec_hook=_decode)
    raise _wrong(given)


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        return [each.strip() for each in value.split(",")]
    return value if isinstance(value, list | tuple) else [value]


def _decode(kind: type, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError
    return kind(value)


def _as_toml(text: str, otherwise: Any) -> Any:
    """A text's value as TOML, where it is exactly one value that a setting can have."""
    try:
        read = tomllib.loads(f"value = {text}")
    except ValueError:
        return otherwise
    value = read.pop("value")
    return value if not read and isinstance(value, str | int | float | list | dict) else otherwise


def _wrong(given: _Given) -> ConfigError:
    setting = SETTINGS[given.path[0]]
    is_hidden = setting.is_section or is_secret(setting.name) or "@" in str(given.value)  # a URL may have a password
    shown = "" if is_hidden else f", got {without_passwords(repr(given.value))}"
    return wrong_setting(setting._replace(name=given.name), given.source, shown)


def unknown_setting(name: str, key: str, source: str, known: Collection[str], otherwise: str) -> ConfigError:
    """Return the error for a setting that does not exist, with the known name that is most like `key`.

    `otherwise` is the hint if none is similar.
    """
    near = nearest(key, known)
    hint = f"Did you mean {near}?" if near else otherwise
    return ConfigError(f"The setting {name} ({source}) does not exist. {hint}")


def wrong_setting(setting: Setting, source: str, shown: str = "") -> ConfigError:
    """Return the error for a setting whose value is not accepted. `shown` is the end of the sentence: the value."""
    return ConfigError(f"The setting {setting.name} ({source}) must be {setting.takes}{shown}.")
