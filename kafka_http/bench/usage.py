"""What processes take of the machine: CPU time and memory."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import psutil

_DAEMON = "kafka_http.node.daemon"


class UsageSample(NamedTuple):
    """CPU seconds since the processes' start, the server's by process id; None for those that nobody can see."""

    server: dict[int, float] | None
    workers: list[int]
    broker: float | None
    busy: float
    all: float

    def since(self, before: Self) -> "Spent":
        busy = (self.busy - before.busy) / max(self.all - before.all, 1e-9)
        broker = None if self.broker is None or before.broker is None else self.broker - before.broker
        if self.server is None or before.server is None:
            return Spent(None, None, broker, busy)
        spent = {pid: cpu - before.server.get(pid, 0.0) for pid, cpu in self.server.items()}
        workers = [spent.get(pid, 0.0) for pid in self.workers]
        busiest = max(workers) / max(sum(workers), 1e-9) if len(workers) > 1 else None
        return Spent(sum(spent.values()), busiest, broker, busy)


class Spent(NamedTuple):
    """CPU seconds; what part of its workers' the busiest of several took; the share of all cores that was not idle."""

    server: float | None
    server_busiest: float | None
    broker: float | None
    machine_busy: float


class Usage:
    """Of the server with all its processes, and of the broker, as far as their main processes are known."""

    def __init__(self, server: int | None = None, data_dir: Path | None = None, broker: int | None = None) -> None:
        self._server = server
        self._data_dir = data_dir
        self._broker = broker

    def now(self) -> UsageSample:
        machine = psutil.cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        everything = sum(machine[:8])  # what follows on Linux is counted in these already
        return UsageSample(
            None if self._server is None else {process.pid: _cpu(process) for process in self.processes()},
            [pid for pid, name in self.names().items() if name == "worker"],
            None if self._broker is None else _cpu(psutil.Process(self._broker)),
            everything - idle,
            everything,
        )

    def processes(self) -> list[psutil.Process]:
        """The server's: its main process first, then the workers, then the node's daemon where there is one."""
        if self._server is None:
            return []
        main = psutil.Process(self._server)
        return [main, *main.children(recursive=True), *self.daemons()]

    def names(self) -> dict[int, str]:
        """What each of the server's processes is, by process id: `main`, `worker`, `daemon`."""
        daemons = {process.pid for process in self.daemons()}
        return {
            process.pid: "main" if process.pid == self._server else "daemon" if process.pid in daemons else "worker"
            for process in self.processes()
        }

    def daemons(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                command = process.cmdline()
                if _DAEMON in command and str(self._data_dir) in command:
                    yield process


def resident(processes: Iterable[psutil.Process]) -> dict[int, int]:
    """The bytes of memory of each that runs, by process id."""
    found = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found[process.pid] = int(process.memory_info().rss)
    return found


def _cpu(process: psutil.Process) -> float:
    """0 for one that has just ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
