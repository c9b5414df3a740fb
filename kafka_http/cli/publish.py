"""`kafka-http publish`: publish the lines of a file or of stdin, or a whole file."""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from kafka_http.cli.client_address import add_server_flags, server_address
from kafka_http.cli.client_batches import BatchPublisher, LineRecords
from kafka_http.cli.client_lines import MAX_LINE_BYTES, Line, batches
from kafka_http.cli.client_output import note, write_json
from kafka_http.cli.client_progress import progress_bar
from kafka_http.cli.client_requests import ApiClient, RequestError
from kafka_http.config import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("topic", metavar="TOPIC")
    file = parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="the input (default: -, stdin)")
    file.complete = {"bash": "_shtab_compgen_files", "zsh": "_files"}  # type: ignore[attr-defined]  # shtab reads it
    parser.add_argument("-k", "--key", type=os.fsencode, metavar="KEY", help="key of all messages")
    parser.add_argument(
        "-H",
        "--header",
        type=_header,
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="header of all messages; can be repeated",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--whole", action="store_true", help="one message with all bytes (default: a message a line)")
    kind.add_argument("--records", action="store_true", help="a line is a record in JSON, as `read -o json` prints it")
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="json: print where each message is"
    )
    add_server_flags(parser)
    parser.set_defaults(usage_error=parser.error)


def _header(text: str) -> tuple[str, bytes]:
    name, colon, value = os.fsencode(text).partition(b":")
    if not name or not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:VALUE")
    try:
        return name.decode(), value
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError(f"the name of the header {text!r} is not UTF-8") from None


def run(arguments: argparse.Namespace) -> int:
    """Publish the input in order. Return the exit status. Raises `ConfigError`, `RequestError`."""
    if arguments.records and (arguments.key is not None or arguments.header):
        arguments.usage_error("--records cannot be combined with -k and -H: the records have keys and headers")
    publisher = BatchPublisher(ApiClient(server_address(arguments)), arguments.topic)
    try:
        _publish(arguments, publisher)
    except RequestError as error:
        raise error if arguments.whole else error.extended(str(publisher.report)) from None
    except KeyboardInterrupt:
        note(str(publisher.report))
        raise
    plural = "" if publisher.report.count == 1 else "s"
    note(f"Published {publisher.report.count} message{plural} to {arguments.topic}.")
    return 0


def _publish(arguments: argparse.Namespace, publisher: BatchPublisher) -> None:
    to_record = LineRecords(arguments.key, arguments.header)
    with _open(arguments.file) as file, _progress(file) as advance:
        for lines in _whole(file) if arguments.whole else batches(file):
            kept = [each for each in lines if each.text.strip()] if arguments.records else lines
            records = [each.text if arguments.records else to_record(each) for each in kept]
            for result in publisher.publish(kept, records):
                if arguments.output == "json":
                    write_json(result)
            advance(sum(len(each.text) + 1 for each in lines))


def _open(name: str) -> BinaryIO:
    """Open the input without a buffer: what is read must be published before more is read. Raises `ConfigError`."""
    try:
        if name == "-":
            return open(0, "rb", buffering=0, closefd=False)  # stdin, which `sys.stdin` would buffer
        return Path(name).open("rb", buffering=0)
    except OSError as error:
        raise ConfigError(f"The input {name} cannot be read: {error.strerror}.") from None


@contextmanager
def _progress(file: BinaryIO) -> Iterator[Callable[[int], object]]:
    status = os.fstat(file.fileno())
    size = status.st_size if S_ISREG(status.st_mode) else None
    with progress_bar(size, "B", shown=not os.isatty(file.fileno())) as advance:
        yield advance


def _whole(file: BinaryIO) -> Iterator[list[Line]]:
    """Yield the whole input as one line. Raises `RequestError` if it is over 64 MiB."""
    content = bytearray()
    while data := os.read(file.fileno(), 1 << 20):
        content += data
        if len(content) > MAX_LINE_BYTES:
            raise RequestError("The input is larger than 64 MiB.", 413)
    yield [Line(0, bytes(content))]
