"""A real schema registry in a process of our own, Apicurio's, for the demo and for the tests."""

import json
import os
import re
import shutil
import time
from http.client import HTTPConnection
from pathlib import Path

from kafka_http.demo.apicurio import PRODUCT, registry_files
from kafka_http.demo.directory import take_lock
from kafka_http.demo.embedded import reason_in
from kafka_http.demo.errors import DemoError
from kafka_http.demo.guarded import GuardedProcess
from kafka_http.demo.java import find_java
from kafka_http.demo.ports import LOOPBACK

_OLDEST_JAVA = 21
_START_TIMEOUT = 60.0
_LISTENS = re.compile(rf"Listening on: http://{re.escape(LOOPBACK)}:(\d+)")
_SCRATCH = "tmp"
_CONFLUENTS_API = "/apis/ccompat/v7"
_OF_OTHERS = ("QUARKUS_", "APICURIO_", "REGISTRY_")
"""What such variables of the environment say is meant for another registry."""


class EmbeddedRegistry:
    """A registry on the loopback interface, its files in one directory, which it keeps through stops, kills and starts.

    It has the port that it got at its first start as long as this object lives, and wants new schemas to read what old
    ones wrote (BACKWARD). It ends with this process, whatever ends this one. With `announce`, its end is announced on
    stderr where nobody here has asked for it. One thread at a time. Every method raises `DemoError`.
    """

    def __init__(self, directory: Path, *, announce: bool = False) -> None:
        self.log_file = directory / "registry.log"
        self._directory = directory
        self._announce = announce
        self._port = 0
        self._process = GuardedProcess("The schema registry", self.log_file)

    @staticmethod
    def parts() -> tuple[Path, Path]:
        """The Java that runs it, and the directory of its files, which are fetched if need be."""
        return find_java(PRODUCT, _OLDEST_JAVA), registry_files()

    @property
    def url(self) -> str:
        """The base of Confluent's API, once it has started."""
        return f"http://{LOOPBACK}:{self._port}{_CONFLUENTS_API}"

    @property
    def is_running(self) -> bool:
        return self._process.is_running

    @property
    def pid(self) -> int | None:
        """The registry's own process, from a start until a stop."""
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start without waiting. Fetches what has not been fetched yet."""
        java, files = self.parts()
        self._process.wait()  # its guard holds the lock
        lock = self._claim_directory()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OF_OTHERS)}
        environment["LC_ALL"] = "C.UTF-8"  # in the locale C, Java opens no file whose name is not ASCII
        command: list[str | Path] = [java, *_java_flags(self._port), "-jar", files / "quarkus-run.jar"]
        try:
            shutil.rmtree(self._directory / _SCRATCH, ignore_errors=True)  # what a kill has left
            (self._directory / _SCRATCH).mkdir(mode=0o700, exist_ok=True)
            self._process.start(command, environment, self._directory, pass_fds=[lock])
        finally:
            os.close(lock)  # the guard has inherited it

    def wait_until_ready(self) -> None:
        """Wait until it answers; else stop it and say why."""
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            if reason := self._why_not(deadline):
                self.stop()
                raise DemoError(f"{PRODUCT} does not start: {reason}. Its log is {self.log_file}.")
            time.sleep(0.05)
        if self._announce:
            self._process.announce_end()

    def stop(self) -> None:
        """Let it end in order, and wait until it has. Without effect where it does not run."""
        self._process.stop()

    def kill(self) -> None:
        """End it as kill -9 does, and wait until it is gone; `start()` brings it back."""
        self._process.kill()

    def _answers(self) -> bool:
        listens = _LISTENS.search(self._process.output())
        if listens is None:
            return False
        self._port = int(listens[1])
        try:
            return self._want_backward_compatibility() == 200
        except OSError:
            return False

    def _want_backward_compatibility(self) -> int:
        """As Confluent's does by default; this one takes any new version. The status of its answer."""
        connection = HTTPConnection(LOOPBACK, self._port, timeout=30)
        try:
            body = json.dumps({"compatibility": "BACKWARD"})
            connection.request("PUT", f"{_CONFLUENTS_API}/config", body, {"Content-Type": "application/json"})
            return connection.getresponse().status
        finally:
            connection.close()

    def _claim_directory(self) -> int:
        """Make the directory, and take its lock: a registry that finds another in it may start and refuse all calls."""
        if "\\" in str(self._directory):
            raise DemoError(
                f"The schema registry takes the backslash in {self._directory} for a slash: choose another directory."
            )
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            return take_lock(self._directory, "schema registry")
        except OSError as error:
            raise DemoError(f"Cannot use the directory {self._directory}: {error.strerror}.") from error

    def _why_not(self, deadline: float) -> str:
        if not self.is_running:
            return _reason_in(self._process.output())
        if time.monotonic() < deadline:
            return ""
        return f"it gave no answer within {_START_TIMEOUT:.0f} s, and says: {_reason_in(self._process.output())}"


def _reason_in(log: str) -> str:
    """Why it has ended, in its own words: those of its first error, else what Java says."""
    found = re.search(r" ERROR \[[^]]*\] \([^)]*\) (.+?)\.?$", log, re.MULTILINE)
    return found[1] if found else reason_in(log)


def _java_flags(port: int) -> list[str]:
    """For little memory, a quick start and the loopback interface alone; paths are below its working directory."""
    settings = {
        "java.io.tmpdir": _SCRATCH,
        "quarkus.banner.enabled": "false",
        "quarkus.http.host": LOOPBACK,
        "quarkus.http.port": port,
        "quarkus.management.host": LOOPBACK,
        "quarkus.management.port": 0,
        "apicurio.datasource.url": "jdbc:h2:file:./schemas;WRITE_DELAY=0",  # a schema that was given an id is kept
    }
    flags = ["-Xmx160m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
    return [*flags, *(f"-D{name}={value}" for name, value in settings.items())]
