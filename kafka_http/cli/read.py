"""`kafka-http read`: print the messages that a topic has."""

import argparse
from contextlib import closing, nullcontext

from kafka_http.cli.client_address import server_address
from kafka_http.cli.client_progress import ReadProgress
from kafka_http.cli.client_reading import TopicReading, add_reading_flags
from kafka_http.cli.client_requests import ApiClient


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_reading_flags(
        parser,
        "where to start: 5, 5-10, earliest, latest, committed, -10 (the last ten), @2026-11-21T10:00:00Z, 0:42,3:17 "
        "(default: earliest)",
    )
    parser.add_argument(
        "--contains", metavar="TEXT", help="only messages whose key, value or headers contain this text"
    )
    parser.add_argument("--key", metavar="TEXT", help="only messages with this key")


def run(arguments: argparse.Namespace) -> int:
    """Print the messages up to the end of the topic. Return the exit status. Raises `ConfigError`, `RequestError`."""
    client = ApiClient(server_address(arguments))
    reading = TopicReading(client, arguments, "earliest")
    progress = ReadProgress.of_topic(client, arguments.topic)
    search = {name: text for name in ("contains", "key") if (text := getattr(arguments, name)) is not None}
    with closing(progress) if progress else nullcontext():
        return reading.run({"until": "end", **search}, progress, endless=False)
