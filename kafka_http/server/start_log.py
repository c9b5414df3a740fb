"""The log lines at the start of a server: its address, its processes, and which of its parts are on."""

import logging
import platform
from collections.abc import Iterator
from importlib.metadata import version

from kafka_http.config import Config
from kafka_http.config.settings import without_passwords

log = logging.getLogger("kafka_http.server")

_SCHEMES = ("basic", "keys", "jwt", "mtls", "proxy_header", "anonymous")


def log_start(config: Config) -> None:
    """Log in a few lines what a server with these settings does. No line has a password."""
    scheme = "https" if config.tls_cert else "http"
    log.info(
        "kafka_http %s on Python %s: %d worker%s with %d threads each, data_dir %s.",
        *(version("kafka_http"), platform.python_version()),
        *(config.workers, "" if config.workers == 1 else "s", config.threads, config.data_dir),
    )
    log.info("Address: %s://%s. Kafka brokers: %s.", scheme, config.bind, brokers_text(config))
    parts = dict(_parts(config))
    on = [f"{name} ({detail})" if detail else name for name, detail in parts.items() if detail is not None]
    off = [name for name, detail in parts.items() if detail is None]
    log.info("On: %s. Off: %s.", without_passwords(", ".join(on)) or "nothing", ", ".join(off) or "nothing")


def brokers_text(config: Config) -> str:
    """Return the addresses of the brokers and how this server connects to them.

    >>> brokers_text(Config())
    'localhost:9092 (PLAINTEXT)'
    """
    protocol = str(config.kafka.get("security_protocol", "PLAINTEXT"))
    mechanism = config.kafka.get("sasl_mechanism") if protocol.startswith("SASL") else None
    return f"{', '.join(config.bootstrap_servers)} ({protocol}{f', {mechanism}' if mechanism else ''})"


def _parts(config: Config) -> Iterator[tuple[str, str | None]]:
    """Yield the setting of each part with a detail, which is None if the part is off."""
    schemes = [each for each in _SCHEMES if config.auth.get(each)]
    registry = config.schema_registry.get("url", "")
    registries = registry if isinstance(registry, str) else ", ".join(registry)
    yield "auth", ", ".join(schemes) or None
    yield "access", config.access_rules if config.access or config.access_rules == "kafka" else None
    yield "limits", _switch(bool(config.limits))
    yield "tls_cert", _switch(bool(config.tls_cert))
    yield "topic_admin", _switch(config.topic_admin)
    yield "auto_create_topics", _switch(config.auto_create_topics)
    yield "console", _switch(config.console)
    yield "metrics_bind", config.metrics_bind or None
    yield "schema_registry", registries or None
    yield "fast_path", _switch(config.fast_path)
    yield "store_url", _switch(bool(config.store_url))
    yield "access_log", _switch(config.access_log)


def _switch(is_on: bool) -> str | None:
    return "" if is_on else None
