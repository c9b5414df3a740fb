"""The settings section [schema_registry]."""

from pathlib import Path
from typing import Any

import pytest

from kafka_http.config import ConfigError
from kafka_http.config.settings import MIB, is_secret
from kafka_http.config.sources import load_config
from kafka_http.schemas.registry_settings import RegistrySettings, registry_setting_help


def settings(**section: Any) -> RegistrySettings:
    return RegistrySettings.from_config(section, {})


def test_empty_section_has_defaults() -> None:
    assert settings() == RegistrySettings()
    assert settings().url == ()
    assert (settings().timeout, settings().latest_ttl) == (5, 30)
    assert (settings().cache_bytes, settings().max_schema_bytes) == (8 * MIB, MIB // 2)


@pytest.mark.parametrize("url", ["http://a:8081, https://b/x/", ["http://a:8081", "https://b/x/"]])
def test_url_accepts_several_addresses(url: object) -> None:
    assert settings(url=url).url == ("http://a:8081", "https://b/x/")


def test_environment_and_flags_set_registry_settings() -> None:
    environ = {
        "KAFKA_HTTP_SCHEMA_REGISTRY__URL": "http://a",
        "KAFKA_HTTP_SCHEMA_REGISTRY__TIMEOUT": "2.5",
        "KAFKA_HTTP_SCHEMA_REGISTRY__BEARER_TOKEN": "12345",
    }
    config = load_config({"schema_registry": {"latest_ttl": "0"}}, environ)

    read = RegistrySettings.from_config(config.schema_registry, config.sources)

    assert (read.url, read.timeout, read.bearer_token, read.latest_ttl) == (("http://a",), 2.5, "12345", 0)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"url": "registry:8081"}, "schema_registry.url .* must be URLs such as"),
        ({"url": "http://user:hush@registry"}, "no credentials"),
        ({"url": 5}, "must be URLs"),
        ({"basic_auth": "hush"}, "basic_auth .* must be USER:PASSWORD"),
        ({"bearer_token": "hush hush"}, "bearer_token .* must be a text"),
        ({"bearer_token": 5}, "bearer_token .* must be a text"),
        ({"basic_auth": "me:hush", "bearer_token": "hush"}, "cannot be used together"),
        ({"ca_file": "/none"}, "ca_file .* must be the path of a file that exists"),
        ({"timeout": 0}, "timeout .* must be a number of seconds from 0.1 to 60"),
        ({"timeout": float("nan")}, "timeout"),
        ({"cache_bytes": "many"}, "must be a number of bytes"),
        ({"timeouts": 5}, r"timeouts .* Did you mean timeout\?"),
        ({"zzz": 5}, "Available: url, "),
    ],
)
def test_invalid_setting_names_setting_and_accepted_values(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        settings(**section)

    assert "hush" not in str(error.value)


def test_invalid_setting_names_its_source() -> None:
    config = load_config(environ={"KAFKA_HTTP_SCHEMA_REGISTRY__TIMEOUT": "never"})

    with pytest.raises(ConfigError, match="environment KAFKA_HTTP_SCHEMA_REGISTRY__TIMEOUT"):
        RegistrySettings.from_config(config.schema_registry, config.sources)


def test_file_that_exists_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.touch()

    assert settings(ca_file=str(file)).ca_file == str(file)


def test_credentials_are_hidden() -> None:
    hidden = {name for name in registry_setting_help() if is_secret(f"schema_registry.{name}")}

    assert hidden == {"basic_auth", "bearer_token", "key_password"}
    assert "hush" not in repr(load_config({"schema_registry": {"basic_auth": "me:hush"}}, {}))
