"""The node's data directory: who may use it, its locks, and the socket in it."""

import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from kafka_http.errors import Unavailable

_LOG = "daemon.log"
_LOG_BYTES = 10 * 1024 * 1024
_NODE_ID = "node-id"
_SOCKET = "daemon.sock"
_BACKLOG = 128
_ADDRESS_BYTES = 107
"""A Unix socket's path may be that long on Linux."""

_LOOK_EVERY = 0.02
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class DataDirectory:
    """A directory for this user alone, that is one node's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Raises `Unavailable` where it cannot be made, or others may look into it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.path.stat()
        except OSError as error:
            raise Unavailable(f"The data directory {self.path} cannot be used: {error.strerror}.") from None
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise Unavailable(
                f"The data directory {self.path} is not this user's alone: make it so (chmod 700), or let the setting "
                "data_dir name a directory inside it, which will be made."
            )

    def listen(self) -> socket.socket:
        """The socket that a daemon listens on. Its lock must be held: what is there is left from a dead one."""
        self.remove_socket()
        listener = socket.socket(socket.AF_UNIX)
        with self._address() as address:
            listener.bind(address)
            Path(address).chmod(0o600)
        listener.listen(_BACKLOG)
        return listener

    def remove_socket(self) -> None:
        (self.path / _SOCKET).unlink(missing_ok=True)

    def connect(self, timeout: float) -> socket.socket:
        """A connection to the daemon. Raises `OSError` where there is none, or not one of this user."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            with self._address() as address:
                _retry(lambda: connection.connect(address), timeout)
            if not is_same_user(connection):
                raise ConnectionRefusedError(f"another user listens in {self.path}")
        except BaseException:
            connection.close()
            raise
        return connection

    def open_log(self) -> BinaryIO:
        """The daemon's log, to write behind its end; one that has grown large is put aside, with its name and `.1`."""
        file = self.path / _LOG
        with suppress(OSError):
            if file.stat().st_size > _LOG_BYTES:
                file.replace(f"{file}.1")
        return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")

    def node_id(self) -> str:
        """This node's name among those that share a store: made once. The daemon's lock must be held."""
        file = self.path / _NODE_ID
        if not file.exists():
            file.write_text(f"{uuid4().hex}\n")
        return file.read_text().strip()

    @contextmanager
    def lock(self, name: str, until: Callable[[], bool]) -> Iterator[bool]:
        """Hold one of the directory's locks, so that of several processes one does a thing.

        Waits for it while `until` is false; what it gives says whether it is held.
        """
        descriptor = os.open(self.path / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _locked(descriptor, until)
        finally:
            os.close(descriptor)

    @contextmanager
    def _address(self) -> Iterator[str]:
        """The socket's path; where it is too long for a socket, one that leads there over an open descriptor."""
        path = str(self.path / _SOCKET)
        if len(os.fsencode(path)) <= _ADDRESS_BYTES:
            yield path
            return
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{descriptor}/{_SOCKET}"
        finally:
            os.close(descriptor)


def is_same_user(connection: socket.socket) -> bool:
    """Whether the process at the other end is of the same user."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid == os.getuid()


def _locked(descriptor: int, until: Callable[[], bool]) -> bool:
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if until():
            return False
        time.sleep(_LOOK_EVERY)


def _retry(connect: Callable[[], None], timeout: float) -> None:
    """A full backlog refuses at once where a timeout is set: wait for a place in it."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return connect()
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_EVERY)
