"""kafka-python's clients that run a thread: created on first use in a process, and again after they are lost."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any, Generic, TypeVar, cast

from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient
from kafka.net.selector import NetworkSelector

from kafka_http.broker.error_map import note_addresses, translate
from kafka_http.broker.patches import BoundedConnectionManager, PatchedConnectionManager, net_settings
from kafka_http.errors import BrokerUnavailable

Client = TypeVar("Client")
Settings = Mapping[str, Any]
_CONNECT_MS = {"socket_connection_setup_timeout_ms": 3000}
"""Timeout of a connection attempt. The producer and the admin client have no setting for it."""


class ClientHolder(Generic[Client]):
    """Holds one client for each process. Any thread may call; creating the client blocks other callers of `get`.

    A client is created at most once a second, and only if `check_reachable` does not raise: kafka-python's
    constructors take their whole timeout to find that no broker answers.
    """

    def __init__(
        self,
        create: Callable[..., Client],
        close: Callable[[Client], None],
        settings: Settings,
        check_reachable: Callable[[], None],
    ) -> None:
        self._create = create
        self._close = close
        self._settings = settings
        self._check_reachable = check_reachable
        self._servers = ", ".join(settings["bootstrap_servers"])
        self._lock = Lock()
        self._client: Client | None = None
        self._created_at = float("-inf")
        self._closed = False

    @property
    def current(self) -> Client | None:
        """The client, or None. Does not block."""
        return self._client

    def get(self) -> Client:
        """Return the client. Raises `BrokerUnavailable` if it cannot be created, or after `close`."""
        if (client := self._client) is not None:
            return client
        with self._lock:
            if self._client is None:
                self._client = self._new()
            return self._client

    def drop(self, client: Client) -> bool:
        """Close this client, so that the next `get` creates one. Return False if it is less than a second old."""
        with self._lock:
            if client is not self._client or time.monotonic() < self._created_at + 1:
                return False
            self._client = None
        self._close(client)
        return True

    def close(self) -> Client | None:
        """Stop creating clients. Return the present one; the caller closes it."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
            return client

    def _new(self) -> Client:
        if self._closed:
            raise BrokerUnavailable("This server is shutting down.")
        self._check_reachable()
        if time.monotonic() < self._created_at + 1:
            raise BrokerUnavailable(f"No Kafka broker answers: the connection was just lost. Kafka: {self._servers}.")
        self._created_at = time.monotonic()
        nets: list[KafkaNetClient] = []

        def net_client(**settings: Any) -> KafkaNetClient:
            nets.append(_net_client(settings))
            return nets[-1]

        try:
            return self._create(**self._settings, kafka_client=net_client)
        except BaseException as error:
            for net in nets:  # a constructor that fails leaks its thread and descriptors
                with suppress(Exception):
                    net.close()
            if isinstance(error, KafkaError):
                if nets:
                    note_addresses(error, cast("PatchedConnectionManager", nets[-1]._manager).addresses_tried())
                raise translate(error, servers=self._servers) from error
            raise


def _net_client(settings: dict[str, Any]) -> KafkaNetClient:
    settings = net_settings(settings | _CONNECT_MS)
    net = NetworkSelector(**settings)
    return KafkaNetClient(net=net, manager=BoundedConnectionManager(net, **settings))
