"""Reads the sections of the settings that have settings of their own, such as `[schema_registry]` and `[auth]`."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from kafka_http.config.settings import Setting, settings_of
from kafka_http.config.sources import unknown_setting, wrong_setting


def read_section(holder: type, prefix: str, section: Mapping[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    """Return the checked values of a section, by name.

    `holder` is a class whose annotated fields are the settings, as in `Config`. `prefix` is the dotted name of the
    section. `sources` is `Config.sources`. Raises `ConfigError`.
    """
    known = {each.name: each for each in settings_of(holder)}
    values = {}
    for name, value in section.items():
        full_name = f"{prefix}.{name}"
        source = source_of(full_name, sources)
        if name not in known:
            raise unknown_setting(full_name, name, source, known, f"Available: {', '.join(known)}.")
        values[name] = _convert(known[name]._replace(name=full_name), value, source)
    return values


def source_of(name: str, sources: Mapping[str, str]) -> str:
    """Return the source of a setting in a section, for an error message."""
    return sources.get(name, "given in the program")


def _convert(setting: Setting, value: Any, source: str) -> Any:
    if setting.is_list and isinstance(value, str):
        value = tuple(filter(None, re.split(r"[,\s]+", value)))
    try:
        return msgspec.convert(value, setting.hint)
    except msgspec.ValidationError:
        raise wrong_setting(setting, source) from None
