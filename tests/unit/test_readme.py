"""The README's tables say what the code does."""

import re
from pathlib import Path

from kafka_http import errors
from kafka_http.config.settings import SETTINGS
from kafka_http.config.sources import load_config
from kafka_http.errors import KafkaHttpError, status_of
from kafka_http.schemas.registry_settings import RegistrySettings, registry_setting_help
from kafka_http.web.request_bodies import LengthRequired

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


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
