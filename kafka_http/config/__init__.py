"""Typed settings: what there is (`settings`), where values come from (`sources`), and suggestions for typos."""

from kafka_http.config.settings import Config, ConfigError

__all__ = ["Config", "ConfigError"]
