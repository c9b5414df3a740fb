"""Queues over several nodes: each lease is settled at its node, and all nodes leave a queue before it is deleted."""

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote, urlencode

import msgspec
from flask import request
from msgspec import Struct

from kafka_http.consumers.instance_service import RemoteNode
from kafka_http.consumers.queue_service import (
    ErrorEntry,
    LeaseResult,
    QueueLocator,
    QueueName,
    QueueService,
    Settlement,
)
from kafka_http.errors import KafkaHttpError, LeaseLost, QueueInUse, Unavailable
from kafka_http.security.forwarded_calls import NODE_HEADER, ForwardedCalls
from kafka_http.web.node_calls import NodeCalls, NodeResponse

_RESPONSE_SECONDS = 35.0
"""More than a node waits for Kafka before it answers a settlement."""
_QUERIES: Mapping[Settlement, tuple[str, Mapping[str, str]]] = {
    "acknowledge": ("DELETE", {}),
    "reject": ("DELETE", {"reject": "true"}),
    "release": ("PUT", {"lock": "0"}),
    "extend": ("PUT", {}),
}


class _Settled(Struct):
    """The body of a response to a settlement: results, or an error of the whole request."""

    leases: list[LeaseResult] = []
    error: ErrorEntry | None = None


class QueueNodes:
    """Settles leases and deletes queues, with the other nodes if there are any. Any thread may call."""

    def __init__(
        self,
        queues: QueueService,
        locator: QueueLocator | None,
        calls: NodeCalls,
        forwarded: ForwardedCalls | None,
    ) -> None:
        """`locator` and `forwarded` are None if there is only one node."""
        self._queues = queues
        self._locator = locator
        self._calls = calls
        self._forwarded = forwarded
        self._own_name = ""

    def settle(self, queue: QueueName, leases: Sequence[str], settlement: Settlement, lock: float) -> list[LeaseResult]:
        """Settle leases of any nodes. The results have an order of their own.

        Raises the errors of `QueueService.settle_messages` if all leases are of this node.
        """
        by_node: dict[str, list[str]] = {}
        for each in leases:
            by_node.setdefault(self._node_of(each), []).append(each)
        own = by_node.pop("", [])
        if not by_node:
            return self._queues.settle_messages(queue, own, settlement, lock)
        results = self._settle_on_others(queue, by_node, settlement, lock)
        if own:
            results += _entries(own, lambda: self._queues.settle_messages(queue, own, settlement, lock))
        return results

    def _settle_on_others(
        self, queue: QueueName, by_node: Mapping[str, list[str]], settlement: Settlement, lock: float
    ) -> list[LeaseResult]:
        method, query = _QUERIES[settlement]
        parameters = urlencode({"lock": f"{lock:g}"} if settlement == "extend" else query)

        def settle_on(name: str, leases: list[str]) -> list[LeaseResult]:
            if (node := self._live_nodes().get(name)) is None:
                raise LeaseLost
            target = f"{_path(queue)}/{','.join(leases)}?{parameters}".rstrip("?")
            return _results(self._send(node, method, target), leases)

        pairs = by_node.items()
        return [one for name, each in pairs for one in _entries(each, lambda: settle_on(name, each))]  # noqa: B023

    def delete(self, queue: QueueName) -> None:
        """Delete a queue that no client holds messages of. If another node asks: leave it on this node only.

        Raises the errors of `QueueService.delete_queue`, and `Unavailable`.
        """
        self._queues.leave_queue(queue)
        if self._is_from_node():
            return
        for node in self._live_nodes().values():
            response = self._send(node, "DELETE", _path(queue))
            if response.status == QueueInUse.code:
                raise QueueInUse(_error(response).message, **queue._asdict())
            if response.status >= 500:
                raise Unavailable(f"Another node has not left the queue: {_error(response).message}")
        self._queues.delete_queue(queue)

    def are_own(self, leases: Sequence[str]) -> bool:
        """Whether all leases are known to be of this node. Does not block. Works without a Flask request."""
        return self._locator is None or all(_node_name(each) == self._own_name for each in leases)

    def _node_of(self, lease: str) -> str:
        """Return the name of the node to settle a lease at, which is empty for this node."""
        name = _node_name(lease)
        if self._locator is None or self._is_from_node():
            return ""
        if not self._own_name:
            self._own_name = self._locator.queue_node()
        return "" if name == self._own_name else name

    def _live_nodes(self) -> Mapping[str, RemoteNode]:
        return {} if self._locator is None else self._locator.live_nodes()

    def _is_from_node(self) -> bool:
        secret = request.headers.get(NODE_HEADER)
        return secret is not None and self._forwarded is not None and self._forwarded.is_secret(secret)

    def _send(self, node: RemoteNode, method: str, target: str) -> NodeResponse:
        self._calls.check(node)
        return self._calls.send(node, method, target, b"", _RESPONSE_SECONDS)


def _node_name(lease: str) -> str:
    return lease.split(":")[2].partition(".")[0]


def _path(queue: QueueName) -> str:
    return f"/messages/{quote(queue.topic, safe='')}/{quote(queue.consumer, safe='')}/queue"


def _entries(leases: list[str], settle: Callable[[], list[LeaseResult]]) -> list[LeaseResult]:
    """Return the results of a call, or its error for each lease."""
    try:
        return settle()
    except KafkaHttpError as error:
        return [LeaseResult(each, error=ErrorEntry(error.code, error.message)) for each in leases]


def _results(response: NodeResponse, leases: list[str]) -> list[LeaseResult]:
    """Return the results in the response of another node, or the error of the whole request for each lease."""
    settled = _decoded(response)
    if settled.leases:
        return settled.leases
    return [LeaseResult(each, error=_error(response)) for each in leases]


def _error(response: NodeResponse) -> ErrorEntry:
    return _decoded(response).error or ErrorEntry(503, f"Another node answered with status {response.status}.")


def _decoded(response: NodeResponse) -> _Settled:
    try:
        return msgspec.json.decode(response.body, type=_Settled)
    except msgspec.DecodeError:  # an HTML page of a proxy
        return _Settled()
