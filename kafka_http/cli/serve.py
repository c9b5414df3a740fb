"""`kafka-http serve`: the server in front of your own brokers."""

import argparse

from kafka_http import server
from kafka_http.cli.setting_flags import given_settings
from kafka_http.config.sources import load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `serve` has no flags other than the settings."""


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Raises `ConfigError`, `CannotServe`."""
    server.run(load_config(given_settings(arguments)))
    return 0
