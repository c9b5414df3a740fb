"""CPU time and memory of a server or a Kafka on this machine."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from kafka_http.config import Config
from kafka_http.demo import process_guard

_DAEMON = "kafka_http.node.daemon"


class ProcessUsage:
    """Measures the processes that `find` returns. It looks for them again at each measurement."""

    def __init__(self, find: Callable[[], Iterable[psutil.Process]]) -> None:
        self.processes = find
        """Finds the processes: the main process first, the daemon last."""

    def cpu(self) -> float:
        """The CPU seconds since the start of the processes."""
        total = 0.0
        for process in self.processes():
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory(self) -> int:
        """The resident bytes."""
        total = 0
        for process in self.processes():
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total


def server_processes(pid: int, data_dir: Path) -> list[psutil.Process]:
    """The processes of a server of kafka_http: the main process `pid`, the workers, and the node's daemon."""
    main = psutil.Process(pid)
    return [main, *_descendants(main), *daemons(data_dir)]


def _descendants(main: psutil.Process) -> Iterator[psutil.Process]:
    """All descendants, apart from the Kafka of a demo, which runs under a guard."""
    for child in main.children():
        with suppress(psutil.Error):
            if process_guard.__file__ not in child.cmdline():
                yield from (child, *child.children(recursive=True))


def daemons(data_dir: Path) -> Iterator[psutil.Process]:
    """The node's daemon, if it runs."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if _DAEMON in command and str(data_dir) in command:
                yield process


def local_usage(host: str, port: int) -> ProcessUsage | None:
    """The usage of the program that listens on a port of this machine; None if there is none that this user can see.

    The daemon is found if its data directory is the default, that of the flag --data-dir, or in a demo's --data.
    """
    pid = _listener(port) if _is_local(host) else None
    if pid is None:
        return None
    data_dir = _data_dir(pid, port)
    return ProcessUsage(lambda: server_processes(pid, data_dir))


def _is_local(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _listener(port: int) -> int | None:
    """The main process of those that listen on a port; None if this user can see none."""
    with suppress(psutil.Error):
        connections = psutil.net_connections("tcp")
        pid = next((each.pid for each in connections if each.pid and _listens(each, port)), None)
        process = psutil.Process(pid) if pid else None
        # psutil names only one process for each socket, but workers inherit the socket from the main process.
        while process and (parent := process.parent()) and _has_socket(parent, port):
            process = parent
        return process.pid if process else None
    return None


def _has_socket(process: psutil.Process, port: int) -> bool:
    with suppress(psutil.Error):
        return any(_listens(each, port) for each in process.net_connections("tcp"))
    return False


def _listens(connection: Any, port: int) -> bool:
    return bool(connection.status == psutil.CONN_LISTEN and connection.laddr[1] == port)


def _data_dir(pid: int, port: int) -> Path:
    with suppress(psutil.Error):
        for flag, value in pairwise(psutil.Process(pid).cmdline()):
            if flag == "--data-dir":
                return Path(value)
            if flag == "--data":
                return (psutil.Process(pid).cwd() / Path(value).expanduser()).resolve() / "server"
    return Config(bind=f"127.0.0.1:{port}").data_dir
