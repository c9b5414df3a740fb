"""The settings that each kafka-python client is made with: ours, over them `[kafka]`, over it the client's own section.

Why ours differ from kafka-python's: time-outs that fit a waiting HTTP client, and quick recovery after an outage.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.net.manager import KafkaConnectionManager
from kafka.net.sasl import SASL_MECHANISMS

from kafka_http.broker.batch_append import check_libraries
from kafka_http.config import Config, ConfigError
from kafka_http.config.settings import MIB

Settings = dict[str, Any]

DELIVERY_SECONDS = 120.0
"""How long Kafka is asked for the fate of records that come with an Idempotency-Key, or from the outbox."""

_CLIENTS: Mapping[str, Mapping[str, Any]] = {
    "producer": KafkaProducer.DEFAULT_CONFIG,
    "consumer": KafkaConnectionManager.DEFAULT_CONFIG,
    "admin": KafkaAdminClient.DEFAULT_CONFIG,
}
"""What the client of each section can be given; reading takes place on bare connections."""

_BY_OURS = {
    "bootstrap_servers": "the setting bootstrap_servers says it",
    "allow_auto_create_topics": "the setting auto_create_topics says it",
    "max_request_size": "the setting max_body_bytes says it",
    "socks5_proxy": "proxy_url says it",
}
_FIXED = {
    **dict.fromkeys(("acks", "enable_idempotence", "retries"), "what is acknowledged must neither be lost nor doubled"),
    **dict.fromkeys(("transactional_id", "transaction_timeout_ms"), "messages are not published in transactions"),
    **dict.fromkeys(("metrics_enabled", "metrics_num_samples", "metrics_sample_window_ms"), "no metrics are kept"),
    "ssl_ciphers": "this version of kafka-python does not act on it",
}
_OBJECTS = {
    *("kafka_client", "selector", "metrics", "metric_reporters", "metric_group_prefix", "partitioner"),
    *("key_serializer", "value_serializer", "ssl_context", "sasl_oauth_token_provider", "socket_options"),
}
_CHOICES = {
    "security_protocol": ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    "sasl_mechanism": tuple(sorted(set(SASL_MECHANISMS) - {"OAUTHBEARER"})),  # it wants a Python object
    "compression_type": ("gzip", "snappy", "lz4", "zstd"),
}
_NUMBERS = {"receive_buffer_bytes", "send_buffer_bytes"}  # None by default, as the texts are
_FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile")


def producer_settings(config: Config) -> Settings:
    """For `KafkaProducer`. An acknowledgement or an error comes within `timeout`."""
    timeout_ms = int(config.timeout * 1000)
    ours = {
        "acks": "all",
        "linger_ms": 0,
        "batch_size": 262144,
        "max_request_size": config.max_body_bytes + MIB,  # key, headers and framing beside the value
        "allow_auto_create_topics": config.auto_create_topics,
        "max_block_ms": min(5000, timeout_ms),
        "bootstrap_timeout_ms": min(5000, timeout_ms),
        "request_timeout_ms": min(5000, timeout_ms),
        "delivery_timeout_ms": timeout_ms,
        "metrics_enabled": False,
    }
    return _merged(config, "producer", ours)


def patient_settings(config: Config) -> Settings:
    """For the `KafkaProducer` of records whose fate somebody waits for longer than any client: `DELIVERY_SECONDS`."""
    settings = producer_settings(config)
    return settings | {"delivery_timeout_ms": max(settings["delivery_timeout_ms"], int(DELIVERY_SECONDS * 1000))}


def connection_settings(config: Config) -> Settings:
    """For `KafkaNetClient`: the connections on which records are read."""
    ours = {
        "request_timeout_ms": 5000,
        "receive_message_max_bytes": max(100_000_000, config.max_page_bytes + config.max_body_bytes),
        "max_in_flight_requests_per_connection": 1000,
        "socket_connection_setup_timeout_ms": 3000,
    }
    return _merged(config, "consumer", ours)


def admin_settings(config: Config) -> Settings:
    """For `KafkaAdminClient`."""
    ours = {
        "request_timeout_ms": 5000,
        "bootstrap_timeout_ms": 5000,
        "max_in_flight_requests_per_connection": 1000,
    }
    return _merged(config, "admin", ours)


def check_client_settings(config: Config) -> None:
    """Raise `ConfigError` for settings that kafka-python would reject or ignore when the first client is made, and for
    versions of the libraries that cannot be used."""
    check_libraries()
    known = {key for each in _CLIENTS.values() for key in each}
    _check_section(config, "kafka", known)
    for section, defaults in _CLIENTS.items():
        _check_section(config, section, set(defaults))
    _check_sasl(config)
    _check_times(config)


def _merged(config: Config, section: str, ours: Settings) -> Settings:
    general = {key: value for key, value in config.kafka.items() if key in _CLIENTS[section]}
    merged = {
        "bootstrap_servers": list(config.bootstrap_servers),
        "client_id": "kafka_http",
        "reconnect_backoff_max_ms": 1000,
        **ours,
        **general,
        **getattr(config, section),
    }
    if "api_version" in merged:
        merged["api_version"] = tuple(merged["api_version"])
    return merged


def _check_section(config: Config, section: str, known: set[str]) -> None:
    for key, value in getattr(config, section).items():
        where = _where(config, section, key)
        why = _BY_OURS.get(key) or _FIXED.get(key) or ("it takes a Python object" if key in _OBJECTS else None)
        if why is not None:
            raise ConfigError(f"{where} cannot be set: {why}.")
        if key not in known:
            raise ConfigError(f"{where} is not one of kafka-python's settings for this use.{_near(key, known)}")
        wanted = _wanted(key, value)
        if wanted is not None:
            raise ConfigError(f"{where} takes {wanted}.")


def _where(config: Config, section: str, key: str) -> str:
    source = config.sources.get(f"{section}.{key}", "given in the program")
    return f"The setting {section}.{key} ({source})"


def _near(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, known - _OBJECTS - set(_FIXED) - set(_BY_OURS), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _wanted(key: str, value: Any) -> str | None:
    """What a key takes, where the value is not that."""
    if key in _CHOICES:
        return None if value in _CHOICES[key] else f"one of {', '.join(_CHOICES[key])}"
    if key == "api_version":
        fits = isinstance(value, list | tuple) and all(isinstance(each, int) for each in value)
        return None if fits and value else "a list of numbers, such as [3, 7]"
    if key in _FILES:
        return None if isinstance(value, str) and Path(value).is_file() else "the path of a file that exists"
    return _wanted_by_default(key, value)


def _wanted_by_default(key: str, value: Any) -> str | None:
    default = next(each[key] for each in _CLIENTS.values() if key in each)
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float) or key in _NUMBERS:
        return None if type(value) is int and value >= 0 else "a whole number"
    return None if isinstance(value, str) else "a text, a number in quotes"


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
            raise ConfigError(f"{where} is {given['security_protocol']}: that needs {' and '.join(missing)} as well.")


def _check_times(config: Config) -> None:
    merged = producer_settings(config)
    request, delivery = merged["request_timeout_ms"], merged["delivery_timeout_ms"]
    if request + merged["linger_ms"] > delivery:
        raise ConfigError(
            f"The producer's request_timeout_ms ({request}) and linger_ms ({merged['linger_ms']}) together are above"
            f" its delivery_timeout_ms ({delivery}, by the setting timeout unless given)."
        )
    if merged.get("max_in_flight_requests_per_connection", 5) > 5:
        raise ConfigError("The producer takes at most 5 as max_in_flight_requests_per_connection.")
