"""A real schema registry (Apicurio Registry) in a child process, for the demo and the tests."""

import json
import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterable, Iterator
from http.client import HTTPConnection
from pathlib import Path, PurePosixPath

from platformdirs import user_cache_path

from kafka_http.demo.embedded_kafka import failure_in_log
from kafka_http.demo.guarded_process import GuardedProcess, GuardedServer
from kafka_http.demo.local_resources import LOOPBACK, DemoError, find_java, lock_directory
from kafka_http.demo.maven import Artifact, download

_ARCHIVE = Artifact(
    "io.apicurio",
    "apicurio-registry-app",
    "3.3.3",
    "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63",
    "all",
    "tar.gz",
)
_PRODUCT = f"Apicurio Registry {_ARCHIVE.version}"
_MINIMUM_JAVA = 21
_START_SECONDS = 60.0
_LISTENING = re.compile(rf"Listening on: http://{re.escape(LOOPBACK)}:(\d+)")
_SCRATCH = "tmp"
_CONFLUENT_API = "/apis/ccompat/v7"
_REGISTRY_VARIABLES = ("QUARKUS_", "APICURIO_", "REGISTRY_")
"""Prefixes of environment variables that configure other registries, and would configure this one, too."""


class EmbeddedRegistry(GuardedServer):
    """A registry on the loopback interface with its files in one directory, which survive stops, kills and starts.

    It keeps the port of its first start as long as this object lives. New schemas must be able to read data of old
    ones (BACKWARD). The registry ends when this process ends, even by kill -9. With `announce`, a message on stderr
    says if it ends unexpectedly. Not thread-safe. Every method raises `DemoError`.
    """

    def __init__(self, directory: Path, *, announce: bool = False) -> None:
        self.log_file = directory / "registry.log"
        super().__init__(GuardedProcess("The schema registry", self.log_file))
        self._directory = directory
        self._announce = announce
        self._port = 0

    @staticmethod
    def parts() -> tuple[Path, Path]:
        """Return the path of Java and the directory of the registry's files. Downloads them if they are missing."""
        return find_java(_PRODUCT, _MINIMUM_JAVA), registry_files()

    @property
    def url(self) -> str:
        """The base URL of Confluent's API, after the start."""
        return f"http://{LOOPBACK}:{self._port}{_CONFLUENT_API}"

    def launch(self) -> None:
        """Start the registry without waiting. Downloads it if that was not done before."""
        java, files = self.parts()
        self._process.wait()  # its guard holds the lock
        lock = self._lock_directory()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_REGISTRY_VARIABLES)}
        environment["LC_ALL"] = "C.UTF-8"  # in the locale C, Java cannot open files whose names are not ASCII
        command: list[str | Path] = [java, *_java_flags(self._port), "-jar", files / "quarkus-run.jar"]
        try:
            shutil.rmtree(self._directory / _SCRATCH, ignore_errors=True)  # left by a kill
            (self._directory / _SCRATCH).mkdir(mode=0o700, exist_ok=True)
            self._process.start(command, environment, self._directory, pass_fds=[lock])
        finally:
            os.close(lock)  # the guard has inherited it

    def wait_until_ready(self) -> None:
        """Wait until the registry answers. If it fails, stop it."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if reason := self._failure(deadline):
                self.stop()
                raise DemoError(f"{_PRODUCT} did not start: {reason}. See its log: {self.log_file}")
            time.sleep(0.05)
        if self._announce:
            self._process.announce_end()

    def _is_ready(self) -> bool:
        listening = _LISTENING.search(self._process.output())
        if listening is None:
            return False
        self._port = int(listening[1])
        try:
            return self._require_backward_compatibility() == 200
        except OSError:
            return False

    def _require_backward_compatibility(self) -> int:
        """Set the compatibility level that is the default of Confluent's registry. Return the status."""
        connection = HTTPConnection(LOOPBACK, self._port, timeout=30)
        try:
            body = json.dumps({"compatibility": "BACKWARD"})
            connection.request("PUT", f"{_CONFLUENT_API}/config", body, {"Content-Type": "application/json"})
            return connection.getresponse().status
        finally:
            connection.close()

    def _lock_directory(self) -> int:
        """Create the directory and lock it: a second registry in it may start and then fail every request."""
        if "\\" in str(self._directory):
            raise DemoError(
                f"The path {self._directory} contains a backslash, which the schema registry cannot use. "
                "Choose another directory."
            )
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            return lock_directory(self._directory, "schema registry")
        except OSError as error:
            raise DemoError(f"Cannot use the directory {self._directory}: {error.strerror}.") from error

    def _failure(self, deadline: float) -> str:
        if not self.is_running:
            return _failure_in_log(self._process.output())
        if time.monotonic() < deadline:
            return ""
        return f"it did not answer within {_START_SECONDS:.0f} s; {_failure_in_log(self._process.output())}"


def _failure_in_log(log: str) -> str:
    errors = re.findall(r" ERROR \[[^]]*\] \([^)]*\) (.+?)\.?$", log, re.MULTILINE)
    # A port in use ends other parts too, and their errors may come first
    return next((each for each in errors if "in use" in each), errors[0] if errors else failure_in_log(log))


def _java_flags(port: int) -> list[str]:
    """Flags for little memory, a fast start and the loopback interface. Paths are relative to the directory."""
    settings = {
        "java.io.tmpdir": _SCRATCH,
        "quarkus.banner.enabled": "false",
        "quarkus.http.host": LOOPBACK,
        "quarkus.http.port": port,
        "quarkus.management.host": LOOPBACK,
        "quarkus.management.port": 0,
        "apicurio.datasource.url": "jdbc:h2:file:./schemas;WRITE_DELAY=0",  # a schema with an id must survive a kill
    }
    flags = ["-Xmx160m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
    return [*flags, *(f"-D{name}={value}" for name, value in settings.items())]


def registry_files(cache: Path | None = None, remote: str | None = None, artifact: Artifact = _ARCHIVE) -> Path:
    """Return the directory of the registry's files. Download and unpack them if it is missing.

    The download has 159 MB, the files 168 MB. Only the complete files of a verified archive get into the directory.
    `cache` defaults to the user's cache directory. `remote` is the URL of a repository to use in place of Maven
    Central. Raises `DemoError`.
    """
    cache = cache or user_cache_path("kafka_http")
    directory = cache / f"{artifact.artifact}-{artifact.version}"
    if not directory.is_dir():
        download([artifact], _PRODUCT, cache, lambda _, archive: _unpack(archive, directory), remote)
    return directory


def _unpack(archive: Path, directory: Path) -> None:
    unpacked = archive.parent / "unpacked"
    try:
        with tarfile.open(archive) as members:
            members.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian 12's Python has none
            members.extractall(unpacked, members=_checked_members(members))  # noqa: S202
    except tarfile.TarError as error:
        raise OSError(f"the archive is invalid ({error})") from error
    try:
        unpacked.rename(directory)
    except OSError:
        if not directory.is_dir():  # another demo was faster
            raise


def _checked_members(members: Iterable[tarfile.TarInfo]) -> Iterator[tarfile.TarInfo]:
    """Yield all members. Raises `TarError` for one that is not a file or directory below the target directory."""
    for member in members:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"it must not contain {member.name!r}")
        yield member
