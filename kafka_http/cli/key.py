"""`kafka-http key create NAME`: make an API key, and its entry for the file of keys."""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from kafka_http.config import ConfigError
from kafka_http.security.api_keys import new_key
from kafka_http.security.principal import is_valid_name

_MAX_DAYS = 36500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is created, its name, and what the key narrows."""
    parser.add_argument("action", choices=("create",), metavar="create", help="make a key")
    parser.add_argument("name", metavar="NAME", help="the principal of the key")
    parser.add_argument("--days", type=_days, metavar="N", help="the key expires after N days (default: never)")
    parser.add_argument("--publish-only", action="store_true", help="the key may only publish")
    parser.add_argument(
        "--topic",
        action="append",
        metavar="PATTERN",
        help="the key is only for topics that match, such as orders.*; can be repeated",
    )


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_DAYS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {_MAX_DAYS}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Print the entry to stdout and the key to stderr, so that the entry can be appended to the file of keys."""
    if not is_valid_name(arguments.name):
        raise ConfigError(
            f"The name of a key must not be empty, anonymous, or over 255 characters, and must not have control "
            f"characters or spaces at its ends, got {arguments.name[:40]!r}."
        )
    key = new_key()
    print(f"The key of {arguments.name}. It is shown only once:\n{key}\n", file=sys.stderr)
    if sys.stdout.isatty():  # else the entry is appended to a file, and this line would announce nothing
        print("The entry for the file that auth.keys names:", file=sys.stderr)
    sys.stderr.flush()
    print("\n".join(_entry(arguments, key)))
    return 0


def _entry(arguments: argparse.Namespace, key: str) -> Iterator[str]:
    name = arguments.name
    yield f"[{name if re.fullmatch('[A-Za-z0-9_-]+', name) else _quoted(name)}]"
    yield f'sha256 = "{sha256(key.encode()).hexdigest()}"'
    if arguments.days:
        end = datetime.now(UTC) + timedelta(days=arguments.days)
        yield f"expires = {end:%Y-%m-%dT%H:%M:%SZ}"
    if arguments.publish_only:
        yield "publish_only = true"
    if arguments.topic:
        yield f"topics = [{', '.join(map(_quoted, arguments.topic))}]"


def _quoted(text: str) -> str:
    """Return a basic string of TOML, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
