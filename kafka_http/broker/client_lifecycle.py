"""kafka-python's clients that have a thread: made on first use in a process, and anew where they are lost."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any, Generic, TypeVar, cast

from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient
from kafka.net.selector import NetworkSelector

from kafka_http.broker.connections import PatchedConnectionManager, net_settings
from kafka_http.broker.error_map import note_addresses, translate
from kafka_http.errors import BrokerUnavailable

Client = TypeVar("Client")
Settings = Mapping[str, Any]
_CONNECT_MS = {"socket_connection_setup_timeout_ms": 3000}
"""Neither client can be given it by its settings."""


class ClientHolder(Generic[Client]):
    """One client a process. Any thread may call; making one blocks the others that want it.

    A new one is made at most once a second, and where `reachable` does not raise: kafka-python's constructors take
    their whole time to find that no broker answers.
    """

    def __init__(
        self,
        make: Callable[..., Client],
        close: Callable[[Client], None],
        settings: Settings,
        reachable: Callable[[], None],
    ) -> None:
        self._make = make
        self._close = close
        self._settings = settings
        self._reachable = reachable
        self._lock = Lock()
        self._client: Client | None = None
        self._made_at = float("-inf")
        self._closed = False

    @property
    def current(self) -> Client | None:
        """The client where there is one. Does not block."""
        return self._client

    def get(self) -> Client:
        """The client. Raises `BrokerUnavailable` where it cannot be made, or was closed."""
        if (client := self._client) is not None:
            return client
        with self._lock:
            if self._client is None:
                self._client = self._new()
            return self._client

    def drop(self, client: Client) -> bool:
        """Close this client, so that the next `get` makes another; not yet where it was made within the last second."""
        with self._lock:
            if client is not self._client or time.monotonic() < self._made_at + 1:
                return False
            self._client = None
        self._close(client)
        return True

    def close(self) -> Client | None:
        """Make no more; the client there was is the caller's to close."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
            return client

    def _new(self) -> Client:
        if self._closed:
            raise BrokerUnavailable("This server is closing down.")
        self._reachable()
        if time.monotonic() < self._made_at + 1:
            raise BrokerUnavailable("No Kafka broker answers: the connection was lost a moment ago.")
        self._made_at = time.monotonic()
        nets: list[KafkaNetClient] = []

        def net_client(**settings: Any) -> KafkaNetClient:
            nets.append(_net_client(settings))
            return nets[-1]

        try:
            return self._make(**self._settings, kafka_client=net_client)
        except BaseException as error:
            for net in nets:  # a constructor that fails leaves its thread and descriptors behind
                with suppress(Exception):
                    net.close()
            if isinstance(error, KafkaError):
                if nets:
                    note_addresses(error, cast("PatchedConnectionManager", nets[-1]._manager).asked())
                raise translate(error) from error
            raise


class _BoundedManager(PatchedConnectionManager):
    """Gives up on what a caller waits for after the time of a request. kafka-python's waits for ever."""

    def run(self, coro: Any, *args: Any) -> Any:
        async def call() -> Any:
            return await self.wait_for(self.call_soon(coro, *args), self.config["request_timeout_ms"])

        return super().run(call)


def _net_client(settings: dict[str, Any]) -> KafkaNetClient:
    settings = net_settings(settings | _CONNECT_MS)
    net = NetworkSelector(**settings)
    return KafkaNetClient(net=net, manager=_BoundedManager(net, **settings))
