"""The command `kafka-http` with its commands; `python -m kafka_http` is the same.

Each module of a command has `add_arguments(parser)` and `run(arguments)`, which returns the exit status. Only the
module of the command that is called is imported: `demo` and `bench` need packages of the extra `demo`.
"""

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from kafka_http.cli.setting_flags import add_setting_flags
from kafka_http.config import ConfigError
from kafka_http.config.spelling import within_edits
from kafka_http.errors import how_to_install
from kafka_http.logs import logs_json
from kafka_http.server import CannotServe

log = logging.getLogger(__name__)

_COMMANDS = {
    "serve": ("kafka_http.cli.serve", "serve HTTP in front of the brokers"),
    "demo": ("kafka_http.cli.demo", "start an Apache Kafka and serve HTTP in front of it"),
    "bench": ("kafka_http.cli.bench", "measure the throughput of a server, and compare results"),
    "access": ("kafka_http.cli.access", "show what a principal may do, and which rule says so"),
    "config": ("kafka_http.cli.show_config", "check the settings as `serve` does; show each, its value and its source"),
    "key": ("kafka_http.cli.key", "make an API key: kafka-http key create NAME"),
}
"""The module of each command, and its description."""

_OTHER_NAMES = {"brokers": "bootstrap-servers", "host": "bind", "port": "bind"}
"""Flags of other servers, and the flags that do the same here. `demo` has --port itself."""

_WITH_EXTRA = ("demo", "bench")
_WITHOUT_SETTINGS = ("key",)
_EPILOG = (
    "A setting can also be given in the environment (KAFKA_HTTP_WORKERS=4) or in the TOML file; flags take precedence."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Return the exit status: 2 for wrong usage or settings, 1 for other errors."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    try:
        parser = _parser(name)
        parsed, unknown = parser.parse_known_args(arguments)
        if unknown:
            parser.error(_unknown_argument(name, unknown[0], getattr(parsed, "usage", "")))
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # such as `kafka-http bench … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return 128 + int(signal.SIGPIPE)
    except ConfigError as error:
        return _fail(str(error), 2)
    except CannotServe as error:
        return _fail(str(error), 1)
    except ModuleNotFoundError as error:
        if name not in _WITH_EXTRA or error.name is None or error.name.startswith("kafka_http"):
            raise
        return _fail(f"The command {name} needs the package {error.name}. {how_to_install('demo')}", 1)
    except KeyboardInterrupt:
        return 130
    return status


def _unknown_argument(command: str, argument: str, usage: str) -> str:
    """The error for an argument that a command does not have. `usage` is the command's, which has all its flags."""
    if not usage:
        return f"expected a command before {argument!r}: {', '.join(_COMMANDS)}."
    flag = argument.partition("=")[0]
    if not flag.startswith("-"):
        return f"{command} does not take the argument {argument!r}. `kafka-http {command} --help` shows what it takes."
    known = [each.removeprefix("--") for each in re.findall(r"--[a-z-]+", usage)]
    name = flag.lstrip("-")
    near = _OTHER_NAMES.get(name) or within_edits(name, known, 2)
    suggestion = f" Did you mean --{near}?" if near else ""
    return f"{command} has no flag {flag}.{suggestion} `kafka-http {command} --help` shows all flags."


def _fail(message: str, status: int) -> int:
    if logs_json():
        log.critical("%s", message)
    else:
        print(f"kafka-http: {message}", file=sys.stderr)
    return status


def _parser(called: str) -> argparse.ArgumentParser:
    """The parser of all commands. Only the command `called` has arguments."""
    parser = argparse.ArgumentParser("kafka-http", description="Apache Kafka behind HTTP.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kafka-http {version('kafka_http')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar=" | ".join(_COMMANDS))
    for name, (module_name, about) in _COMMANDS.items():
        epilog = None if name in _WITHOUT_SETTINGS else _EPILOG
        command = commands.add_parser(name, help=about, description=about, allow_abbrev=False, epilog=epilog)
        if name == called:  # the others may need packages that are not installed
            module = import_module(module_name)
            module.add_arguments(command)
            if name not in _WITHOUT_SETTINGS:
                add_setting_flags(command)
            command.set_defaults(run=module.run, usage=command.format_usage())
    return parser
