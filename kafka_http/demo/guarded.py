"""A program that ends with this process, whatever ends this one: `guard.py` from this side."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kafka_http.demo import guard


class Guarded:
    """A command that runs under a guard, its output at the end of a log file.

    `pass_fds` stay open in the guard as long as it runs.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log_file: Path,
        environment: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._log_file = log_file
        self._log_start = log_file.stat().st_size if log_file.exists() else 0
        self._guard = subprocess.Popen(
            [sys.executable, "-IS", guard.__file__, str(os.getpid()), log_file, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        assert self._guard.stdout  # noqa: S101  for the type checker
        self.pid = int(self._guard.stdout.readline())

    @property
    def is_running(self) -> bool:
        return self._guard.poll() is None

    @property
    def log(self) -> str:
        """What it has logged since its start."""
        with self._log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def announce_end(self) -> None:
        """From now on its end is announced on stderr where nobody here has asked for it."""
        self._tell(guard.ANNOUNCE)

    def stop(self) -> None:
        """End it with SIGTERM, with SIGKILL where that takes too long, and wait until it has ended."""
        self._tell(guard.STOP)
        self.wait()

    def wait(self) -> None:
        with self._guard as gone:  # closes the pipes, then waits
            gone.wait(2 * guard.GRACE)

    def _tell(self, order: bytes) -> None:
        if self._guard.stdin and not self._guard.stdin.closed:
            with suppress(BrokenPipeError):
                self._guard.stdin.write(order)
