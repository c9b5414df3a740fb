"""The settings of each client of Kafka: defaults, overridden by the section `[kafka]` and the client's own section.

The defaults differ from kafka-python's: timeouts for an HTTP client that waits, and quick recovery after an outage.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.sasl import SASL_MECHANISMS

from kafka_http.broker.patches import check_libraries
from kafka_http.config import Config, ConfigError
from kafka_http.config.settings import MIB
from kafka_http.config.spelling import nearest

Settings = dict[str, Any]

DELIVERY_SECONDS = 120.0
"""Delivery timeout of records with an Idempotency-Key, and of records from the outbox."""

_PRODUCER_DEFAULTS: Mapping[str, Any] = {
    "compression_type": None,
    "batch_size": 1_000_000,  # a little less than the brokers' default of max.message.bytes
    "linger_ms": 0,
    "delivery_timeout_ms": 10_000,
    "retry_backoff_ms": 20,
}
_CONNECTION_DEFAULTS: Mapping[str, Any] = {
    "max_in_flight_requests_per_connection": 1000,
    "socket_connection_setup_timeout_ms": 3000,
}


def _without_in_flight(settings: Mapping[str, Any]) -> Settings:
    """Remove the limit of requests in flight: one batch of a partition is in flight, which keeps the order."""
    return {name: value for name, value in settings.items() if name != "max_in_flight_requests_per_connection"}


_CLIENTS: Mapping[str, Mapping[str, Any]] = {
    "producer": {**_without_in_flight(KafkaConnectionManager.DEFAULT_CONFIG), **_PRODUCER_DEFAULTS},
    "consumer": KafkaConnectionManager.DEFAULT_CONFIG,
    "admin": KafkaAdminClient.DEFAULT_CONFIG,
}
"""The settings that the client of each section takes. Publishes and reads use bare connections."""

_OWN_PRODUCER_SETTINGS = ", ".join(sorted({*_PRODUCER_DEFAULTS, "request_timeout_ms"}))

_REPLACED = {
    "bootstrap_servers": "use the setting bootstrap_servers",
    "allow_auto_create_topics": "use the setting auto_create_topics",
    "max_request_size": "use the setting max_body_bytes",
    "socks5_proxy": "use proxy_url",
}
_FIXED = {
    **dict.fromkeys(
        ("acks", "enable_idempotence", "retries"), "acknowledged records must be neither lost nor duplicated"
    ),
    **dict.fromkeys(("transactional_id", "transaction_timeout_ms"), "messages are not published in transactions"),
    **dict.fromkeys(
        ("metrics_enabled", "metrics_num_samples", "metrics_sample_window_ms"), "metrics are not collected"
    ),
    "ssl_ciphers": "this version of kafka-python ignores it",
}
_OBJECTS = {
    *("kafka_client", "selector", "metrics", "metric_reporters", "metric_group_prefix", "partitioner"),
    *("key_serializer", "value_serializer", "ssl_context", "sasl_oauth_token_provider", "socket_options"),
}
_CHOICES = {
    "security_protocol": ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    "sasl_mechanism": tuple(sorted(set(SASL_MECHANISMS) - {"OAUTHBEARER"})),  # needs a Python object
    "compression_type": ("gzip", "snappy", "lz4", "zstd"),
}
_NUMBERS = {"receive_buffer_bytes", "send_buffer_bytes"}  # their default is None, like that of strings
_FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile")


def producer_settings(config: Config) -> Settings:
    """Return the settings of the producer and of its connections.

    A record is acknowledged or fails within `delivery_timeout_ms`, by default the setting `timeout`.
    `long_delivery_timeout_ms` is for publishes that keep trying.
    """
    timeout_ms = int(config.timeout * 1000)
    settings = _merged(
        config,
        "producer",
        {
            **_without_in_flight(_CONNECTION_DEFAULTS),
            **_PRODUCER_DEFAULTS,
            "request_timeout_ms": min(5000, timeout_ms),
            "delivery_timeout_ms": timeout_ms,
        },
    )
    long_ms = max(settings["delivery_timeout_ms"], int(DELIVERY_SECONDS * 1000))
    largest = config.max_body_bytes + MIB  # and the key, headers and framing
    return settings | {"long_delivery_timeout_ms": long_ms, "max_request_size": largest}


def connection_settings(config: Config) -> Settings:
    """Return the settings of `KafkaNetClient`, whose connections read records."""
    defaults = {
        "request_timeout_ms": 5000,
        "receive_message_max_bytes": max(100_000_000, config.max_page_bytes + config.max_body_bytes),
        **_CONNECTION_DEFAULTS,
    }
    return _merged(config, "consumer", defaults)


def admin_settings(config: Config) -> Settings:
    """Return the settings of `KafkaAdminClient`."""
    defaults = {
        "request_timeout_ms": 5000,
        "bootstrap_timeout_ms": 5000,
        "max_in_flight_requests_per_connection": 1000,
    }
    return _merged(config, "admin", defaults)


def check_client_settings(config: Config) -> None:
    """Raise `ConfigError` for settings that kafka-python would reject or ignore later, and for unusable versions."""
    check_libraries()
    known = {key for each in _CLIENTS.values() for key in each}
    _check_section(config, "kafka", known)
    for section, defaults in _CLIENTS.items():
        _check_section(config, section, set(defaults))
    _check_sasl(config)
    _check_times(config)


def _merged(config: Config, section: str, defaults: Settings) -> Settings:
    general = {key: value for key, value in config.kafka.items() if key in _CLIENTS[section]}
    merged = {
        "bootstrap_servers": list(config.bootstrap_servers),
        "client_id": "kafka_http",
        "reconnect_backoff_max_ms": 1000,
        **defaults,
        **general,
        **getattr(config, section),
    }
    if "api_version" in merged:
        merged["api_version"] = tuple(merged["api_version"])
    return merged


def _check_section(config: Config, section: str, known: set[str]) -> None:
    for key, value in getattr(config, section).items():
        where = _where(config, section, key)
        why = _REPLACED.get(key) or _FIXED.get(key) or ("it needs a Python object" if key in _OBJECTS else None)
        if why is not None:
            raise ConfigError(f"{where} cannot be set: {why}.")
        if key not in known:
            client = "the producer" if section == "producer" else "this kafka-python client"
            own = f" Its own settings: {_OWN_PRODUCER_SETTINGS}." if section == "producer" else ""
            raise ConfigError(f"{where} is not a setting of {client}.{_suggestion(key, known) or own}")
        expected = _expected(key, value)
        if expected is not None:
            raise ConfigError(f"{where} must be {expected}.")


def _where(config: Config, section: str, key: str) -> str:
    source = config.sources.get(f"{section}.{key}", "set in the program")
    return f"The setting {section}.{key} ({source})"


def _suggestion(key: str, known: set[str]) -> str:
    near = nearest(key, known - _OBJECTS - set(_FIXED) - set(_REPLACED))
    return f" Did you mean {near}?" if near else ""


def _expected(key: str, value: Any) -> str | None:
    """Return what a key must be, or None if the value fits."""
    if key in _CHOICES:
        return None if value in _CHOICES[key] else f"one of {', '.join(_CHOICES[key])}"
    if key == "api_version":
        fits = isinstance(value, list | tuple) and all(isinstance(each, int) for each in value)
        return None if fits and value else "a list of integers, such as [3, 7]"
    if key in _FILES:
        return None if isinstance(value, str) and Path(value).is_file() else "the path of a file that exists"
    return _expected_by_default(key, value)


def _expected_by_default(key: str, value: Any) -> str | None:
    default = next(each[key] for each in _CLIENTS.values() if key in each)
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float) or key in _NUMBERS:
        return None if type(value) is int and value >= 0 else "an integer, 0 or more"
    return None if isinstance(value, str) else "a string"


def _check_sasl(config: Config) -> None:
    for section in _CLIENTS:
        given = {**config.kafka, **getattr(config, section)}
        if not str(given.get("security_protocol", "PLAINTEXT")).startswith("SASL"):
            continue
        mechanism = given.get("sasl_mechanism")
        needed = ["sasl_plain_username", "sasl_plain_password"] if str(mechanism)[:5] in ("PLAIN", "SCRAM") else []
        missing = [key for key in ("sasl_mechanism", *needed) if given.get(key) is None]
        if missing:
            where = _where(config, "kafka" if "security_protocol" in config.kafka else section, "security_protocol")
            raise ConfigError(f"{where} is {given['security_protocol']}, which also needs {' and '.join(missing)}.")


def _check_times(config: Config) -> None:
    merged = producer_settings(config)
    request, delivery = merged["request_timeout_ms"], merged["delivery_timeout_ms"]
    if request + merged["linger_ms"] > delivery:
        raise ConfigError(
            f"The producer's request_timeout_ms ({request}) plus linger_ms ({merged['linger_ms']}) must be at most its "
            f"delivery_timeout_ms ({delivery}; by default from the setting timeout)."
        )
