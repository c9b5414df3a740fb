"""CPU time and memory of the server and the broker."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import psutil

_DAEMON = "kafka_http.node.daemon"


class UsageDelta(NamedTuple):
    """CPU seconds of the server and the broker between two samples; None if it is not known.

    `server_busiest` is the share of the workers' CPU time that the busiest of several workers used, `machine_busy` the
    share of all cores that was not idle.
    """

    server: float | None
    server_busiest: float | None
    broker: float | None
    machine_busy: float


class UsageSample(NamedTuple):
    """CPU seconds since the start of the processes. `workers` is by process id. None if it is not known."""

    server: float | None
    workers: dict[int, float]
    broker: float | None
    machine_busy: float
    machine_all: float

    def since(self, before: Self) -> UsageDelta:
        """The usage between an earlier sample and this one."""
        busy = (self.machine_busy - before.machine_busy) / max(self.machine_all - before.machine_all, 1e-9)
        workers = [cpu - before.workers.get(pid, 0.0) for pid, cpu in self.workers.items()]
        busiest = max(workers) / max(sum(workers), 1e-9) if len(workers) > 1 else None
        return UsageDelta(
            _difference(self.server, before.server), busiest, _difference(self.broker, before.broker), busy
        )


def _difference(later: float | None, before: float | None) -> float | None:
    return None if later is None or before is None else later - before


class ProcessUsage:
    """Measures all processes of a server, and a broker. `server` and `broker` are the ids of their main processes."""

    def __init__(self, server: int | None = None, data_dir: Path | None = None, broker: int | None = None) -> None:
        self._server = server
        self._data_dir = data_dir
        self._broker = broker

    def sample(self) -> UsageSample:
        machine = psutil.cpu_times()
        total = sum(machine[:8])  # on Linux the others are parts of these
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        cpu = {process.pid: (role, _cpu(process)) for process, role in self.processes().items()}
        return UsageSample(
            sum(seconds for _, seconds in cpu.values()) if cpu else None,
            {pid: seconds for pid, (role, seconds) in cpu.items() if role == "worker"},
            None if self._broker is None else _cpu(psutil.Process(self._broker)),
            total - idle,
            total,
        )

    def memory(self) -> dict[int, int]:
        """The resident bytes of each process of the server, by process id."""
        return resident_bytes(self.processes())

    def processes(self) -> dict[psutil.Process, str]:
        """The processes of the server and their roles: `main`, `worker`, `daemon`."""
        if self._server is None:
            return {}
        main = psutil.Process(self._server)
        workers = dict.fromkeys(main.children(recursive=True), "worker")
        return {main: "main", **workers, **dict.fromkeys(self.daemons(), "daemon")}

    def daemons(self) -> Iterator[psutil.Process]:
        """The node's daemon, if it runs."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                command = process.cmdline()
                if _DAEMON in command and str(self._data_dir) in command:
                    yield process


def resident_bytes(processes: Iterable[psutil.Process]) -> dict[int, int]:
    """The resident bytes of each process that runs, by process id."""
    found = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found[process.pid] = int(process.memory_info().rss)
    return found


def _cpu(process: psutil.Process) -> float:
    """The CPU seconds of a process; 0 if it has just ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
