"""The command that `work` runs for each message: a shell with the message on stdin and its metadata as variables."""

import os
import signal
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import IO

from kafka_http.cli.client_queue import AcquiredMessage

PREFIX = "KAFKA_HTTP_"
_SHELL = "/bin/sh"
_CANNOT_RUN = (126, 127)
_MAX_BYTES = 90_000
"""Longest value of a variable: Linux allows 128 KiB, and base64 adds a third."""
_Variables = dict[bytes, bytes]


class MessageCommand:
    """Runs one shell command for messages, each in a process group of its own. Any thread may call."""

    def __init__(self, text: str, common: Mapping[str, str]) -> None:
        """`common` are variables for all messages, without their prefix.

        No other variable with the prefix is passed on: it may be a password, or be mistaken for a header.
        """
        self._text = text
        inherited = {name: value for name, value in os.environb.items() if not name.startswith(PREFIX.encode())}
        self._environment = inherited | {os.fsencode(PREFIX + name): os.fsencode(common[name]) for name in common}
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_killed = False

    def run(self, message: AcquiredMessage) -> int:
        """Run the command to its end. Return its exit status: below 0 is the signal that ended it. Raises `OSError`."""
        # A file, not a pipe: if this worker is killed, the command must not take a part of the message for all of it.
        with TemporaryFile() as file:
            file.write(message.value or b"")
            file.seek(0)
            with self._process(message, file) as process:
                return process.wait()

    @contextmanager
    def _process(self, message: AcquiredMessage, stdin: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        # A session of its own: the terminal's Ctrl-C is for this program alone, which waits for the command.
        process = subprocess.Popen(
            [_SHELL, "-c", self._text],
            stdin=stdin,
            env=self._environment | message_variables(message),
            start_new_session=True,
        )
        with self._lock:
            self._running.add(process)
            is_late = self._is_killed
        if is_late:
            _kill([process])
        try:
            yield process
        finally:
            with self._lock:
                self._running.discard(process)

    def kill_all(self) -> None:
        """Kill what runs, with its child processes, and what is started later."""
        with self._lock:
            self._is_killed = True
            _kill(self._running)


def _kill(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def cannot_run(status: int) -> bool:
    """Return whether the shell did not find the command, or may not run it."""
    return status in _CANNOT_RUN


def status_text(status: int) -> str:
    """Return what a command did, as the predicate of a sentence."""
    if status >= 0:
        return f"exited with {status}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"


def message_variables(message: AcquiredMessage) -> _Variables:
    """Return the variables of a message. Of headers with the same name the last one counts, as in Kafka."""
    variables: dict[str, bytes | None] = {
        "PARTITION": b"%d" % message.partition,
        "OFFSET": b"%d" % message.offset,
        "ATTEMPT": b"%d" % message.attempt,
        "LEASE": message.lease.encode(),
        "TIMESTAMP": None if message.timestamp is None else b"%d" % message.timestamp,
        "TOMBSTONE": b"true" if message.value is None else None,
        "KEY": message.key,
    }
    for name, value in message.headers:
        stored = value["base64"] if isinstance(value, Mapping) else value
        variables[_header_variable(name)] = stored.encode() if isinstance(stored, str) else stored
    return dict(
        _variable(name, value) for name, value in variables.items() if value is not None and len(value) <= _MAX_BYTES
    )


def _header_variable(name: str) -> str:
    return "HEADER_" + "".join(each if each.isascii() and each.isalnum() else "_" for each in name.upper())


def _variable(name: str, value: bytes) -> tuple[bytes, bytes]:
    """Return a variable. A value with a zero byte is in base64, because a variable cannot have one."""
    name, value = (f"{name}_BASE64", b64encode(value)) if b"\0" in value else (name, value)
    return f"{PREFIX}{name}".encode(), value
