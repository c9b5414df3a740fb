"""Settings: their sources, which source wins, and the errors for wrong ones."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kafka_http.config import Config, ConfigError
from kafka_http.config.settings import MIB, SETTINGS, deprecation_warnings, is_secret
from kafka_http.config.sources import load_config


def load(environ: Mapping[str, str] | None = None, **flags: Any) -> Config:
    """Load settings without the environment of the tests."""
    return load_config(flags, environ or {})


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def test_defaults_are_those_of_the_manual() -> None:
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


def test_later_source_wins_and_source_of_each_value_is_kept(settings_file: Path) -> None:
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


def test_config_flag_wins_over_environment(settings_file: Path, tmp_path: Path) -> None:
    settings_file.write_text("threads = 5\n")

    config = load({"KAFKA_HTTP_CONFIG": str(tmp_path / "missing")}, config=str(settings_file))

    assert config.threads == 5


def test_section_combines_values_of_all_sources(settings_file: Path) -> None:
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


def test_each_serializer_has_a_section() -> None:
    config = load({"KAFKA_HTTP_SERIALIZERS__AVRO__URL": "http://registry", "KAFKA_HTTP_SERIALIZERS__AVRO__CACHE": "10"})

    assert config.serializers == {"avro": {"url": "http://registry", "cache": 10}}


def test_topic_formats_are_named_by_patterns(settings_file: Path) -> None:
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
def test_text_is_read_as_toml_else_as_it_is(setting: str, text: str, value: object) -> None:
    assert getattr(load({f"KAFKA_HTTP_{setting.upper()}": text}), setting) == value
    assert getattr(load(**{setting: text}), setting) == value


def test_single_value_in_file_becomes_list(settings_file: Path) -> None:
    settings_file.write_text('bootstrap_servers = "a:1"\n')

    assert load(config=str(settings_file)).bootstrap_servers == ("a:1",)


@pytest.mark.parametrize("password", ["12345", "true", "[1]", "a # b", "x\ny = 1", "'\""])
def test_password_that_looks_like_toml_stays_text(password: str) -> None:
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
        ("WORKER", "4", ["The setting worker ", "does not exist", "Did you mean workers?"]),
        ("WORKERS__X", "4", ["The setting workers.x ", "does not exist", "Did you mean workers?"]),
        ("PORT", "8082", ["The setting port ", "does not exist", "kafka-http config"]),
    ],
)
def test_wrong_value_error_names_setting_source_and_expected_value(variable: str, value: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load({f"KAFKA_HTTP_{variable}": value})

    for each in (*said, f"environment KAFKA_HTTP_{variable}"):
        assert each in str(error.value)


def test_wrong_secret_is_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"callback_secret .*16 characters, separated by commas\.") as error:
        load(callback_secret="hush")  # noqa: S106  to be hidden

    assert "hush" not in str(error.value)


def test_wrong_value_in_file_names_file(settings_file: Path) -> None:
    settings_file.write_text('workers = "4"\n')

    with pytest.raises(ConfigError, match=r"workers .*settings\.toml.* whole number"):
        load(config=str(settings_file))


@pytest.mark.parametrize(("text", "said"), [(None, "cannot be read"), ("workers = ", "is not TOML"), ("\xff", "TOML")])
def test_unreadable_file_is_named(settings_file: Path, text: str | None, said: str) -> None:
    if text is not None:
        settings_file.write_bytes(text.encode("latin-1"))

    with pytest.raises(ConfigError, match=f"settings.toml.*{said}"):
        load(config=str(settings_file))


def test_kubernetes_variables_of_service_kafka_http_are_not_settings() -> None:
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


def test_data_dir_depends_on_port() -> None:
    first, second = load(bind="127.0.0.1:1001"), load(bind="127.0.0.1:1002")

    assert first.data_dir.name == "1001"
    assert first.data_dir.parent == second.data_dir.parent
    assert load(data_dir="~/kafka/{port}").data_dir == Path.home() / "kafka" / "8082"


def test_bind_is_split_into_host_and_port() -> None:
    assert (Config().host, Config().port) == ("127.0.0.1", 8082)
    assert (Config(bind="[::1]:80").host, Config(bind="[::1]:80").port) == ("::1", 80)


def test_repr_shows_no_credentials() -> None:
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
def test_is_secret_recognizes_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("bind", "kafka.ssl_keyfile", "kafka.sasl_plain_username", "serializers.avro.key_format"),
        *("topics.orders.key", "topics.secrets.value", "x.token_url", "x.secret_file", "x.author", "x.monkey"),
        "x.power",
    ],
)
def test_is_secret_is_false_for_other_names(name: str) -> None:
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
def test_password_of_wrong_store_url_is_not_in_error(url: str) -> None:
    with pytest.raises(ConfigError, match="store_url") as error:
        load(store_url=url)

    assert "hush" not in str(error.value)


def test_every_setting_has_help_and_expected_value() -> None:
    assert len(SETTINGS) > 15
    for setting in SETTINGS.values():
        assert setting.help
        assert setting.expected
        assert "\n" not in setting.help


@pytest.mark.parametrize("source", ["file", "environment", "command line"])
def test_old_name_of_fast_path_is_accepted_with_one_warning(settings_file: Path, source: str) -> None:
    environ, flags = {}, {}
    if source == "file":
        settings_file.write_text("threadless_publish = false\n")
        flags, source = {"config": str(settings_file)}, str(settings_file)
    elif source == "environment":
        environ, source = {"KAFKA_HTTP_THREADLESS_PUBLISH": "false"}, "environment KAFKA_HTTP_THREADLESS_PUBLISH"
    else:
        flags = {"threadless_publish": False}

    config = load(environ, **flags)

    assert config.fast_path is False
    assert config.sources["fast_path"] == source
    (warning,) = deprecation_warnings(config)
    assert warning.startswith("threadless_publish is now fast_path; the old name will be removed in 2.0.")
    assert source in warning


def test_new_name_of_fast_path_gives_no_warning() -> None:
    assert list(deprecation_warnings(load(fast_path=False))) == []


def test_old_and_new_name_in_one_source_is_an_error(settings_file: Path) -> None:
    settings_file.write_text("threadless_publish = true\nfast_path = false\n")

    with pytest.raises(ConfigError) as error:
        load(config=str(settings_file))

    assert str(error.value) == (
        f"The settings threadless_publish ({settings_file}) and fast_path ({settings_file}) are the same setting. "
        "Keep only fast_path."
    )


def test_old_and_new_name_in_the_environment_is_an_error_after_a_file(settings_file: Path) -> None:
    """The check compared with the first value of all sources, here the file's."""
    settings_file.write_text("threadless_publish = true\n")
    environ = {"KAFKA_HTTP_FAST_PATH": "false", "KAFKA_HTTP_THREADLESS_PUBLISH": "true"}

    with pytest.raises(ConfigError, match="are the same setting"):
        load(environ, config=str(settings_file))


def test_new_name_in_a_later_source_overrides_the_old_name(settings_file: Path) -> None:
    """An old file must not stop an upgrade that sets the new name."""
    settings_file.write_text("threadless_publish = true\n")

    assert load({"KAFKA_HTTP_FAST_PATH": "false"}, config=str(settings_file)).fast_path is False


def test_wrong_value_of_old_name_names_the_old_name() -> None:
    with pytest.raises(ConfigError, match=r"threadless_publish \(command line\) must be true or false, got 'maybe'"):
        load(threadless_publish="maybe")
