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
from collections.abc import Collection, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from kafka_http.cli.client_address import SERVER_EPILOG
from kafka_http.cli.client_requests import RequestError
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
    "publish": ("kafka_http.cli.publish", "publish the lines of a file or of stdin, or a whole file"),
    "read": ("kafka_http.cli.read", "print the messages that a topic has"),
    "tail": ("kafka_http.cli.tail", "print messages as they are published, until Ctrl-C"),
    "ack": ("kafka_http.cli.ack", "acknowledge messages for a consumer"),
    "lag": ("kafka_http.cli.lag", "show how far a consumer is behind the end of a topic"),
    "work": ("kafka_http.cli.work", "run a command for each message of a queue"),
    "topics": ("kafka_http.cli.topics", "list topics, show one, or create one"),
    "completion": ("kafka_http.cli.completion", "print the script that completes commands and flags: bash or zsh"),
}
"""The module of each command, and its description."""

_OTHER_NAMES = {"brokers": "bootstrap-servers", "host": "bind", "port": "bind"}
"""Flags of other servers, and the flags that do the same here. `demo` has --port itself."""

_MAX_USAGE_LINES = 10
"""Longest usage that an error prints."""

_WITH_EXTRA = ("demo", "bench")
_CLIENT_COMMANDS = ("publish", "read", "tail", "ack", "lag", "work", "topics")
_WITHOUT_SETTINGS = ("key", "completion", *_CLIENT_COMMANDS)
_SETTINGS_EPILOG = (
    "A setting can also be given in the environment (KAFKA_HTTP_WORKERS=4) or in the TOML file; flags take precedence."
)


class _CommandParser(argparse.ArgumentParser):
    """The parser of a command. An optional argument may follow flags: `publish orders --whole FILE`."""

    _is_inner = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._is_inner:
            return super().parse_known_args(args, namespace)
        self._is_inner = True
        try:
            return self.parse_known_intermixed_args(args, namespace)  # calls `parse_known_args` in Python 3.11
        finally:
            self._is_inner = False

    def error(self, message: str) -> NoReturn:
        """Print the error and exit. The usage of a command with all settings would fill the screen."""
        usage = self.format_usage()
        if usage.count("\n") > _MAX_USAGE_LINES:
            usage = f"usage: {self.prog} [FLAG]… (`{self.prog} --help` shows all flags)\n"
        self.exit(2, f"{usage}{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Return the exit status: 2 for wrong usage or settings, else 1 or that of a `RequestError`."""
    _open_closed_output()
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    try:
        parser = _parser((name,))
        parsed, unknown = parser.parse_known_args(arguments)
        if unknown:
            parser.error(_unknown_argument(name, unknown[0], getattr(parsed, "usage", "")))
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # such as `kafka-http bench … | head`
        _discard_output()
        return 128 + int(signal.SIGPIPE)
    except (ConfigError, CannotServe, RequestError) as error:
        return _fail(str(error), _exit_status(error))
    except ModuleNotFoundError as error:
        if name not in _WITH_EXTRA or error.name is None or error.name.startswith("kafka_http"):
            raise
        return _fail(f"The command {name} needs the package {error.name}. {how_to_install('demo')}", 1)
    except OSError as error:  # such as a full disk; requests have errors of their own
        if name not in _CLIENT_COMMANDS:
            raise
        _discard_output()
        return _fail(f"The input cannot be read or the output cannot be written: {error.strerror}.", 1)
    except KeyboardInterrupt:
        return 130
    return status


def _open_closed_output() -> None:
    """Discard what is written to an output that the shell closed (`>&-`), for which Python has None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  for the life of the process


def _discard_output() -> None:
    """Discard what is left to write, because the interpreter flushes once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def _exit_status(error: Exception) -> int:
    if isinstance(error, RequestError):
        return error.exit_status
    return 2 if isinstance(error, ConfigError) else 1


def _fail(message: str, status: int) -> int:
    if logs_json():
        log.critical("%s", message)
    else:
        print(f"kafka-http: {message}", file=sys.stderr)
    return status


def full_parser() -> argparse.ArgumentParser:
    """Return the parser with the arguments of all commands whose packages are installed."""
    return _parser([name for name, (module_name, _) in _COMMANDS.items() if _can_import(module_name)])


def _can_import(module_name: str) -> bool:
    try:
        import_module(module_name)
    except ModuleNotFoundError:  # the extra demo is not installed
        return False
    return True


def _parser(called: Collection[str]) -> argparse.ArgumentParser:
    """Return the parser of all commands. Only the commands `called` have arguments."""
    parser = argparse.ArgumentParser("kafka-http", description="Apache Kafka behind HTTP.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kafka-http {version('kafka_http')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_CommandParser)
    for name, (module_name, about) in _COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about, allow_abbrev=False, epilog=_epilog(name))
        if name in called:  # the others may need packages that are not installed
            module = import_module(module_name)
            module.add_arguments(command)
            if name not in _WITHOUT_SETTINGS:
                add_setting_flags(command)
            command.set_defaults(run=module.run, usage=command.format_usage())
    return parser


def _epilog(command: str) -> str | None:
    if command in _CLIENT_COMMANDS:
        return SERVER_EPILOG
    return None if command in _WITHOUT_SETTINGS else _SETTINGS_EPILOG
