"""systemd: the state of the server on its notification socket, the watchdog, and a listening socket from systemd.

The protocol is that of sd_notify(3) and sd_listen_fds(3). Without systemd, nothing here has an effect.
"""

import math
import os
import socket
import time
from collections.abc import Collection, Mapping, MutableMapping
from contextlib import suppress

FIRST_LISTENER = 3
"""The descriptor of the first socket that systemd passes. gunicorn uses it, too."""
_PINGS_PER_INTERVAL = 4
_MICROSECONDS = 1_000_000


class ServiceManager:
    """Tells systemd what the server does. The arbiter creates it before it forks, and calls all methods.

    It removes systemd's variables from the environment, so that no other process and no other code of the arbiter
    reports a state.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        self._interval = _watchdog_seconds(environ)
        self._pinged = -math.inf
        self.is_ready = False
        """Whether `ready` was called. Until then, `systemctl start` waits, and units that start after this one."""

    @property
    def is_present(self) -> bool:
        """Whether systemd wants to know the state."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """The server serves requests: after the start, and after a reload."""
        self.is_ready = True
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The server reads its files again. `ready` ends this."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=Reloading.")

    def stopping(self) -> None:
        """The server has begun to stop."""
        self._send("STOPPING=1", "STATUS=Stopping: requests in flight end.")

    def ping(self, silences: Collection[float]) -> None:
        """Reset the watchdog if one of the workers works. Call this at least once per second.

        `silences` has the seconds since each worker's last sign of life. If all are silent for half of WatchdogSec, or
        if there is no worker, nothing is sent, and systemd restarts the service in the end.
        """
        if self._interval == math.inf:
            return
        now = time.monotonic()
        is_due = now - self._pinged >= self._interval / _PINGS_PER_INTERVAL
        if is_due and min(silences, default=math.inf) < self._interval / 2:
            self._pinged = now
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)  # systemd may hang, too
            sender.sendto("\n".join(each.replace("\n", " ") for each in lines).encode(), address)


def _watchdog_seconds(environ: MutableMapping[str, str]) -> float:
    """Return the seconds after which systemd restarts a silent service; infinity without a watchdog."""
    microseconds, process = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if process not in ("", str(os.getpid())) or not microseconds.isdecimal():
        return math.inf
    return int(microseconds) / _MICROSECONDS or math.inf


def passed_listeners(environ: Mapping[str, str] = os.environ) -> int:
    """Return the number of listening sockets that systemd has passed to this process."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return 0
    count = environ.get("LISTEN_FDS", "")
    return int(count) if count.isdecimal() else 0


def listener_address(descriptor: int) -> tuple[str, int]:
    """Return the host and the port that a listening socket is bound to. Raises `OSError` if it is no TCP socket."""
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        if listener.family not in (socket.AF_INET, socket.AF_INET6) or listener.type != socket.SOCK_STREAM:
            raise OSError("It is not a TCP socket.")
        host, port, *_ = listener.getsockname()
        return host, port
