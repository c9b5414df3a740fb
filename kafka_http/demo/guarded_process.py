"""A child process that ends with this process, even if this process is killed."""

import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kafka_http.demo import process_guard


class GuardedProcess:
    """Runs one command at a time under a guard (`process_guard`) and appends its output to `log_file`.

    `name` is what messages call it. Not thread-safe.
    """

    def __init__(self, name: str, log_file: Path) -> None:
        self._name = name
        self._log_file = log_file
        self._log_start = 0
        self._guard: subprocess.Popen[bytes] | None = None
        self.pid: int | None = None
        """The process id of the command itself, from a start until a stop."""

    @property
    def is_running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def start(
        self,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        directory: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start the command in `directory`. The guard inherits `pass_fds`, the command does not."""
        self.wait()
        self._log_start = self._log_file.stat().st_size if self._log_file.exists() else 0
        self._guard = subprocess.Popen(
            [sys.executable, "-IS", process_guard.__file__, str(os.getpid()), self._log_file, self._name, *command],
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
        """Print a message on stderr if the command ends by itself from now on."""
        self._send(process_guard.ANNOUNCE)

    def stop(self) -> None:
        """Stop the command gracefully and wait for its end. No effect if it does not run."""
        self._send(process_guard.STOP)
        self.wait()

    def kill(self) -> None:
        """End the command as kill -9 does and wait for its end."""
        if self.is_running and self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Wait until the command has ended."""
        if self._guard is None:
            return
        with self._guard as guard:  # closes the pipes, then waits
            guard.wait(2 * process_guard.GRACE_SECONDS)
        self._guard, self.pid = None, None

    def output(self) -> str:
        """The output since the last start."""
        with self._log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def _send(self, order: bytes) -> None:
        if self._guard and self._guard.stdin:
            with suppress(BrokenPipeError):
                self._guard.stdin.write(order)


class GuardedServer(ABC):
    """A server in a `GuardedProcess`: what the demo's Kafka and its registry have in common."""

    def __init__(self, process: GuardedProcess) -> None:
        self._process = process

    @property
    def is_running(self) -> bool:
        """Whether the server's process runs."""
        return self._process.is_running

    @property
    def pid(self) -> int | None:
        """The process id of the server itself, from a start until a stop."""
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        self.launch()
        self.wait_until_ready()

    @abstractmethod
    def launch(self) -> None:
        """Start the server without waiting."""

    @abstractmethod
    def wait_until_ready(self) -> None:
        """Wait until the server answers. If it fails, stop it."""

    def stop(self) -> None:
        """Stop the server gracefully and wait for its end. No effect if it does not run."""
        self._process.stop()

    def kill(self) -> None:
        """End the server as kill -9 does and wait for its end. `start` starts it again."""
        self._process.kill()
