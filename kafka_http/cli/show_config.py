"""`kafka-http config`: check the settings and show their values and sources."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kafka_http.cli.setting_flags import given_settings
from kafka_http.config import Config
from kafka_http.config.settings import SETTINGS, is_secret, without_passwords
from kafka_http.config.sources import load_config
from kafka_http.errors import Unavailable
from kafka_http.node.callbacks.callback_delivery import signing_secrets
from kafka_http.server import check_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command that are not settings."""
    parser.add_argument("--show-secrets", action="store_true", help="show passwords and tokens")


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each setting. Raises `ConfigError` before that if a setting is wrong."""
    config = load_config(given_settings(arguments))
    check_config(config)
    if arguments.show_secrets and not config.callback_secret:
        config = _with_stored_secret(config)
    rows = [
        (name, _shown(name, value, arguments.show_secrets), config.sources.get(name, "default"))
        for setting in SETTINGS.values()
        for name, value in _values(setting.name, getattr(config, setting.name))
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, source in rows:
        print(f"{name:{widths[0]}}  {value:{widths[1]}}  {source}")
    return 0


def _values(name: str, value: Any) -> list[tuple[str, Any]]:
    """The values of a section one by one, with their dotted names."""
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [each for key, inner in value.items() for each in _values(f"{name}.{key}", inner)]


def _with_stored_secret(config: Config) -> Config:
    """Add the callback secret that the server stores if none is set, so that receivers can be given it."""
    try:
        secrets = tuple(signing_secrets(config))
    except Unavailable as error:
        print(f"kafka-http: {error.message}", file=sys.stderr)
        return config
    return replace(config, callback_secret=secrets, sources={**config.sources, "callback_secret": "kept in data_dir"})


def _shown(name: str, value: Any, show_secrets: bool) -> str:
    if show_secrets:
        return _to_json(value)
    return without_passwords(_to_json(_hide_secrets(name, value)))


def _to_json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _hide_secrets(name: str, value: Any) -> Any:
    """Hide a secret, also in tables in a list."""
    if is_secret(name) and not isinstance(value, bool):
        return "(hidden)"
    if isinstance(value, Mapping):
        return {key: _hide_secrets(f"{name}.{key}", inner) for key, inner in value.items()}
    return [_hide_secrets(name, each) for each in value] if isinstance(value, list | tuple) else value
