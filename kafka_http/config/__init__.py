"""Typed settings (`settings`), their sources (`sources`), and errors with suggestions (`setting_errors`)."""

from kafka_http.config.settings import Config, ConfigError

__all__ = ["Config", "ConfigError"]
