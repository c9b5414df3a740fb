"""Serializers of other packages: how they are loaded, and the errors of those that cannot be loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from kafka_http.app import create_app
from kafka_http.config import ConfigError
from kafka_http.config.sources import load_config
from kafka_http.schemas.registry_settings import RegistrySettings
from kafka_http.schemas.serializers import SerializerNotLoaded, load_serializers
from tests.support.plugin_package import install_plugin

GOOD = """
class Plain:
    def __init__(self, settings):
        self.settings = settings

    def serialize(self, topic, headers, data):
        return str(data).encode()

    def deserialize(self, topic, headers, data):
        return data.decode()

class WithRegistry(Plain):
    def __init__(self, settings, *, registry):
        self.registry = registry

def function(settings):
    return Plain(settings)

def broken(settings):
    raise KeyError("secret_file")

class NoSerializer:
    def __init__(self, settings): ...

not_callable = 5
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which Python finds packages."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acme", raising=False)
    return tmp_path


def test_factory_gets_the_settings_of_its_name(packages: Path) -> None:
    install_plugin(packages, "one = acme:Plain\ntwo = acme:function", acme=GOOD)

    loaded = load_serializers({"one": {"a": 1}}).loaded

    assert loaded["one"].settings == {"a": 1}  # type: ignore[attr-defined]
    assert loaded["two"].settings == {}  # type: ignore[attr-defined]
    assert {"json", "text", "binary"} < loaded.keys()


def test_factories_with_registry_parameter_share_the_registry(packages: Path) -> None:
    install_plugin(packages, "one = acme:WithRegistry\ntwo = acme:WithRegistry", acme=GOOD)

    loaded = load_serializers({}, RegistrySettings(url=("http://127.0.0.1:1",))).loaded
    assert loaded["one"].registry is loaded["two"].registry  # type: ignore[attr-defined]

    without = load_serializers({})
    assert "one" not in without.loaded
    assert "'one' needs a schema registry: set schema_registry.url" in without.missing["one"]


@pytest.mark.parametrize(
    ("entry_point", "message"),
    [
        ("bad = acme:broken", r"'bad' \(acme:broken\) cannot be loaded: KeyError: 'secret_file'"),
        ("bad = acme:missing", "'bad' .* cannot be loaded: AttributeError"),
        ("bad = elsewhere:Plain", "'bad' .* cannot be loaded: ModuleNotFoundError: No module named 'elsewhere'"),
        ("bad = acme:not_callable", "'bad' .* cannot be loaded: TypeError"),
        ("bad = acme:NoSerializer", "'bad' .* NoSerializer has no method serialize"),
        ("json = acme:Plain", "Two serializers are named 'json'"),
        ("Bad.Name = acme:Plain", "'Bad.Name' .* must have a name of 1 to 50 of"),
    ],
)
def test_broken_serializer_is_named_at_start(packages: Path, entry_point: str, message: str) -> None:
    install_plugin(packages, entry_point, acme=GOOD)

    with pytest.raises(SerializerNotLoaded, match=message):
        create_app(load_config(environ={}))


def test_command_reports_broken_serializer_without_traceback(packages: Path) -> None:
    install_plugin(packages, "bad = acme:broken", acme=GOOD)

    ended = subprocess.run(
        [sys.executable, "-m", "kafka_http", "serve"],
        env={"PYTHONPATH": str(packages), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert ended.returncode != 0
    assert "Serializer 'bad' (acme:broken) cannot be loaded" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_serializer_without_its_extra_is_missing(packages: Path) -> None:
    install_plugin(packages, "rare = acme:Plain [more]", acme="import no_such_package\n" + GOOD)

    reason = load_serializers({}).missing["rare"]
    assert reason == "Format 'rare' needs more packages. Run pip install 'acme[more]'."


def test_settings_of_unknown_serializer_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"\[serializers.nope\] is set, but no serializer 'nope' is installed"):
        load_serializers({"nope": {}})
