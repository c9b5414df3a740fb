"""`kafka-http tail`: print messages as they are published, until Ctrl-C."""

import argparse
import os
import select
import signal
import sys
import threading
from stat import S_ISFIFO

from kafka_http.cli.client_address import server_address
from kafka_http.cli.client_reading import OffsetSpan, TopicReading, add_reading_flags
from kafka_http.cli.client_requests import ApiClient


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_reading_flags(
        parser,
        "where to start: 5, earliest, latest, committed, -10 (the last ten), @2026-11-21T10:00:00Z, 0:42,3:17 "
        "(default: latest)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print messages without end. After a broken connection, continue. Raises `ConfigError`, `RequestError`."""
    span = OffsetSpan.parse(arguments.offset or "")
    if span and span.last is not None:
        arguments.usage_error("tail has no end, so --offset must not be a range. Use `kafka-http read`.")
    client = ApiClient(server_address(arguments))
    if S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode):
        threading.Thread(target=_end_with_stdout, name="stdout", daemon=True).start()
    return TopicReading(client, arguments, "latest").run({}, endless=True)


def _end_with_stdout() -> None:
    """End the process when the next program in the pipe has ended, even if there is nothing to print."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # only for POLLERR and POLLHUP
    poll.poll()
    os._exit(128 + signal.SIGPIPE)
