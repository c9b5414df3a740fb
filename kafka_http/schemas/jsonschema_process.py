"""Check values in a process of its own, with JSON Schemas for which that may take long.

jsonschema-rs holds Python's global lock during a check and cannot be interrupted, so a long check in a worker stops all
of its threads. Patterns that match in linear time (`RegexOptions`) are not enough: measured with jsonschema-rs 0.61.2,
the limit of a check being 2 s:

* A schema of 60 definitions that each refer twice to the next, or `unevaluatedProperties` in 20 levels of `anyOf`: not
  ended after 20 s, with either engine for patterns. 24 definitions: 0.25 s, and twice that for each one more.
* `anyOf` of 20,000 constants on an array of 50,000 numbers: not ended after 20 s.
* `[ab]*a[ab]{5000}c` on 400,000 characters: 14.8 s with the linear engine, 2,000 patterns on 20,000 names: 8.6 s. It
  also refuses schemas with lookahead or back references, which the default engine accepts.
* A schema of 18,000 patterns takes more than 2 GiB to compile.
"""

import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence

import msgspec

from kafka_http.errors import Unavailable
from kafka_http.schemas import jsonschema_checker
from kafka_http.schemas.jsonschema_checker import (
    CheckRequest,
    CheckResponse,
    Mismatch,
    SchemaError,
    read_message,
    write_message,
)

_WAIT_SECONDS = 10.0


class CheckAborted(Exception):
    """The check exceeded the limit of time or memory. The message says which."""


class CheckingProcess:
    """The process of one serializer. It starts on first use and again after it has ended.

    Safe in many threads; one waits for the other. Each call blocks for some seconds at most. Raises `CheckAborted`,
    `SchemaError`, and `Unavailable` if it waits too long for other threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def compile(self, schema: str, references: Sequence[tuple[str, str]]) -> None:
        """Check that a schema can be compiled."""
        self._call(CheckRequest(schema, list(references)))

    def find_mismatch(self, schema: str, references: Sequence[tuple[str, str]], data: bytes) -> Mismatch | None:
        """Return the first part of a JSON text that does not fit; None if all fits."""
        return self._call(CheckRequest(schema, list(references), data)).mismatch

    def _call(self, request: CheckRequest) -> CheckResponse:
        if not self._lock.acquire(timeout=_WAIT_SECONDS):
            raise Unavailable("Too many values are waiting to be checked against complex JSON Schemas.")
        try:
            response = self._exchange(request)
        finally:
            self._lock.release()
        if response.schema_problem is not None:
            raise SchemaError(response.schema_problem)
        return response

    def _exchange(self, request: CheckRequest) -> CheckResponse:
        process = self._running()
        assert process.stdin  # noqa: S101  for the type checker
        assert process.stdout  # noqa: S101
        try:
            write_message(request, process.stdin)
            message = read_message(process.stdout)
        except BrokenPipeError:
            message = b""
        if not message:
            timed_out = process.wait() == -signal.SIGALRM
            raise CheckAborted("takes too long" if timed_out else "takes too much memory")
        return msgspec.msgpack.decode(message, type=CheckResponse)

    def _running(self) -> subprocess.Popen[bytes]:
        # In a session of its own, so that a Ctrl-C in the terminal does not end it during a check.
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", jsonschema_checker.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            weakref.finalize(self, _end, self._process)
        return self._process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with process:  # closes its pipes and waits for it
        pass
