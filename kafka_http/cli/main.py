"""The command: `kafka-http serve`, `demo`, `bench`, `config`; `python -m kafka_http` is the same."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from kafka_http.config import Config, ConfigError
from kafka_http.config.settings import SETTINGS, Setting, is_secret, without_passwords
from kafka_http.config.sources import load_config
from kafka_http.errors import Unavailable, how_to_install
from kafka_http.node.callbacks.callback_delivery import signing_secrets
from kafka_http.server import CannotServe, check_config, run

_DEMO_DEFAULTS = {"auto_create_topics": True, "access_log": True, "console": True}
_EPILOG = "A setting can also be given in the environment (KAFKA_HTTP_WORKERS=4) or in the TOML file; flags win."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 2 for what the user has to write differently, 1 for what went wrong else."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    extra = _WITH_THE_EXTRA.get(arguments[0]) if arguments else None
    try:
        given = _parser(extra).parse_args(arguments)
        status: int = given.command(given)
    except ConfigError as error:
        return _fail(str(error), 2)
    except CannotServe as error:
        return _fail(str(error), 1)
    except ModuleNotFoundError as error:
        if extra is None or error.name is None or error.name.startswith("kafka_http"):
            raise
        return _fail(f"The command {arguments[0]} needs the package {error.name}. {how_to_install('demo')}", 1)
    except KeyboardInterrupt:
        return 130
    return status


def _fail(sentence: str, status: int) -> int:
    print(f"kafka-http: {sentence}", file=sys.stderr)
    return status


def _parser(extra: Callable[[argparse.ArgumentParser], None] | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("kafka-http", description="Apache Kafka behind HTTP.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kafka-http {version('kafka_http')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="serve | demo | bench | config")
    serve = _command(commands, "serve", "serve HTTP in front of the brokers")
    serve.set_defaults(command=_serve)
    demo = _command(commands, "demo", "start an Apache Kafka of its own and serve in front of it")
    bench = _command(commands, "bench", "measure how much gets through, beside what the machine can do without HTTP")
    if extra is not None:
        extra(demo if extra is _add_demo else bench)
    config = _command(commands, "config", "show each setting, its value and its source, and check them as `serve` does")
    config.add_argument("--show-secrets", action="store_true", help="show passwords and tokens as they are")
    config.set_defaults(command=_show_config)
    return parser


def _command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, about: str) -> Any:
    command = commands.add_parser(name, help=about, description=about, allow_abbrev=False, epilog=_EPILOG)
    _add_settings(command)
    return command


def _add_demo(parser: argparse.ArgumentParser) -> None:
    from kafka_http.demo import command

    def run_demo(given: argparse.Namespace) -> int:
        return command.run(given, load_config(_flags(given), defaults=_DEMO_DEFAULTS))

    command.add_arguments(parser)
    parser.set_defaults(command=run_demo)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    from kafka_http.bench import command

    command.add_arguments(parser)
    parser.set_defaults(command=lambda given: command.run(given, lambda: load_config(_flags(given))))


_WITH_THE_EXTRA = {"demo": _add_demo, "bench": _add_bench}
"""The commands whose own arguments are read only when they are called: they need what the extra `demo` brings."""


def _serve(given: argparse.Namespace) -> int:
    run(load_config(_flags(given)))
    return 0


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings")
    group.add_argument("--config", metavar="FILE", help="TOML file of settings (environment: KAFKA_HTTP_CONFIG)")
    default = Config()
    for setting in SETTINGS.values():
        help_text = setting.help.replace("%", "%%")
        flag = f"--{setting.name.replace('_', '-')}"
        if setting.is_section:
            group.add_argument(
                flag, metavar="KEY=VALUE", action="append", type=_assignment, default=argparse.SUPPRESS, help=help_text
            )
        elif setting.kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help_text)
        else:
            shown = _flag_text(setting, getattr(default, setting.name))
            group.add_argument(flag, metavar=_metavar(setting), default=argparse.SUPPRESS, help=help_text + shown)


def _metavar(setting: Setting) -> str:
    return {"bind": "HOST:PORT", "bootstrap_servers": "HOST:PORT,…", "data_dir": "DIR"}.get(
        setting.name, {int: "N", float: "SECONDS"}.get(setting.kind, "TEXT")
    )


def _flag_text(setting: Setting, default: Any) -> str:
    if setting.is_list:
        default = ",".join(default)
    return f" (default: {default})".replace("%", "%%") if str(default) else ""


def _assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as security_protocol=SSL")
    return key, value


def _flags(given: argparse.Namespace) -> dict[str, Any]:
    """The settings among the arguments; a section's as a mapping, `a.b=1` in it as one more."""
    flags = {name: value for name, value in vars(given).items() if name in SETTINGS or name == "config"}
    for name, value in flags.items():
        if name in SETTINGS and SETTINGS[name].is_section:
            flags[name] = _nested(value)
    return flags


def _nested(assignments: list[tuple[str, str]]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in assignments:
        *outer, last = key.split(".")
        inner = nested
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return nested


def _show_config(given: argparse.Namespace) -> int:
    config = load_config(_flags(given))
    if given.show_secrets and not config.callback_secret:
        config = _with_kept_secret(config)
    rows = [
        (name, _shown(name, value, given.show_secrets), config.sources.get(name, "default"))
        for setting in SETTINGS.values()
        for name, value in _values(setting.name, getattr(config, setting.name))
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, source in rows:
        print(f"{name:{widths[0]}}  {value:{widths[1]}}  {source}")
    check_config(config)
    return 0


def _values(name: str, value: Any) -> list[tuple[str, Any]]:
    """A section's values one by one."""
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [each for key, inner in value.items() for each in _values(f"{name}.{key}", inner)]


def _with_kept_secret(config: Config) -> Config:
    """With the secret that is made where none is set, so that a receiver can be told it before the first callback."""
    try:
        secrets = tuple(signing_secrets(config))
    except Unavailable as error:
        _fail(error.message, 0)
        return config
    return replace(config, callback_secret=secrets, sources={**config.sources, "callback_secret": "kept in data_dir"})


def _shown(name: str, value: Any, with_secrets: bool) -> str:
    if not with_secrets:
        value = _hidden(name, value)
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if with_secrets else without_passwords(text)


def _hidden(name: str, value: Any) -> Any:
    """The value without secrets, those of tables in a list too."""
    if is_secret(name):
        return "(hidden)"
    if isinstance(value, Mapping):
        return {key: _hidden(f"{name}.{key}", inner) for key, inner in value.items()}
    return [_hidden(name, each) for each in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    sys.exit(main())
