"""The command line: flags for every setting, `kafka-http config`, and errors of one line."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafka_http.cli.main import main
from kafka_http.config.settings import SETTINGS


@pytest.fixture(autouse=True)
def no_settings_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KAFKA_HTTP_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, tuple[str, str]]:
    """The value and the source of each setting that `kafka-http config` prints."""
    assert main(["config", *arguments]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    return {name: (rest.rsplit("  ", 1)[0].strip(), rest.rsplit("  ", 1)[1]) for name, rest in rows}


def test_config_shows_value_and_source_of_each_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('threads = 7\n[kafka]\nclient_id = "x"\n')
    monkeypatch.setenv("KAFKA_HTTP_WORKERS", "3")

    settings = shown(capsys, "--config", str(file), "--bootstrap-servers", "a:1,b:2")

    assert {name for name in settings if "." not in name} == {
        name for name, setting in SETTINGS.items() if not setting.is_section
    }
    assert settings["bootstrap_servers"] == ('["a:1", "b:2"]', "command line")
    assert settings["workers"] == ("3", "environment KAFKA_HTTP_WORKERS")
    assert settings["threads"] == ("7", str(file))
    assert settings["kafka.client_id"] == ('"x"', str(file))
    assert settings["timeout"] == ("10.0", "default")


def test_config_shows_files_and_switches_of_authentication(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.touch()
    settings = shown(capsys, "--auth", f"keys={keys}", "--require-auth")
    assert settings["auth.keys"][0] == f'"{keys}"'
    assert settings["require_auth"][0] == "true"


def test_config_hides_secrets_without_show_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--kafka", "sasl_plain_password=hush", "--serializers", "avro.url=http://me:hush@registry/x"]
    given += ["--callback-secret", "hush-hush-hush-hush,hush-hush-hush-hushed"]

    hidden = shown(capsys, *given)
    open_ = shown(capsys, *given, "--show-secrets")

    assert hidden["kafka.sasl_plain_password"][0] == '"(hidden)"'
    assert hidden["serializers.avro.url"][0] == '"http://me:(hidden)@registry/x"'
    assert open_["kafka.sasl_plain_password"][0] == '"hush"'
    assert open_["serializers.avro.url"][0] == '"http://me:hush@registry/x"'
    assert hidden["callback_secret"][0] == '"(hidden)"'
    assert open_["callback_secret"][0] == '["hush-hush-hush-hush", "hush-hush-hush-hushed"]'


def test_config_creates_callback_secret_only_to_show_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = ["--data-dir", str(tmp_path / "data")]

    assert shown(capsys, *given)["callback_secret"][0] == '"(hidden)"'
    assert not (tmp_path / "data").exists()
    first, second = (shown(capsys, *given, "--show-secrets")["callback_secret"] for _ in range(2))

    kept = (tmp_path / "data" / "callback-secret").read_text().strip()
    assert first == second == (f'["{kept}"]', "kept in data_dir")
    assert shown(capsys, *given)["callback_secret"][0] == '"(hidden)"'


def test_config_shows_settings_if_callback_secret_cannot_be_stored(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")

    assert main(["config", "--show-secrets", "--data-dir", str(tmp_path / "file")]) == 0

    said = capsys.readouterr()
    assert "The secret of the callbacks cannot be stored" in said.err
    assert "bootstrap_servers" in said.out


def test_config_shows_topic_patterns_and_hides_secrets_of_plugins(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        'store_url = "postgresql://me:hush@db:5432/store?sslpassword=hush"\n'
        '[topics."orders.key"]\nkey = "text"\n'
        '[serializers.json]\npassphrase = "hush"\npw = "hush"\nurl = "http://me:hu/sh@host"\n'
        'servers = [{name = "a", password = "hush"}]\n'
    )

    settings = shown(capsys, "--config", str(file))

    assert settings["topics.orders.key.key"][0] == '"text"'
    assert settings["store_url"][0] == '"postgresql://me:(hidden)@db:5432/store?sslpassword=(hidden)"'
    assert settings["serializers.json.url"][0] == '"http://me:(hidden)@host"'
    assert settings["serializers.json.servers"][0] == '[{"name": "a", "password": "(hidden)"}]'
    assert not any("hush" in value for value, _ in settings.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kafka", "security_protocl=SSL"], "Did you mean security_protocol?"),
        (["--schema-registry", "ulr=http://127.0.0.1:1"], "Did you mean url?"),
        (["--topics", "orders.valeu=json"], "must have key, value or both"),
        (["--store-url", "postgresql://me:hu@sh@db/store"], "must be percent-encoded"),
        (["--store-url", "postgresql://me:hush@db:port/store"], "must be percent-encoded"),
    ],
)
@pytest.mark.parametrize("command", ["config", "serve"])
def test_config_checks_what_serve_checks(
    capsys: pytest.CaptureFixture[str], taken_port: int, command: str, arguments: list[str], said: str
) -> None:
    """The port is in use, so that no server keeps running if the setting is accepted."""
    assert main([command, "--bind", f"127.0.0.1:{taken_port}", *arguments]) == 2

    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert said in line
    assert "hu@sh" not in line
    assert "hush" not in output.out + line


def test_every_setting_has_a_flag_in_serve_demo_and_config(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("serve", "demo", "config"):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        help_text = capsys.readouterr().out
        assert end.value.code == 0
        for name in SETTINGS:
            assert f"--{name.replace('_', '-')}" in help_text


def test_switch_has_a_flag_to_turn_it_off(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_HTTP_ACCESS_LOG", "true")

    settings = shown(capsys, "--no-access-log", "--auto-create-topics")

    assert settings["access_log"] == ("false", "command line")
    assert settings["auto_create_topics"] == ("true", "command line")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--workers", "many"], "workers (command line) must be a whole number of at least 1, got 'many'."),
        (["config", "--bind", "8082"], "bind (command line) must be HOST:PORT"),
        (["serve", "--config", "/missing.toml"], "/missing.toml cannot be read"),
    ],
)
def test_wrong_setting_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kafka-http: ")
    assert said in line


@pytest.mark.parametrize(
    "arguments", [[], ["bogus"], ["serve", "--worker", "1"], ["serve", "--kafka", "x"], ["config", "x"]]
)
def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)

    assert end.value.code == 2
    assert "usage: kafka-http" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--worker", "1"], "serve has no flag --worker. Did you mean --workers? `kafka-http serve --help`"),
        (["serve", "--bootstrap-server=kafka:9092"], "no flag --bootstrap-server. Did you mean --bootstrap-servers?"),
        (["demo", "--kafkaport", "1"], "demo has no flag --kafkaport. Did you mean --kafka-port?"),
        (["serve", "--zzz"], "serve has no flag --zzz. `kafka-http serve --help` shows all flags."),
        (["serve", "--port", "8090"], "serve has no flag --port. Did you mean --bind?"),
        (["--zzz", "serve"], "expected a command before '--zzz': serve, demo, bench, access, config, key, "),
        (["config", "x"], "config does not take the argument 'x'. `kafka-http config --help`"),
        (["serve", "--topics", "orders"], "'orders' is not KEY=VALUE, such as orders.value=avro"),
        (["serve", "--kafka", "x"], "'x' is not KEY=VALUE, such as security_protocol=SSL"),
    ],
)
def test_wrong_usage_says_what_would_be_right(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)

    assert said in capsys.readouterr().err.splitlines()[-1]


def test_error_of_a_command_with_all_settings_has_a_short_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["access"])

    usage, error = capsys.readouterr().err.splitlines()
    assert usage == "usage: kafka-http access [FLAG]… (`kafka-http access --help` shows all flags)"
    assert error.endswith("the following arguments are required: PRINCIPAL")


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("kafka-http ")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
    )


def test_port_in_use_is_one_line(taken_port: int) -> None:
    done = run("-m", "kafka_http", "serve", "--bind", f"127.0.0.1:{taken_port}")

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"Cannot listen on 127.0.0.1:{taken_port}: address already in use" in line
    assert "--bind" in line


def test_failed_start_is_a_json_line_with_log_format_json(taken_port: int) -> None:
    done = run("-m", "kafka_http", "serve", "--bind", f"127.0.0.1:{taken_port}", "--log-format", "json")

    assert done.returncode == 1
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["level"], line["logger"]) == ("CRITICAL", "kafka_http.cli.main")
    assert line["message"].startswith(f"Cannot listen on 127.0.0.1:{taken_port}: address already in use")


def test_wrong_setting_of_kafka_python_stops_start(taken_port: int) -> None:
    """The port is in use, so that no server keeps running if the setting is accepted."""
    done = run("-m", "kafka_http", "serve", "--bind", f"127.0.0.1:{taken_port}", "--kafka", "security_protocl=SSL")

    assert done.stderr.splitlines() == [
        "kafka-http: The setting kafka.security_protocl (command line) is not a setting of this kafka-python client. "
        "Did you mean security_protocol?"
    ]
    assert done.returncode == 2


DEMO_WITHOUT = """
import sys
from kafka_http.cli import demo
from kafka_http.cli.main import main

def make_plan(arguments, config):
    print(config.access_log, config.auto_create_topics, config.workers, arguments.port)
    import {missing}
    sys.exit()

demo.make_plan = make_plan
sys.exit(main(["demo", "--port", "1", "--workers", "3", "--no-access-log"]))
"""


def test_demo_takes_flags_of_serve_and_has_its_own_defaults() -> None:
    done = run("-c", DEMO_WITHOUT.format(missing="json"))

    assert done.stdout.splitlines() == ["False True 3 1"]


def test_demo_without_extra_says_what_to_install() -> None:
    done = run("-c", DEMO_WITHOUT.format(missing="a_package_of_the_extra"))

    assert done.stderr.splitlines() == [
        "kafka-http: The command demo needs the package a_package_of_the_extra. "
        "Run pip install '.[demo]' in the source directory of kafka_http."
    ]
    assert done.returncode == 1


@pytest.mark.parametrize("server", ["granian", "nginx"])
def test_server_other_than_gunicorn_is_an_error(capsys: pytest.CaptureFixture[str], server: str) -> None:
    assert main(["serve", "--server", server]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert f"server (command line) must be gunicorn (granian was removed), got '{server}'" in line


@pytest.mark.parametrize("source", ["command line", "environment KAFKA_HTTP_SERVER", "settings.toml"])
def test_server_gunicorn_is_accepted_with_a_warning(
    taken_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    """The port is in use, so that no server keeps running."""
    arguments = ["-m", "kafka_http", "serve", "--bind", f"127.0.0.1:{taken_port}"]
    if source == "command line":
        arguments += ["--server", "gunicorn"]
    elif source == "settings.toml":
        file = tmp_path / source
        file.write_text('server = "gunicorn"\n')
        arguments += ["--config", str(file)]
    else:
        monkeypatch.setenv("KAFKA_HTTP_SERVER", "gunicorn")

    warning, end = run(*arguments).stderr.splitlines()

    assert "WARNING" in warning
    assert f"The setting server ({arguments[-1] if source == 'settings.toml' else source}) has no effect" in warning
    assert "Cannot listen on" in end


def test_old_name_of_fast_path_is_a_flag_with_one_warning(taken_port: int) -> None:
    """The port is in use, so that no server keeps running."""
    done = run("-m", "kafka_http", "serve", "--bind", f"127.0.0.1:{taken_port}", "--no-threadless-publish")

    warning, end = done.stderr.splitlines()

    assert (
        "threadless_publish is now fast_path; the old name will be removed in 2.0. Its source: command line." in warning
    )
    assert "Cannot listen on" in end


def test_config_checks_settings_before_it_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    """It printed the whole table before the error."""
    assert main(["config", "--kafka", "security_protocl=SSL"]) == 2

    assert capsys.readouterr().out == ""
