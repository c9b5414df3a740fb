"""Typed settings (`settings`), their sources and errors (`sources`), and suggestions (`spelling`)."""

from kafka_http.config.settings import Config, ConfigError

__all__ = ["Config", "ConfigError"]
