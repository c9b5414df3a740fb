"""Notices new records at the end of a topic's partitions."""

import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any

from kafka.errors import KafkaError

from kafka_http.broker.fetcher import fetch_request, list_offsets_request
from kafka_http.broker.prefetch_buffer import ReadConditions
from kafka_http.broker.share_connections import ShareConnections
from kafka_http.records import LATEST, TopicPartition

_log = logging.getLogger(__name__)

_WAIT_SECONDS = 10.0
_REQUEST_MS = 5_000
_RETRY_DELAY = 0.3


class EndWatch:
    """Watches the partitions of one leader while its member wants messages. Only the loop's thread uses it.

    A share fetch that waits would hold up the acknowledgements behind it. So this is a plain fetch at the end of the
    log that waits, on a connection of its own.
    """

    def __init__(self, connections: ShareConnections, topic: str, node: int, on_end: Callable[[bool], None]) -> None:
        """`on_end` is called when a watch has ended, with whether there may be new records."""
        self._connections = connections
        self._topic = topic
        self._node = node
        self._on_end = on_end
        self._ends: dict[int, int] = {}
        self._is_running = False

    def start(self, partitions: Collection[int]) -> None:
        """Watch these partitions, unless a watch is running."""
        if not self._is_running and partitions:
            self._is_running = True
            self._connections.loop.call_soon(lambda: self._run(sorted(partitions)))

    async def _run(self, partitions: list[int]) -> None:
        has_moved = False
        try:
            missing = [each for each in partitions if each not in self._ends]
            # Records may have come before the end was known, so that it counts as moved.
            has_moved = await (self._find_ends(missing) if missing else self._wait(partitions))
        except KafkaError as error:
            _log.debug("Watching the end of %s failed: %s", self._topic, error)
            await self._connections.sleep(_RETRY_DELAY)
        self._is_running = False
        self._on_end(has_moved)

    async def _find_ends(self, partitions: list[int]) -> bool:
        request = list_offsets_request(self._topic, dict.fromkeys(partitions, LATEST), "read_uncommitted")
        response = await self._connections.ask_apart(self._node, request, _REQUEST_MS)
        found = {each.partition_index: each.offset for each in _partitions(response.topics) if not each.error_code}
        self._ends |= found
        if not found:
            await self._connections.sleep(_RETRY_DELAY)
        return True

    async def _wait(self, partitions: list[int]) -> bool:
        """Wait until one of the logs is longer. Return False if none was for some time."""
        positions = {TopicPartition(self._topic, each): self._ends[each] for each in partitions}
        request = fetch_request(positions, ReadConditions({self._topic: None}, "read_uncommitted"), 1, 1, _WAIT_SECONDS)
        timeout_ms = int(_WAIT_SECONDS * 1000) + _REQUEST_MS
        response = await self._connections.ask_apart(self._node, request, timeout_ms)
        before = dict(self._ends)
        for each in _partitions(response.responses):
            if each.error_code:
                self._ends.pop(each.partition_index, None)
            else:
                self._ends[each.partition_index] = each.high_watermark
        return self._ends != before


def _partitions(topics: list[Any]) -> Iterator[Any]:
    return (each for topic in topics for each in topic.partitions)
