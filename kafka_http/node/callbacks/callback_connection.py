"""One HTTP exchange with an address that has been checked, within a time for all of it.

By `http.client`, since what has to be ours is where a connection goes and how long each byte may take, and it leaves
both to a `connect` of a few lines; it needs no package, follows no redirect and asks no environment for a proxy.
"""

import io
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection
from typing import Any, TypeVar

from kafka_http.node.callbacks.callback_target import CallbackTarget
from kafka_http.node.callbacks.ip_addresses import Address

_ADDRESSES = 4
"""Of more than so many addresses the others are not tried."""

_CHUNK = 1 << 16
_ANSWER_BYTES = 16 * 1024
"""An answer ends for us there, headers included."""

Found = TypeVar("Found")


class Deadline:
    """So many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Raises `TimeoutError` where nothing is."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def end_within(self, seconds: float) -> None:
        """Let it come earlier, if it is later than that."""
        self._end = min(self._end, time.monotonic() + seconds)


def in_time(call: Callable[[], Found], deadline: Deadline) -> Found:
    """What a call gives that cannot be told how long it may take; one that is late ends in a thread of its own.

    Raises what it raises, and `TimeoutError`.
    """
    ended: queue.SimpleQueue[tuple[Found | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            ended.put((call(), None))
        except BaseException as error:
            ended.put((None, error))

    threading.Thread(target=run, name="resolve", daemon=True).start()
    try:
        value, error = ended.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # it is None only where the call's is


class CheckedConnection(HTTPConnection):
    """Connects to the addresses that it is given and asks no resolver; Host header and certificate are the name's.

    Everything raises `TimeoutError` when the deadline has passed, however the bytes come.
    """

    def __init__(
        self,
        target: CallbackTarget,
        addresses: Sequence[Address],
        deadline: Deadline,
        tls: Callable[[], ssl.SSLContext],
    ) -> None:
        super().__init__(target.host, target.port)
        self._tls = tls if target.scheme == "https" else None
        self.default_port = 443 if self._tls else 80
        self._addresses = addresses[:_ADDRESSES]
        self._deadline = deadline

    def connect(self) -> None:
        """Raises the error of the address that was tried last."""
        for number, address in enumerate(self._addresses):
            share = self._deadline.left() / (len(self._addresses) - number)
            try:
                connected = _connected(address, self.port, share)
                break
            except OSError:
                if number == len(self._addresses) - 1:
                    raise
        if self._tls is not None:
            connected.settimeout(self._deadline.left())
            connected = self._tls().wrap_socket(connected, server_hostname=self.host)
        self.sock = _TimedSocket(connected, self._deadline)


def _connected(address: Address, port: int, seconds: float) -> socket.socket:
    connected = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        connected.settimeout(seconds)
        connected.connect((str(address), port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connected.close()
        raise
    return connected


class _TimedSocket:
    """What `http.client` uses of a socket, each step of it in what is left of the time."""

    def __init__(self, connected: socket.socket, deadline: Deadline) -> None:
        self._socket = connected
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            self._socket.settimeout(self._deadline.left())
            left = left[self._socket.send(left[:_CHUNK]) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Answer(self._socket, self._deadline))

    def close(self) -> None:
        self._socket.close()


class _Answer(io.RawIOBase):
    """The beginning of what a socket receives. Keeps it open until it is closed itself."""

    def __init__(self, connected: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self._socket = connected
        self._raw = connected.makefile("rb", buffering=0)
        self._deadline = deadline
        self._room = _ANSWER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if not self._room:
            return 0
        self._socket.settimeout(self._deadline.left())
        count = self._raw.readinto(memoryview(buffer)[: self._room])
        self._room -= count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
