"""The process that checks with a JSON Schema which may take long: started when it is first needed, ended in time."""

import itertools
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence

import msgspec

from kafka_http.errors import Unavailable
from kafka_http.schemas import jsonschema_checker
from kafka_http.schemas.jsonschema_checker import CheckRequest, CheckResponse, Fault, SchemaFault, read, write

COMPILE_SECONDS = 5.0
CHECK_SECONDS = 2.0
_WAIT_SECONDS = 10.0


class TookTooLong(Exception):
    """The process was ended, or crashed, over what it was asked."""


class CheckingProcess:
    """One process for all the schemas of one serialiser. Safe in many threads: one asks after the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()

    def compile(self, text: str, references: Sequence[tuple[str, str]]) -> "CheckerElsewhere":
        """Raises `SchemaFault`, `TookTooLong`, `Unavailable`."""
        return CheckerElsewhere(self, next(self._numbers), text, list(references))

    def ask(self, request: CheckRequest) -> CheckResponse:
        """Raises `TookTooLong`, and `Unavailable` where others have asked for too much."""
        if not self._lock.acquire(timeout=_WAIT_SECONDS):
            raise Unavailable("Too many values are being checked against schemas with which that takes long.")
        try:
            return self._ask(request)
        finally:
            self._lock.release()

    def _ask(self, request: CheckRequest) -> CheckResponse:
        process = self._running()
        assert process.stdin  # noqa: S101  for the type checker
        assert process.stdout  # noqa: S101
        try:
            write(request, process.stdin)
            message = read(process.stdout)
        except BrokenPipeError:
            message = b""
        if not message:
            status = process.wait()
            raise TookTooLong("takes too long" if status == -signal.SIGALRM else "takes too much memory")
        return msgspec.msgpack.decode(message, type=CheckResponse)

    def _running(self) -> subprocess.Popen[bytes]:
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


class CheckerElsewhere:
    """A schema that the process checks with."""

    def __init__(self, process: CheckingProcess, number: int, text: str, references: list[tuple[str, str]]) -> None:
        self._process = process
        self._number = number
        self._schema = (text, references)
        self._ask_with_schema(None)

    def fault_in(self, data: bytes) -> Fault | None:
        """The first thing that does not fit; None where all does. Raises `TookTooLong`, `Unavailable`."""
        answer = self._process.ask(CheckRequest(self._number, CHECK_SECONDS, data=data))
        if answer.kind == "unknown":
            answer = self._ask_with_schema(data)
        return answer.fault

    def _ask_with_schema(self, data: bytes | None) -> CheckResponse:
        answer = self._process.ask(CheckRequest(self._number, COMPILE_SECONDS, *self._schema, data))
        if answer.kind == "bad schema":
            raise SchemaFault(answer.problem)
        return answer
