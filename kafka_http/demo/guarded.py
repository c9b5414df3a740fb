"""A process of the demo's under its guard: it ends with this one, whatever ends this one."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kafka_http.demo import guard


class GuardedProcess:
    """One command at a time, `name` to the user, its output appended to `log_file`. One thread at a time."""

    def __init__(self, name: str, log_file: Path) -> None:
        self._name = name
        self._log_file = log_file
        self._log_start = 0
        self._guard: subprocess.Popen[bytes] | None = None
        self.pid: int | None = None
        """The command's own process, from a start until a stop."""

    @property
    def is_running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def start(
        self, command: Sequence[str | Path], environment: Mapping[str, str], directory: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Start the command, in that directory. The guard inherits `pass_fds`, the command does not."""
        self.wait()
        self._log_start = self._log_file.stat().st_size if self._log_file.exists() else 0
        self._guard = subprocess.Popen(
            [sys.executable, "-IS", guard.__file__, str(os.getpid()), self._log_file, self._name, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            cwd=directory,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        assert self._guard.stdout  # noqa: S101  for the type checker
        self.pid = int(self._guard.stdout.readline())

    def announce_end(self) -> None:
        """From now on, say so on stderr where it ends and nobody here has asked for it."""
        self._tell(guard.ANNOUNCE)

    def stop(self) -> None:
        """Let it end in order, and wait until it has. Without effect where it does not run."""
        self._tell(guard.STOP)
        self.wait()

    def kill(self) -> None:
        """End it as kill -9 does, and wait until it is gone."""
        if self.is_running and self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Wait until it has ended."""
        if self._guard is None:
            return
        with self._guard as gone:  # closes the pipes, then waits
            gone.wait(2 * guard.GRACE)
        self._guard, self.pid = None, None

    def output(self) -> str:
        """What it has said since the last start."""
        with self._log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def _tell(self, order: bytes) -> None:
        if self._guard and self._guard.stdin:
            with suppress(BrokenPipeError):
                self._guard.stdin.write(order)
