"""A real Apache Kafka in processes of our own, for the demo and for the tests."""

import os
import re
import time

from kafka_http.demo import directory
from kafka_http.demo.admin import count_brokers
from kafka_http.demo.errors import DemoError
from kafka_http.demo.guarded import GuardedProcess
from kafka_http.demo.jars import kafka_jars
from kafka_http.demo.java import find_java
from kafka_http.demo.ports import LOOPBACK, answers, is_free
from kafka_http.demo.settings import JAVA_FLAGS, BrokerNode

_START_TIMEOUT = 60.0
_ANY_FILE_NAME = {"LC_ALL": "C.UTF-8"}
"""In the locale C, Java opens no file whose name is not ASCII."""


def reason_in(log: str) -> str:
    """Why Kafka has ended, in its own words: its first exception's, else its first error's, else its first line.

    Java itself begins some lines with WARNING or `Picked up`.
    """
    for sought in (r"^[\w.$]+(?:Exception|Error): (.+)", r" (?:ERROR|FATAL) (.+) \(", r"^(?!WARNING|Picked up)(.+)"):
        if found := re.search(sought, log, re.MULTILINE):
            return found[1].rstrip(".")
    return "it ended without a word"


class EmbeddedKafka:
    """One broker, its files in one directory, which it keeps through stops, kills and starts.

    It ends with this process, whatever ends this one. With `announce`, its end is announced on stderr where nobody
    here has asked for it. One thread at a time. Every method raises `DemoError`.
    """

    def __init__(self, node: BrokerNode, *, cluster_id: str | None = None, announce: bool = False) -> None:
        self.node = node
        self.bootstrap_servers = f"{LOOPBACK}:{node.port}"
        self._cluster_id = cluster_id or directory.new_cluster_id()
        self._announce = announce
        self._process = GuardedProcess("Kafka", node.log_file)

    @property
    def sasl_bootstrap_servers(self) -> str:
        return f"{LOOPBACK}:{self.node.sasl_port}"

    @property
    def is_running(self) -> bool:
        return self._process.is_running

    @property
    def pid(self) -> int | None:
        """Kafka's own process, from a start until a stop."""
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start without waiting. Fetches and formats what has not been fetched and formatted yet."""
        lock = directory.claim(self.node.directory)
        try:
            self._process.wait()  # it is over, as the lock was free
            self._check_ports()
            java = find_java()
            environment = os.environ | {"CLASSPATH": os.pathsep.join(map(str, kafka_jars())), **_ANY_FILE_NAME}
            directory.prepare(self.node, java, environment, self._cluster_id)
            logging = f"-Dlog4j2.configurationFile={self.node.logging_file.as_uri()}"
            command = (java, *JAVA_FLAGS, logging, "kafka.Kafka", self.node.properties_file)
            self._process.start(command, environment, pass_fds=[lock])
        finally:
            os.close(lock)  # the guard has inherited it

    def wait_until_ready(self, brokers: int = 1) -> None:
        """Wait until the broker answers and knows of so many brokers, itself included; else stop it and say why."""
        deadline = time.monotonic() + _START_TIMEOUT
        while not (answers(self.node.port) and count_brokers(self.bootstrap_servers) >= brokers):
            reason = self._why_not(deadline)
            if reason:
                self.stop()
                raise DemoError(f"Apache Kafka does not start: {reason}. Its log is {self.node.log_file}.")
            time.sleep(0.05)
        if self._announce:
            self._process.announce_end()

    def stop(self) -> None:
        """Let Kafka end in order, and wait until it has. Without effect where it does not run."""
        self._process.stop()

    def kill(self) -> None:
        """End Kafka as kill -9 does, and wait until it is gone; `start()` brings it back."""
        self._process.kill()

    def _check_ports(self) -> None:
        for port in self.node.ports:
            if not is_free(port):
                raise DemoError(
                    f"Kafka's port {port} is in use: stop what listens there, or choose another (--kafka-port)."
                )

    def _why_not(self, deadline: float) -> str:
        if not self.is_running:
            return reason_in(self._process.output())
        return f"it gave no answer within {_START_TIMEOUT:.0f} s" if time.monotonic() > deadline else ""
