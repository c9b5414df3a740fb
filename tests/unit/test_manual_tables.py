"""The tables of settings and errors in the manual say what the code does, and the files that it names exist.

A test that fails prints the table that would be right, ready to be pasted into the page.
"""

import re
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

import kafka_http.app  # noqa: F401  defines all errors
from kafka_http import errors, metrics
from kafka_http.config.settings import SETTINGS, settings_of
from kafka_http.config.sources import load_config
from kafka_http.errors import KafkaHttpError, status_of
from kafka_http.schemas.registry_settings import RegistrySettings, registry_setting_help
from kafka_http.security.access_rules import AccessEntry
from kafka_http.security.api_keys import KeySettings
from kafka_http.security.auth_settings import AuthSettings, JwtSettings
from kafka_http.security.rate_limits import LimitSettings
from kafka_http.web.metrics_exposition import BUILD_HELP, BUILD_INFO, BUILD_LABELS
from kafka_http.web.request_bodies import LengthRequired
from tests.support.manual import ROOT, page, table
from tests.support.metric_samples import program

FROM_FLASK = {404, 405}
"""Codes of errors that Flask raises by itself."""
DEFAULTS_IN_WORDS = {"workers": "the number of cores", "data_dir": "the user's data directory, by port"}


def check_table(name: str, heading: str, rows: Iterable[Sequence[str]]) -> None:
    """Fail unless the first table below a heading of a page has exactly these rows."""
    expected = [list(row) for row in rows]
    if table(page(name), heading) != expected:
        lines = "\n".join(f"| {' | '.join(row)} |" for row in expected)
        pytest.fail(f"The table below {heading!r} in kafka_http/manual/{name}.md must have these rows:\n{lines}")


def shown(value: object) -> str:
    """A default as the manual shows it."""
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict) or value in ("", None):
        return ""
    if isinstance(value, int) and value % (1 << 19) == 0 and value:
        return f"{value >> 20} MiB" if value >= 1 << 20 else f"{value >> 10} KiB"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def test_every_setting_is_listed_with_its_default() -> None:
    defaults = load_config(environ={})
    rows = (
        [f"`{name}`", DEFAULTS_IN_WORDS.get(name) or shown(getattr(defaults, name)), setting.help]
        for name, setting in SETTINGS.items()
    )
    check_table("settings", "## All settings", rows)


def test_every_metric_is_listed() -> None:
    described = [(each.name, each.kind, each.labels, each.help_text) for each in metrics.all_metrics()]
    described.append((BUILD_INFO, "gauge", BUILD_LABELS, BUILD_HELP))
    rows = (
        [f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), help_text]
        for name, kind, labels, help_text in described
    )
    check_table("metrics", "## All metrics", rows)


@pytest.mark.parametrize("file", ["dashboard.json", "alerts.yaml"])
def test_dashboard_and_alerts_use_existing_metrics(file: str) -> None:
    text = (ROOT / "kafka_http" / "manual" / "files" / file).read_text()
    names = set(re.findall(r"kafka_http_[a-z_]+(?=[\[{ )])", text))
    histograms = {each.name for each in metrics.all_metrics() if each.kind == "histogram"}
    known = {BUILD_INFO, *(each.name for each in metrics.all_metrics())} | {f"{each}_bucket" for each in histograms}

    assert names
    assert names - known == set()


def test_alert_rules_are_valid() -> None:
    subprocess.run([program("promtool"), "check", "rules", ROOT / "kafka_http/manual/files/alerts.yaml"], check=True)


def test_every_registry_setting_is_listed_with_its_default() -> None:
    defaults = RegistrySettings()
    assert list(registry_setting_help()) == list(RegistrySettings.__struct_fields__)
    rows = ([f"`{name}`", shown(getattr(defaults, name)), text] for name, text in registry_setting_help().items())
    check_table("schemas", "## The schema registry", rows)


@pytest.mark.parametrize(
    ("settings", "heading"), [(AuthSettings(), "## Authentication"), (JwtSettings(), "### JSON Web Tokens")]
)
def test_every_setting_of_authentication_is_listed_with_its_default(settings: Any, heading: str) -> None:
    rows = ([f"`{each.name}`", shown(getattr(settings, each.name)), each.help] for each in settings_of(type(settings)))
    check_table("security", heading, rows)


def test_every_entry_of_an_api_key_is_listed() -> None:
    check_table("security", "### API keys", ([f"`{each.name}`", each.help] for each in settings_of(KeySettings)))


def test_every_right_is_listed() -> None:
    """What each allows is written by hand."""
    listed = [right for right, _ in table(page("security"), "## Access rules")]
    assert listed == [f"`{each.name}`" for each in settings_of(AccessEntry)]


def test_every_setting_of_limits_is_listed_with_its_default() -> None:
    defaults = LimitSettings()
    rows = ([f"`{each.name}`", shown(getattr(defaults, each.name)), each.help] for each in settings_of(LimitSettings))
    check_table("security", "## Limits", rows)


def all_errors(cls: type[KafkaHttpError] = KafkaHttpError) -> set[type[KafkaHttpError]]:
    return {cls}.union(*(all_errors(each) for each in cls.__subclasses__()))


def test_every_error_is_listed_with_its_status() -> None:
    """The last two columns, when to retry and the meaning, are written by hand."""
    assert LengthRequired in all_errors()
    written = {code: rest for code, _, *rest in table(page("errors"), "## All codes")}
    codes = sorted({each.code for each in all_errors()} | FROM_FLASK, key=lambda code: (status_of(code), code))
    rows = ([f"{code}", f"{status_of(code)}", *written.get(f"{code}", ["?", "?"])] for code in codes)
    check_table("errors", "## All codes", rows)
    assert all(retry in {"no", "after", "see above"} and means for retry, means in written.values())


def test_drawn_error_tree_matches_the_classes() -> None:
    drawn = re.findall(r"[├└]── (\w+)\s+(\d+)", errors.__doc__ or "")
    ours = {(each.__name__, str(each.code)) for each in all_errors() if each.__module__ == errors.__name__}
    assert set(drawn) == ours - {("KafkaHttpError", "500")}


@pytest.mark.parametrize("document", ["kafka_http/manual/internals.md", ".github/CONTRIBUTING.md"])
def test_files_named_for_contributors_exist(document: str) -> None:
    """Names are relative to the project, to `kafka_http/` or to one of its packages."""
    named = set(re.findall(r"`([\w./]*\w(?:\.py|\.js|\.md|/))`", (ROOT / document).read_text()))
    files = [path for directory in ("kafka_http", "tests") for path in (ROOT / directory).rglob("*")]
    missing = [
        name for name in named if not (ROOT / name).exists() and not any(path.match(name.rstrip("/")) for path in files)
    ]
    assert len(named) > 20
    assert missing == []
