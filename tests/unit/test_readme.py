"""The README's tables say what the code does."""

import re
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from kafka_http import errors
from kafka_http.app import create_app
from kafka_http.config.settings import SETTINGS
from kafka_http.config.sources import load_config
from kafka_http.errors import KafkaHttpError, status_of
from kafka_http.schemas.registry_settings import RegistrySettings, registry_setting_help
from kafka_http.web.request_bodies import LengthRequired
from tests.fakes import FakeBroker

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ACTIVATE = ". .venv/bin/activate"
OF_THE_ENVIRONMENT = re.compile(r"(?<![\w/.-])(kafka-http|pip|pytest|python|flask|gunicorn)(?= )")
"""Programs that a shell finds only where the environment is active, as words of a command."""


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    below = README.split(f"{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert lines is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def test_every_setting_is_listed_with_its_default() -> None:
    defaults = load_config(environ={})
    listed = {name.strip("`"): (default, means) for name, default, means in table("## Settings")}
    assert list(listed) == list(SETTINGS)
    for name, (default, means) in listed.items():
        assert means == SETTINGS[name].help
        if name not in {"workers", "data_dir"}:
            assert default == shown(getattr(defaults, name)), name


def test_every_setting_of_the_registry_is_listed_with_its_default() -> None:
    listed = {name.strip("`"): (default, means) for name, default, means in table("### The schema registry")}
    defaults = RegistrySettings()
    assert list(listed) == list(RegistrySettings.__struct_fields__)
    for name, (default, means) in listed.items():
        assert means == registry_setting_help()[name]
        assert default == shown(getattr(defaults, name)), name


def shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict) or value in ("", None):
        return ""
    if isinstance(value, int) and value % (1 << 19) == 0 and value:
        return f"{value >> 20} MiB" if value >= 1 << 20 else f"{value >> 10} KiB"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def test_every_call_is_listed() -> None:
    app = create_app(load_config({"console": True}, environ={}), FakeBroker())
    calls = {
        f"`{method} {rule.rule}`"
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"HEAD", "OPTIONS"}
    }
    assert {call for call, _ in table("## Calls")} == calls


def all_errors(cls: type[KafkaHttpError] = KafkaHttpError) -> set[type[KafkaHttpError]]:
    return {cls}.union(*(all_errors(each) for each in cls.__subclasses__()))


def test_every_error_is_listed() -> None:
    listed = {int(code): int(status) for code, status, _ in table("### Errors")}
    assert LengthRequired in all_errors()
    assert set(listed) == {each.code for each in all_errors()} | {404, 405}
    assert all(status == status_of(code) for code, status in listed.items())


def test_the_error_tree_is_drawn() -> None:
    drawn = re.findall(r"[├└]── (\w+)\s+(\d+)", errors.__doc__ or "")
    ours = {(each.__name__, str(each.code)) for each in all_errors() if each.__module__ == errors.__name__}
    assert set(drawn) == ours - {("KafkaHttpError", "500")}


@pytest.mark.parametrize(
    "command", ["'.[demo]' && .venv/bin/kafka-http demo", "'.[test]' && .venv/bin/python -m pytest"]
)
def test_the_two_commands_are_there(command: str) -> None:
    assert command in README


def commands() -> Iterator[tuple[str, bool]]:
    """Each indented line and each text in backquotes, and whether the line that activates the environment was there."""
    active = False
    for line in re.sub(r"```.*?```", "", README, flags=re.DOTALL).splitlines():
        active = active or line == f"    {ACTIVATE}"
        for command in [line] if line.startswith("    ") else re.findall(r"`([^`]+)`", line):
            yield command, active


def test_commands_work_as_printed_with_the_environment_active_or_named() -> None:
    found = [(command, active) for command, active in commands() if OF_THE_ENVIRONMENT.search(command)]
    assert len(found) > 20
    assert [command for command, active in found if not active] == []


def test_the_lesson_activates_the_environment_by_itself() -> None:
    lesson = README.split("## A lesson", 1)[1].split("\n## ", 1)[0]
    assert re.findall(r"^    (.+)$", lesson, re.MULTILINE)[:2] == [ACTIVATE, "kafka-http demo --topic rides:3"]


def test_every_pip_install_of_ours_is_from_the_source_directory_with_extras_that_exist() -> None:
    """The distribution is on no package index."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    sources = [README, *(path.read_text() for path in (ROOT / "kafka_http").rglob("*.py"))]
    named = [each for text in sources for each in re.findall(r"pip install (?:-e )?'([^']+)'", text)]
    named += [f".[{each}]" for text in sources for each in re.findall(r"how_to_install\(['\"](\w+)", text)]
    ours = {each for each in named if each.startswith(".[") and "{" not in each}
    assert not [each for each in named if "kafka" in each]
    assert len(ours) >= 5
    assert {extra for each in ours for extra in re.findall(r"\w+", each)} <= set(config["options.extras_require"])
