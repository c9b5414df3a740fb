"""`kafka-http ack`: acknowledge messages for a consumer."""

import argparse

from kafka_http.cli.client_address import add_server_flags, server_address
from kafka_http.cli.client_output import note
from kafka_http.cli.client_requests import ApiClient, path_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument("consumer", metavar="CONSUMER")
    parser.add_argument("position", metavar="POSITION", help="the last message that is done, such as 0:42 or 0:42,3:17")
    add_server_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Acknowledge the messages at the position and all before them. Raises `ConfigError`, `RequestError`."""
    client = ApiClient(server_address(arguments))
    client.call("DELETE", path_of("messages", arguments.topic, arguments.consumer, arguments.position))
    note(f"{arguments.consumer} has acknowledged {arguments.topic} up to {arguments.position}.")
    return 0
