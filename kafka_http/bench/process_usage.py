"""CPU time and memory of the server."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_DAEMON = "kafka_http.node.daemon"


class ProcessUsage:
    """Measures all processes of a server: the main process `pid`, the workers, and the node's daemon."""

    def __init__(self, pid: int, data_dir: Path) -> None:
        self._pid = pid
        self._data_dir = data_dir

    def cpu(self) -> float:
        """The CPU seconds since the start of the processes."""
        total = 0.0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory(self) -> int:
        """The resident bytes."""
        total = 0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def processes(self) -> list[psutil.Process]:
        """The processes: the main process first, the daemon last."""
        main = psutil.Process(self._pid)
        return [main, *main.children(recursive=True), *self.daemons()]

    def daemons(self) -> Iterator[psutil.Process]:
        """The node's daemon, if it runs."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                command = process.cmdline()
                if _DAEMON in command and str(self._data_dir) in command:
                    yield process
