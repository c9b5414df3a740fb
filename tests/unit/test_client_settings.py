"""What kafka-python's clients are made with, and what is refused at start."""

from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.net.manager import KafkaConnectionManager

from kafka_http.broker.client_settings import (
    admin_settings,
    check_client_settings,
    connection_settings,
    producer_settings,
)
from kafka_http.config import Config, ConfigError
from kafka_http.config.settings import MIB
from kafka_http.config.sources import load_config

PLAIN = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}


def test_client_settings_are_known_to_each_client() -> None:
    config = Config(kafka={"security_protocol": "SSL", "ssl_check_hostname": False, "retry_backoff_ms": 50})

    check_client_settings(config)

    assert set(admin_settings(config)) <= set(KafkaAdminClient.DEFAULT_CONFIG)
    assert set(connection_settings(config)) <= set(KafkaConnectionManager.DEFAULT_CONFIG)
    for settings in (producer_settings(config), admin_settings(config), connection_settings(config)):
        assert settings["security_protocol"] == "SSL"
        assert settings["bootstrap_servers"] == ["localhost:9092"]


def test_producer_settings_have_the_measured_defaults() -> None:
    expected = {
        "compression_type": None,
        "linger_ms": 0,
        "batch_size": 1_000_000,
        "request_timeout_ms": 5000,
        "delivery_timeout_ms": 10000,
        "long_delivery_timeout_ms": 120_000,
        "retry_backoff_ms": 20,
        "reconnect_backoff_max_ms": 1000,
    }
    settings = producer_settings(Config())

    assert {name: settings[name] for name in expected} == expected


def test_producer_settings_follow_timeout_and_limits() -> None:
    settings = producer_settings(Config(timeout=2.5, max_body_bytes=3 * MIB))

    assert settings["delivery_timeout_ms"] == 2500
    assert settings["request_timeout_ms"] <= 2500
    assert settings["max_request_size"] > 3 * MIB


def test_connection_settings_allow_the_largest_page() -> None:
    config = Config(max_page_bytes=500 * MIB)

    assert connection_settings(config)["receive_message_max_bytes"] > 500 * MIB


def test_section_of_a_client_overrides_the_kafka_section() -> None:
    config = Config(kafka={"request_timeout_ms": 4000}, admin={"request_timeout_ms": 3000})

    assert producer_settings(config)["request_timeout_ms"] == 4000
    assert connection_settings(config)["request_timeout_ms"] == 4000
    assert admin_settings(config)["request_timeout_ms"] == 3000


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"kafka": {"security_protocl": "SSL"}}, "Did you mean security_protocol"),
        ({"kafka": {"security_protocol": "ssl"}}, "PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ({"kafka": {"sasl_mechanism": "OAUTHBEARER"}}, "one of AWS_MSK_IAM, GSSAPI, PLAIN"),
        ({"kafka": {"security_protocol": "SASL_SSL"}}, "needs sasl_mechanism"),
        ({"kafka": PLAIN}, "needs sasl_plain_username and sasl_plain_password"),
        ({"kafka": {"client_id": 7}}, "a string"),
        ({"kafka": {"ssl_check_hostname": "no"}}, "true or false"),
        ({"kafka": {"ssl_cafile": "/missing.pem"}}, "a file that exists"),
        ({"kafka": {"api_version": "3.7"}}, "a list of integers"),
        ({"kafka": {"ssl_ciphers": "HIGH"}}, "ignores it"),
        ({"kafka": {"bootstrap_servers": "a:1"}}, "use the setting bootstrap_servers"),
        ({"producer": {"max_in_flight_requests_per_connection": 6}}, "not a setting of the producer"),
        ({"producer": {"buffer_memory": 1000}}, "producer. Its own settings: batch_size, compression_type"),
        ({"producer": {"acks": 1}}, "lost nor duplicated"),
        ({"producer": {"enable_idempotence": False}}, "lost nor duplicated"),
        ({"producer": {"linger_ms": "5"}}, "an integer"),
        ({"producer": {"linger_ms": True}}, "an integer"),
        ({"producer": {"compression_type": "zip"}}, "gzip, snappy, lz4, zstd"),
        ({"producer": {"partitioner": "x"}}, "a Python object"),
        ({"producer": {"linger_ms": 6000}}, "delivery_timeout_ms"),
        ({"consumer": {"max_poll_records": 5}}, "not a setting of this kafka-python client"),
        ({"admin": {"linger_ms": 5}}, "not a setting of this kafka-python client"),
    ],
)
def test_setting_that_would_fail_or_be_ignored_later_is_an_error_at_start(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_client_settings(Config(**sections))


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"timeout": 0.1},
        {"kafka": {**PLAIN, "sasl_plain_username": "me", "sasl_plain_password": "hush"}},
        {"kafka": {"ssl_cafile": __file__, "api_version": [3, 7]}, "consumer": {"connections_max_idle_ms": 60000}},
        {"producer": {"linger_ms": 5, "compression_type": "zstd"}, "admin": {"client_id": "x"}},
    ],
)
def test_valid_client_settings_are_accepted(sections: dict[str, Any]) -> None:
    check_client_settings(Config(**sections))


def test_invalid_client_setting_error_names_its_source(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[producer]\nlinger = 5\n")

    with pytest.raises(ConfigError, match=r"producer\.linger \(.*settings\.toml\).*Did you mean linger_ms"):
        check_client_settings(load_config({"config": str(file)}, {}))


def test_invalid_password_is_not_repeated_in_the_error() -> None:
    with pytest.raises(ConfigError) as error:
        check_client_settings(Config(kafka={"ssl_password": 4711}))

    assert "4711" not in str(error.value)


def test_missing_private_part_of_a_library_is_an_error_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The producer takes sockets from kafka-python, through private parts."""
    monkeypatch.setattr("kafka_http.broker.patches.KafkaTCPTransport", lambda net, sock: object())
    with pytest.raises(ConfigError, match=r"object\._sock, object\._net is missing\. Install the version"):
        check_client_settings(Config())
