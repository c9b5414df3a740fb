"""Builds the state of the check point from the settings and the files that they name."""

from kafka_http.config import Config, ConfigError
from kafka_http.security.access_rules import AllowAll
from kafka_http.security.auth_settings import AuthSettings
from kafka_http.security.check_point import SecurityState
from kafka_http.security.principal import Authenticator
from kafka_http.security.rate_limits import load_limits
from kafka_http.security.shared_counters import SharedCounters


def load_security(config: Config, shared: SharedCounters) -> SecurityState:
    """Read what the settings name. `shared` is the same at each reload.

    Raises `ConfigError`, which names the file and the line.
    """
    settings = AuthSettings.from_config(config.auth, config.sources)
    if (config.access or config.access_rules == "kafka") and not settings.is_on:
        raise ConfigError("Access rules need authentication: add the section [auth].")
    limits = load_limits(config.limits, config.sources, shared)
    return SecurityState(_authenticators(config, settings), AllowAll(), frozenset(settings.anonymous), limits)


def _authenticators(config: Config, settings: AuthSettings) -> list[Authenticator]:
    """Return the kinds of credentials that are on, in the order in which they are tried."""
    return []
