"""The directory of an embedded broker: made once, formatted once; and the lock of any that one process is to use."""

import fcntl
import os
import secrets
import shutil
import string
import subprocess
from collections.abc import Mapping
from pathlib import Path

from kafka_http.demo.errors import DemoError
from kafka_http.demo.jars import KAFKA_VERSION
from kafka_http.demo.settings import LOGGING, BrokerNode, server_properties

_VERSION_FILE = "kafka-version"
_MADE_NOT_FORMATTED = ""


def claim(directory: Path) -> int:
    """Make the directory where there is none, and take its lock: a file descriptor, open as long as it is held.

    Raises `DemoError` where Kafka could not use it, or it holds something else, another version's data, or belongs to
    a broker that runs.
    """
    if "," in str(directory):
        raise DemoError(f"Kafka takes the comma in {directory} for the end of a name: choose another directory.")
    try:
        _make(directory)
        return take_lock(directory, "Kafka")
    except OSError as error:
        raise DemoError(f"Cannot use the directory {directory}: {error.strerror}.") from error


def take_lock(directory: Path, user: str) -> int:
    """A file descriptor, open as long as the lock is held.

    Raises `DemoError` where another `user`, as one calls it, holds it; `OSError` where the directory is not to be used.
    """
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise DemoError(
            f"A {user} that runs already uses the directory {directory}: stop that one, or choose another directory."
        ) from None
    return lock


def _make(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    version_file = directory / _VERSION_FILE
    if not any(directory.iterdir()):
        version_file.write_text(_MADE_NOT_FORMATTED)
    if not version_file.exists():
        raise DemoError(f"{directory} holds files that are not the demo's: move them, or choose another directory.")
    version = version_file.read_text().strip()
    if version not in (KAFKA_VERSION, _MADE_NOT_FORMATTED):
        raise DemoError(
            f"{directory} holds data of Apache Kafka {version}, and this is {KAFKA_VERSION}: "
            "choose another directory, or delete this one with all that is in it."
        )


def prepare(node: BrokerNode, java: Path, environment: Mapping[str, str], cluster_id: str) -> None:
    """Write the broker's settings; format its data where that has not been done. The lock must be held."""
    node.logging_file.write_text(LOGGING)
    node.properties_file.touch(mode=0o600)
    node.properties_file.write_text(server_properties(node))
    version_file = node.directory / _VERSION_FILE
    if version_file.read_text() == _MADE_NOT_FORMATTED:
        shutil.rmtree(node.data, ignore_errors=True)  # what a formatting left that was interrupted
        _format(node, java, environment, cluster_id)
        version_file.write_text(f"{KAFKA_VERSION}\n")


def _format(node: BrokerNode, java: Path, environment: Mapping[str, str], cluster_id: str) -> None:
    tool = ("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(node.properties_file))
    flags = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
    done = subprocess.run([java, *flags, *tool], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise DemoError(f"Apache Kafka cannot format {node.data}: {said[0]}.")


def new_cluster_id() -> str:
    """16 random bytes as Kafka writes them: 22 characters of base64url, the first of them no `-`."""
    return secrets.choice(string.ascii_letters) + secrets.token_urlsafe(16)[1:]
