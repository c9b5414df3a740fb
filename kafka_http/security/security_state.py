"""Builds the state of the check point from the settings and the files that they name."""

from kafka_http.config import Config, ConfigError
from kafka_http.security.access_rules import AllowAll
from kafka_http.security.auth_settings import AuthSettings
from kafka_http.security.check_point import SecurityState
from kafka_http.security.origins import Origins
from kafka_http.security.principal import Authenticator
from kafka_http.security.rate_limits import NoLimits


def load_security(config: Config) -> SecurityState:
    """Read what the settings name. Raises `ConfigError`, which names the file and the line."""
    settings = AuthSettings.from_config(config.auth, config.sources)
    if (config.access or config.access_rules == "kafka") and not settings.is_on:
        raise ConfigError("Access rules need authentication: add the section [auth].")
    return SecurityState(
        _authenticators(config, settings), AllowAll(), frozenset(settings.anonymous), NoLimits(), _origins(config)
    )


def _authenticators(config: Config, settings: AuthSettings) -> list[Authenticator]:
    """Return the kinds of credentials that are on, in the order in which they are tried."""
    return []


def _origins(config: Config) -> Origins:
    origins = Origins(config.cors_origins, credentials=config.cors_credentials, max_age=config.cors_max_age)
    if config.cors_credentials and origins.allows_reading:
        raise ConfigError(
            "cors_credentials cannot be used with * in cors_origins. List the origins that may send credentials, such "
            "as https://app.example.org."
        )
    return origins
