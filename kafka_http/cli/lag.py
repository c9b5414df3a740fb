"""`kafka-http lag`: how far a consumer is behind the end of a topic."""

import argparse

from kafka_http.cli.client_address import add_server_flags, server_address
from kafka_http.cli.client_output import write_json, write_table
from kafka_http.cli.client_requests import ApiClient, path_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument("consumer", metavar="CONSUMER")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json: print JSON")
    add_server_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the committed offset, the end and the lag of each partition. Raises `ConfigError`, `RequestError`."""
    client = ApiClient(server_address(arguments))
    progress = client.call("GET", path_of("messages", arguments.topic, arguments.consumer), "partitions")
    if arguments.output == "json":
        write_json(progress)
        return 0
    partitions = progress["partitions"]
    rows = [
        (str(each["partition"]), _text(each["committed"]), str(each["latest"]), str(each["lag"])) for each in partitions
    ]
    total = ("total", "", "", str(sum(each["lag"] for each in partitions)))
    write_table([("partition", "committed", "end", "lag"), *rows, total])
    return 0


def _text(offset: int | None) -> str:
    return "-" if offset is None else str(offset)
