"""The thread and the connections that the share members of a process have in common."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from kafka.errors import KafkaError, NoError, RequestTimedOutError, for_code
from kafka.future import Future
from kafka.net.selector import NetworkSelector
from kafka.protocol.metadata import FindCoordinatorRequest

from kafka_http.broker.connections import Bootstrap, ask_any
from kafka_http.broker.error_map import CONNECTION_LOST
from kafka_http.broker.group_session import LoopSemaphore
from kafka_http.broker.patches import ShareConnectionManager, net_settings
from kafka_http.broker.topic_metadata import metadata_request

_MAX_SPARE = 16
"""Idle connection managers that are kept for watches."""


class LoopEvent:
    """Wakes a coroutine of a loop. Only the loop's thread uses it.

    kafka-python's `WakeupNotifier` is for any thread: it writes to a socket each time.
    """

    def __init__(self, loop: NetworkSelector) -> None:
        self._loop = loop
        self._waiting: Future | None = None
        self._is_set = False

    def set(self) -> None:
        """End the wait, or the next one if nobody waits."""
        if self._waiting is None:
            self._is_set = True
        elif not self._waiting.is_done:
            self._waiting.success(None)

    async def wait(self, seconds: float) -> None:
        """Wait for `set`, for at most this time."""
        if self._is_set:
            self._is_set = False
            return
        waiting = self._waiting = Future()
        timer = self._loop.call_later(seconds, self.set)
        try:
            await waiting
        finally:
            self._waiting = None
            self._loop.cancel(timer)


class ShareConnections:
    """One loop for all members; one connection to each broker for heartbeats and metadata; others for watches.

    `KafkaShareGroups` makes it for the first member, after the fork. The coroutines run on the loop's thread, and raise
    errors of kafka-python.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """`settings` are those of `KafkaNetClient`."""
        self._settings = net_settings(settings)
        self.servers = ", ".join(settings["bootstrap_servers"])
        """The addresses of Kafka in the settings, for errors."""
        # No warnings of slow steps: in a busy process every step looks slow.
        self.loop = NetworkSelector(client_id="kafka_http-share", slow_task_threshold_secs=0)
        self._bootstrapping = LoopSemaphore(1)
        self._shared: ShareConnectionManager | None = None
        self._spare: deque[ShareConnectionManager] = deque()
        self._in_use: set[ShareConnectionManager] = set()
        self._brokers: Any = None
        """The last metadata response."""

    def start(self) -> None:
        """Start the thread."""
        self.loop.start()

    def close(self) -> None:
        """Close the shared connections and end the thread."""
        self.loop.run(self._close)
        self.loop.close()

    def _close(self) -> None:
        for each in [*self._spare, *self._in_use, *filter(None, [self._shared])]:
            each.close()

    def new_manager(self) -> ShareConnectionManager:
        """Return a manager that knows the brokers of the last metadata."""
        manager = ShareConnectionManager(self.loop, **self._settings)
        manager.cluster.config["allow_auto_create_topics"] = False
        if self._brokers is not None:
            manager.cluster.update_metadata(self._brokers)
        return manager

    async def sleep(self, seconds: float) -> None:
        """Let the loop do other things for this time."""
        over = Future()
        self.loop.call_later(seconds, lambda: over.success(None))
        await over

    async def metadata(self, topic: str) -> Any:
        """Return the metadata of a topic, which has an error code if there is none. Later managers know its brokers."""
        response = await self._ask_any(metadata_request([topic]))
        if response.brokers:
            self._brokers = response
            if self._shared is not None:
                self._shared.cluster.update_metadata(response)
        return response.topics[0]

    async def coordinator(self, group: str) -> int:
        """Return the node id of a group's coordinator."""
        request = FindCoordinatorRequest(key_type=0, coordinator_keys=[group], min_version=4)
        [found] = (await self._ask_any(request)).coordinators
        if (error := for_code(found.error_code)) is not NoError:
            raise error(found.error_message)
        return int(found.node_id)

    async def ask(self, node: int, request: Any) -> Any:
        """Send a request to a broker, on the connection that all members share."""
        return await (await self._bootstrapped()).send(request, node)

    async def ask_apart(self, node: int, request: Any, timeout_ms: int) -> Any:
        """Send a request that the broker may keep for a while, on a connection that nobody uses meanwhile."""
        manager = self._spare.pop() if self._spare else self.new_manager()
        self._in_use.add(manager)
        try:
            response = await manager.send(request, node, timeout_ms)
        except Exception:
            manager.close()
            raise
        finally:
            self._in_use.discard(manager)
        if len(self._spare) < _MAX_SPARE:
            self._spare.append(manager)
        else:
            manager.close()
        return response

    async def _ask_any(self, request: Any) -> Any:
        try:
            return await ask_any(await self._bootstrapped(), request)
        except (*CONNECTION_LOST, RequestTimedOutError):
            self._forget()  # the brokers may have moved
            return await ask_any(await self._bootstrapped(), request)

    async def _bootstrapped(self) -> ShareConnectionManager:
        """Return the shared manager, which knows the cluster's brokers."""
        await self._bootstrapping.acquire()
        try:
            if self._shared is None:
                manager, bootstrap = self.new_manager(), Bootstrap()
                try:
                    await bootstrap(manager)
                except KafkaError as error:
                    manager.close()
                    raise bootstrap.failure(error) from error
                self._shared = manager
            return self._shared
        finally:
            self._bootstrapping.release()

    def _forget(self) -> None:
        if self._shared is not None:
            self._shared.close()
            self._shared = None
