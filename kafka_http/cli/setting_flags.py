"""The flags for settings, which all commands have."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from kafka_http.config import Config
from kafka_http.config.settings import RENAMED_SETTINGS, SETTINGS, Setting

_METAVARS = {"bind": "HOST:PORT", "bootstrap_servers": "HOST:PORT,…", "data_dir": "DIR"}
_TYPE_METAVARS = {int: "N", float: "SECONDS"}
_EXAMPLES = {
    "schema_registry": "url=http://registry:8081",
    "serializers": "msgpack.strict=false",
    "topics": "orders.value=avro",
    "auth": "keys=keys.toml",
    "access": "web-1.publish=orders.*",
    "limits": "web-1.requests=100",
}
"""An assignment in each section that does not take kafka-python's settings."""


def add_setting_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each setting, and one for the settings file. Old names work but are not in the help."""
    group = parser.add_argument_group("settings")
    group.add_argument("--config", metavar="FILE", help="TOML file of settings (environment: KAFKA_HTTP_CONFIG)")
    for setting in SETTINGS.values():
        _add_flag(group, setting.name, setting, _help_text(setting))
    for old, new in RENAMED_SETTINGS.items():
        _add_flag(group, old, SETTINGS[new], argparse.SUPPRESS)


def _add_flag(group: argparse._ArgumentGroup, name: str, setting: Setting, help_text: str) -> None:
    options: dict[str, Any]
    if setting.is_section:
        example = _EXAMPLES.get(name, "security_protocol=SSL")
        options = {"metavar": "KEY=VALUE", "action": "append", "type": _assignment_like(example)}
    elif setting.type is bool:
        options = {"action": argparse.BooleanOptionalAction}
    else:
        options = {"metavar": _METAVARS.get(setting.name, _TYPE_METAVARS.get(setting.type, "TEXT"))}
    group.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=help_text, **options)


def _help_text(setting: Setting) -> str:
    default = getattr(Config(), setting.name)
    if setting.is_list:
        default = ",".join(default)
    has_default = not setting.is_section and setting.type is not bool and default not in (None, "")
    return (setting.help + (f" (default: {default})" if has_default else "")).replace("%", "%%")


def _assignment_like(example: str) -> Callable[[str], tuple[str, str]]:
    def parse(text: str) -> tuple[str, str]:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as {example}")
        return key, value

    return parse


def given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings among the parsed arguments, as `load_config` takes them."""
    names = {"config", *SETTINGS, *RENAMED_SETTINGS}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return {
        name: _nested(value) if name in SETTINGS and SETTINGS[name].is_section else value
        for name, value in given.items()
    }


def _nested(assignments: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Turn the assignment `a.b=1` into a mapping in a mapping."""
    section: dict[str, Any] = {}
    for dotted_name, value in assignments:
        *tables, key = dotted_name.split(".")
        table = section
        for name in tables:
            table = table.setdefault(name, {})
        table[key] = value
    return section
