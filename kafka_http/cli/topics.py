"""`kafka-http topics`: list topics, show one, or create one."""

import argparse
from typing import Any

import msgspec

from kafka_http.cli.client_address import add_server_flags, server_address
from kafka_http.cli.client_output import note, write_json, write_table
from kafka_http.cli.client_requests import ApiClient, RequestError, path_of

_JSON = {"Content-Type": "application/json"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("topic", metavar="TOPIC", nargs="?", help="show the partitions of this topic")
    parser.add_argument("--create", action="store_true", help="create the topic")
    parser.add_argument("--partitions", type=int, metavar="N", help="with --create (default: the broker's)")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json: print JSON")
    add_server_flags(parser)
    parser.set_defaults(usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """List, show or create. Return the exit status. Raises `ConfigError`, `RequestError`."""
    if arguments.create and not arguments.topic:
        arguments.usage_error("--create needs the name of the topic")
    if arguments.partitions is not None and not arguments.create:
        arguments.usage_error("--partitions needs --create")
    client = ApiClient(server_address(arguments))
    if arguments.create:
        answer = _create(client, arguments.topic, arguments.partitions)
    else:
        answer = client.call(
            "GET", path_of("messages", *filter(None, [arguments.topic])), "partitions" if arguments.topic else "topics"
        )
    if arguments.output == "json":
        write_json(answer)
    elif arguments.topic:
        _print_partitions(answer)
    else:
        print("".join(f"{name}\n" for name in answer["topics"]), end="")
    return 0


def _create(client: ApiClient, topic: str, partitions: int | None) -> Any:
    wanted = {"topic": topic} | ({} if partitions is None else {"partitions": partitions})
    try:
        body = msgspec.json.encode(wanted)
    except UnicodeEncodeError:  # the argument has bytes that are not UTF-8
        raise RequestError(f"The name of a topic must be text, got {topic!r}.", 400) from None
    created = client.call("POST", "/messages", "partitions", body=body, headers=_JSON)
    note(f"Created the topic {topic}.")
    return created


def _print_partitions(topic: Any) -> None:
    rows = [
        (str(each["partition"]), str(each["earliest"]), str(each["latest"]), str(each["leader"]))
        for each in topic["partitions"]
    ]
    write_table([("partition", "first", "end", "leader"), *rows])
