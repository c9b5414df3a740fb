"""The node's data directory: its permissions, its locks, and the socket in it."""

import fcntl
import os
import signal
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from kafka_http.errors import Unavailable

_LOG_FILE = "daemon.log"
_MAX_LOG_BYTES = 10 * 1024 * 1024
_NODE_ID_FILE = "node-id"
_SOCKET_FILE = "daemon.sock"
_BACKLOG = 128
_MAX_ADDRESS_BYTES = 107
"""Longest path of a Unix socket on Linux."""

_POLL_SECONDS = 0.02
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class DataDirectory:
    """The directory of one node, which only this user can access. Any thread may call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Create the directory if it is missing. Raises `Unavailable` if that fails or other users have access."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.path.stat()
        except OSError as error:
            raise Unavailable(f"The data directory {self.path} cannot be used: {error.strerror}.") from None
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise Unavailable(
                f"The data directory {self.path} must belong to this user, without access for others (chmod 700). "
                "Or set data_dir to a directory inside it, which is created."
            )

    def listen(self) -> socket.socket:
        """Create the socket that the daemon listens on. Its lock must be held: an existing file is a dead daemon's."""
        self.remove_socket()
        listener = socket.socket(socket.AF_UNIX)
        with self._address() as address:
            listener.bind(address)
            Path(address).chmod(0o600)
        listener.listen(_BACKLOG)
        return listener

    def remove_socket(self) -> None:
        (self.path / _SOCKET_FILE).unlink(missing_ok=True)

    def connect(self, timeout: float) -> socket.socket:
        """Connect to the daemon. Raises `OSError` if there is none, or if another user listens."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            with self._address() as address:
                _connect(lambda: connection.connect(address), timeout)
            if not is_same_user(connection):
                raise ConnectionRefusedError(f"another user listens in {self.path}")
        except BaseException:
            connection.close()
            raise
        return connection

    def stop_daemon(self, timeout: float) -> None:
        """Tell the daemon, if one runs, not to wait for new workers, and wait up to `timeout` seconds for its end."""
        try:
            with closing(self.connect(timeout)) as connection:
                os.kill(_peer(connection)[0], signal.SIGTERM)
        except OSError:
            return
        deadline = time.monotonic() + timeout
        with self.lock("daemon", lambda: time.monotonic() > deadline):
            pass

    def open_log(self) -> BinaryIO:
        """Open the daemon's log for appending. A log of more than 10 MiB is first renamed to `daemon.log.1`."""
        file = self.path / _LOG_FILE
        with suppress(OSError):
            if file.stat().st_size > _MAX_LOG_BYTES:
                file.replace(f"{file}.1")
        return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")

    def node_id(self) -> str:
        """Return this node's id among the nodes that share a store, created once. The daemon's lock must be held."""
        file = self.path / _NODE_ID_FILE
        if not file.exists():
            file.write_text(f"{uuid4().hex}\n")
        return file.read_text().strip()

    @contextmanager
    def lock(self, name: str, until: Callable[[], bool]) -> Iterator[bool]:
        """Take one of the directory's locks, which exclude other processes, for the duration of the `with` block.

        Waits until the lock is free or `until` returns True. Yields whether the lock is held.
        """
        descriptor = os.open(self.path / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _lock(descriptor, until)
        finally:
            os.close(descriptor)

    @contextmanager
    def _address(self) -> Iterator[str]:
        """Yield the socket's path, or one through an open descriptor if the path is too long for a socket."""
        path = str(self.path / _SOCKET_FILE)
        if len(os.fsencode(path)) <= _MAX_ADDRESS_BYTES:
            yield path
            return
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{descriptor}/{_SOCKET_FILE}"
        finally:
            os.close(descriptor)


def is_same_user(connection: socket.socket) -> bool:
    """Return whether the process at the other end belongs to this user."""
    return _peer(connection)[1] == os.getuid()


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    """The process id, user id and group id of the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(credentials)
    return pid, uid, gid


def _lock(descriptor: int, until: Callable[[], bool]) -> bool:
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if until():
            return False
        time.sleep(_POLL_SECONDS)


def _connect(connect: Callable[[], None], timeout: float) -> None:
    """Connect, and wait for a place in a full backlog: a socket with a timeout does not wait by itself."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return connect()
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
