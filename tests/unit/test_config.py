"""Settings: where they come from, which wins, and what is said of a wrong one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kafka_http.config import Config, ConfigError
from kafka_http.config.settings import MIB, SETTINGS, is_secret
from kafka_http.config.sources import load_config


def load(environ: Mapping[str, str] | None = None, **flags: Any) -> Config:
    """Without what the tests' own environment says."""
    return load_config(flags, environ or {})


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def test_without_anything_given_the_defaults_are_those_of_the_documentation() -> None:
    config = load()

    assert config == Config()
    assert config.bootstrap_servers == ("localhost:9092",)
    assert config.bind == "127.0.0.1:8082"
    assert config.workers == len(os.sched_getaffinity(0))
    assert (config.threads, config.timeout) == (32, 10.0)
    assert (config.max_body_bytes, config.max_in_flight) == (64 * MIB, 256 * MIB)
    assert config.auto_create_topics is False
    assert config.access_log is False
    assert config.sources == {}


def test_a_later_source_wins_and_each_value_remembers_its_own(settings_file: Path) -> None:
    settings_file.write_text("threads = 1\nworkers = 1\ntimeout = 1\n")
    environ = {"KAFKA_HTTP_CONFIG": str(settings_file), "KAFKA_HTTP_WORKERS": "2", "KAFKA_HTTP_TIMEOUT": "2"}

    config = load_config({"timeout": "3"}, environ, {"threads": 9, "access_log": True})

    assert (config.access_log, config.threads, config.workers, config.timeout) == (True, 1, 2, 3.0)
    assert config.sources == {
        "access_log": "default",
        "threads": str(settings_file),
        "workers": "environment KAFKA_HTTP_WORKERS",
        "timeout": "command line",
    }


def test_the_flag_for_the_file_goes_before_the_environments(settings_file: Path, tmp_path: Path) -> None:
    settings_file.write_text("threads = 5\n")

    config = load({"KAFKA_HTTP_CONFIG": str(tmp_path / "missing")}, config=str(settings_file))

    assert config.threads == 5


def test_sections_take_some_values_from_each_source(settings_file: Path) -> None:
    settings_file.write_text(
        '[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_mechanism = "PLAIN"\n[producer]\nlinger_ms = 5\n'
    )
    environ = {"KAFKA_HTTP_KAFKA__SASL_MECHANISM": "SCRAM-SHA-256", "KAFKA_HTTP_KAFKA": '{client_id = "x"}'}

    config = load(environ, config=str(settings_file), kafka={"sasl_plain_username": "me"})

    assert config.kafka == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "client_id": "x",
        "sasl_plain_username": "me",
    }
    assert config.producer == {"linger_ms": 5}
    assert config.sources["kafka.security_protocol"] == str(settings_file)
    assert config.sources["kafka.client_id"] == "environment KAFKA_HTTP_KAFKA"
    assert config.sources["kafka.sasl_plain_username"] == "command line"


def test_serializers_have_a_section_each() -> None:
    config = load({"KAFKA_HTTP_SERIALIZERS__AVRO__URL": "http://registry", "KAFKA_HTTP_SERIALIZERS__AVRO__CACHE": "10"})

    assert config.serializers == {"avro": {"url": "http://registry", "cache": 10}}


def test_formats_of_topics_have_patterns_as_names(settings_file: Path) -> None:
    settings_file.write_text('[topics."orders.*"]\nvalue = "avro"\nkey = "text"\n')

    config = load({"KAFKA_HTTP_TOPICS": '{"A.*" = {value = "json"}}'}, config=str(settings_file))

    assert config.topics == {"orders.*": {"value": "avro", "key": "text"}, "A.*": {"value": "json"}}
    assert config.sources["topics.orders.*.value"] == str(settings_file)


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        ("workers", "4", 4),
        ("timeout", "5", 5.0),
        ("timeout", "0.5", 0.5),
        ("access_log", "true", True),
        ("access_log", "1", True),
        ("access_log", "False", False),
        ("bootstrap_servers", "a:1", ("a:1",)),
        ("bootstrap_servers", "a:1, b:2", ("a:1", "b:2")),
        ("bootstrap_servers", '["a:1", "b:2"]', ("a:1", "b:2")),
        ("bootstrap_servers", "[::1]:9092", ("[::1]:9092",)),
        ("bind", '"0.0.0.0:80"', "0.0.0.0:80"),
        ("trusted_proxies", "10.0.0.0/8,::1", ("10.0.0.0/8", "::1")),
        ("trusted_proxies", "[]", ()),
        ("data_dir", "/var/lib/1", Path("/var/lib/1")),
        ("base_url", "https://example.org/rest", "https://example.org/rest"),
        ("callback_secret", "12345678901234567890", ("12345678901234567890",)),
        ("callback_secret", '["a secret, of sorts", "another secret.."]', ("a secret, of sorts", "another secret..")),
        ("callback_allow", "A.example, *.b.example,10.0.0.0/8,::1", ("a.example", "*.b.example", "10.0.0.0/8", "::1")),
        ("callback_hosts", "[]", ()),
        ("callback_retry_for", "0", 0.0),
    ],
)
def test_a_text_is_read_as_toml_else_as_it_stands(setting: str, text: str, value: object) -> None:
    assert getattr(load({f"KAFKA_HTTP_{setting.upper()}": text}), setting) == value
    assert getattr(load(**{setting: text}), setting) == value


def test_a_single_value_in_the_file_serves_as_a_list(settings_file: Path) -> None:
    settings_file.write_text('bootstrap_servers = "a:1"\n')

    assert load(config=str(settings_file)).bootstrap_servers == ("a:1",)


@pytest.mark.parametrize("password", ["12345", "true", "[1]", "a # b", "x\ny = 1", "'\""])
def test_a_password_is_a_text_whatever_it_looks_like(password: str) -> None:
    assert load({"KAFKA_HTTP_KAFKA__SASL_PLAIN_PASSWORD": password}).kafka == {"sasl_plain_password": password}


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("WORKERS", "four", ["workers", "a whole number of at least 1", "'four'"]),
        ("WORKERS", "0", ["workers", "at least 1"]),
        ("WORKERS", "1.5", ["workers", "whole number"]),
        ("TIMEOUT", "nan", ["timeout", "seconds"]),
        ("TIMEOUT", "inf", ["timeout", "seconds"]),
        ("ACCESS_LOG", "maybe", ["access_log", "true or false"]),
        ("BIND", "8082", ["bind", "HOST:PORT"]),
        ("BIND", "localhost:65536", ["bind", "HOST:PORT"]),
        ("BOOTSTRAP_SERVERS", "", ["bootstrap_servers", "HOST:PORT"]),
        ("BOOTSTRAP_SERVERS", "a:1,b", ["bootstrap_servers", "HOST:PORT"]),
        ("TRUSTED_PROXIES", "10.0.0.1/8", ["trusted_proxies", "networks"]),
        ("DATA_DIR", "", ["data_dir", "path"]),
        ("CALLBACK_SECRET", "", ["callback_secret", "at least 16 characters"]),
        ("CALLBACK_ALLOW", "http://a.example", ["callback_allow", "host names", "networks"]),
        ("CALLBACK_ALLOW", "a.example:80", ["callback_allow", "host names"]),
        ("CALLBACK_ALLOW", "127.1", ["callback_allow", "host names"]),
        ("CALLBACK_ALLOW", "10.0.0.1/8", ["callback_allow", "networks"]),
        ("CALLBACK_HOSTS", "*", ["callback_hosts", "host names"]),
        ("CALLBACK_HOSTS", "a.*.example", ["callback_hosts", "host names"]),
        ("BASE_URL", "example.org", ["base_url", "https://"]),
        ("LOG_LEVEL", "loud", ["log_level", "debug, info, warning"]),
        ("KAFKA", "x", ["kafka", "table"]),
        ("SERIALIZERS__AVRO", "1", ["serializers.avro", "table"]),
        ("TOPICS__T", "json", ["topics.t", "table"]),
        ("WORKER", "4", ["The setting worker ", "Did you mean workers?"]),
        ("WORKERS__X", "4", ["The setting workers.x ", "Did you mean workers?"]),
        ("PORT", "8082", ["The setting port ", "kafka-http config"]),
    ],
)
def test_a_wrong_value_names_setting_source_and_what_would_be_right(variable: str, value: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load({f"KAFKA_HTTP_{variable}": value})

    for each in (*said, f"environment KAFKA_HTTP_{variable}"):
        assert each in str(error.value)


def test_a_wrong_secret_is_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"callback_secret .*16 characters, commas between several\.") as error:
        load(callback_secret="hush")  # noqa: S106  to be hidden

    assert "hush" not in str(error.value)


def test_a_wrong_value_in_the_file_names_the_file(settings_file: Path) -> None:
    settings_file.write_text('workers = "4"\n')

    with pytest.raises(ConfigError, match=r"workers .*settings\.toml.* whole number"):
        load(config=str(settings_file))


@pytest.mark.parametrize(("text", "said"), [(None, "cannot be read"), ("workers = ", "is not TOML"), ("\xff", "TOML")])
def test_a_file_that_is_none_is_named(settings_file: Path, text: str | None, said: str) -> None:
    if text is not None:
        settings_file.write_bytes(text.encode("latin-1"))

    with pytest.raises(ConfigError, match=f"settings.toml.*{said}"):
        load(config=str(settings_file))


def test_what_kubernetes_says_of_a_service_called_kafka_http_is_no_setting() -> None:
    config = load(
        {
            "KAFKA_HTTP_SERVICE_HOST": "10.96.0.1",
            "KAFKA_HTTP_SERVICE_PORT": "8082",
            "KAFKA_HTTP_SERVICE_PORT_HTTP": "8082",
            "KAFKA_HTTP_PORT": "tcp://10.96.0.1:8082",
            "KAFKA_HTTP_PORT_8082_TCP": "tcp://10.96.0.1:8082",
            "KAFKA_HTTP_PORT_8082_TCP_ADDR": "10.96.0.1",
        }
    )

    assert config == Config()


def test_the_data_directory_is_the_ports_own() -> None:
    first, second = load(bind="127.0.0.1:1001"), load(bind="127.0.0.1:1002")

    assert first.data_dir.name == "1001"
    assert first.data_dir.parent == second.data_dir.parent
    assert load(data_dir="~/kafka/{port}").data_dir == Path.home() / "kafka" / "8082"


def test_bind_falls_into_host_and_port() -> None:
    assert (Config().host, Config().port) == ("127.0.0.1", 8082)
    assert (Config(bind="[::1]:80").host, Config(bind="[::1]:80").port) == ("::1", 80)


def test_no_credential_is_shown_by_the_repr() -> None:
    config = load(
        kafka={"sasl_plain_password": "hush"},
        serializers={"avro": {"token": "hush"}},
        callback_secret="hush-hush-hush-hush",  # noqa: S106  to be hidden
    )

    assert "hush" not in repr(config)


@pytest.mark.parametrize(
    "name",
    [
        *("kafka.sasl_plain_password", "kafka.ssl_password", "serializers.avro.basic_auth", "x.api_key", "x.token"),
        *("x.passphrase", "x.pw", "x.password", "x.secret", "x.credential", "x.apiKey", "x.db_pwd", "x.clientSecret"),
        *("schema_registry.basic_auth", "callback_secret"),
    ],
)
def test_secrets_are_known_by_their_names(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("bind", "kafka.ssl_keyfile", "kafka.sasl_plain_username", "serializers.avro.key_format"),
        *("topics.orders.key", "topics.secrets.value", "x.token_url", "x.secret_file", "x.author", "x.monkey"),
        "x.power",
    ],
)
def test_what_is_no_secret_is_shown(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    "url",
    [
        "http://u:hush@h/store",
        "postgresql://u:hush hush@h/store",
        "postgresql:/u:hush@h",
        "u:hush@h",
        "mysql://u:hush@h",
    ],
)
def test_password_of_a_wrong_store_url_is_not_in_the_error(url: str) -> None:
    with pytest.raises(ConfigError, match="store_url") as error:
        load(store_url=url)

    assert "hush" not in str(error.value)


def test_every_setting_says_what_it_is_for_and_what_it_takes() -> None:
    assert len(SETTINGS) > 15
    for setting in SETTINGS.values():
        assert setting.help
        assert setting.takes
        assert "\n" not in setting.help
