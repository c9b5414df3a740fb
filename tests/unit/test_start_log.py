"""The lines that a server logs at its start."""

from typing import Any

import pytest

from kafka_http.config.sources import load_config
from kafka_http.server.start_log import log_start


def lines_of(caplog: pytest.LogCaptureFixture, **settings: Any) -> list[str]:
    caplog.set_level("INFO", "kafka_http.server")
    log_start(load_config({"data_dir": "/var/lib/kafka_http", "workers": 2, **settings}, environ={}))
    return [each.getMessage() for each in caplog.records]


def test_start_with_defaults_says_what_is_on_and_what_is_off(caplog: pytest.LogCaptureFixture) -> None:
    first, addresses, parts = lines_of(caplog)
    assert first.startswith("kafka_http ")
    assert first.endswith(": 2 workers with 32 threads each, data_dir /var/lib/kafka_http.")
    assert addresses == "Address: http://127.0.0.1:8082. Kafka brokers: localhost:9092 (PLAINTEXT)."
    assert parts == (
        "On: fast_path. Off: auth, access, limits, tls_cert, topic_admin, auto_create_topics, console, metrics_bind, "
        "schema_registry, store_url, access_log."
    )


def test_start_names_addresses_and_kinds_but_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    _, addresses, parts = lines_of(
        caplog,
        bootstrap_servers=["kafka1:9093", "kafka2:9093"],
        kafka={"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "sasl_plain_password": "planted"},
        tls_cert="server.pem",
        auth={"basic": "users", "anonymous": ["read"]},
        access={"*": {"read": ["*"]}},
        schema_registry={"url": "https://me:planted@registry:8081"},
        store_url="postgresql://me:planted@db/kafka_http",
        metrics_bind="127.0.0.1:9100",
        topic_admin=True,
        console=True,
    )
    assert addresses == (
        "Address: https://127.0.0.1:8082. Kafka brokers: kafka1:9093, kafka2:9093 (SASL_SSL, SCRAM-SHA-512)."
    )
    assert parts == (
        "On: auth (basic, anonymous), access (settings), tls_cert, topic_admin, console, metrics_bind (127.0.0.1:9100),"
        " schema_registry (https://me:(hidden)@registry:8081), fast_path, store_url. "
        "Off: limits, auto_create_topics, access_log."
    )
