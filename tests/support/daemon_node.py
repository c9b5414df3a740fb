"""A daemon's server in this process, with mocked services, and the workers that call it."""

import socket
import threading
from pathlib import Path
from typing import Protocol
from unittest.mock import Mock

import msgspec

from kafka_http.config import Config
from kafka_http.consumers.instance_service import InstanceLocator, InstanceService
from kafka_http.consumers.queue_service import QueueLocator, QueueService
from kafka_http.errors import WouldBlock
from kafka_http.node.daemon_client import DaemonClient
from kafka_http.node.daemon_launcher import settings_digest, settings_to_json
from kafka_http.node.daemon_protocol import Channel, Greeting, Hello, greetings
from kafka_http.node.daemon_server import DaemonServer
from kafka_http.node.data_directory import DataDirectory
from kafka_http.publish.idempotency_keys import IdempotencyKeys
from kafka_http.tasks import Tasks


class Calls(InstanceService, InstanceLocator, QueueService, QueueLocator, Tasks, IdempotencyKeys, Protocol):
    """All methods that the workers call."""


class Node:
    """A daemon server in a thread. `instances` is a `Mock` of its services."""

    def __init__(self, directory: Path) -> None:
        self.config = Config(data_dir=directory)
        self.directory = DataDirectory(self.config.data_dir)
        self.directory.create()
        self.instances = Mock(spec=Calls, **{f"{each}.return_value": None for each in ("release_lease",)})
        # Threads make the calls of queues, as they do if a queue must be opened
        self.instances.start_acquire = Mock(side_effect=WouldBlock)
        self.instances.start_settle = Mock(side_effect=WouldBlock)
        self.settings = settings_digest(settings_to_json(self.config))
        self.server = DaemonServer(self.directory.listen(), lambda _: self.instances, self.settings)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.workers: list[DaemonClient] = []

    def _serve(self) -> None:
        self.server.serve()
        self.directory.remove_socket()
        self.server.close()

    def worker(self) -> DaemonClient:
        self.workers.append(DaemonClient(self.config))
        return self.workers[-1]

    def connect(self) -> socket.socket:
        return self.directory.connect(5)

    def greet(self, hello: Hello) -> tuple[Channel, Greeting]:
        channel = Channel(self.connect())
        channel.send(msgspec.msgpack.encode(hello))
        return channel, greetings.decode(channel.receive())

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def end(self) -> None:
        for worker in self.workers:
            worker.close()
        self.server.stop()
        self._thread.join(10)
        assert self.is_over
