"""The calls of queues: /messages/<topic>/<consumer>/queue."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Blueprint, Request, Response, request

from kafka_http.consumers.consumer_offsets import check_consumer_name
from kafka_http.consumers.queue_service import (
    DEFAULT_LOCK,
    MAX_LOCK,
    MAX_MESSAGES,
    MIN_LOCK,
    LeaseResult,
    QueueName,
    QueuePage,
    QueueService,
    Settlement,
)
from kafka_http.errors import (
    GroupHasMembers,
    GroupNotFound,
    InvalidRequest,
    QueueInUse,
    Unavailable,
    WrongGroupType,
    status_of,
)
from kafka_http.records import payload_size
from kafka_http.request_facts import count_messages, waiting_for_kafka
from kafka_http.security.check_point import CheckPoint
from kafka_http.security.stream_access import StreamAccess
from kafka_http.topics import NEW_PARTITIONS_SECONDS, check_publishable, check_topic_name
from kafka_http.web.access_check import request_access
from kafka_http.web.messages.page_rendering import add_lease, raw_response, render_queue_page
from kafka_http.web.messages.read_parameters import requested_formats
from kafka_http.web.negotiation import JSON, OCTETS, Accept, best_of
from kafka_http.web.page_memory import PageMemoryBudget
from kafka_http.web.query_parameters import QueryParameters, invalid_parameter
from kafka_http.web.queue_nodes import QueueNodes
from kafka_http.web.queue_pages import PageConfirmations
from kafka_http.web.responses import json_response
from kafka_http.web.sent_body import SentBody
from kafka_http.web.services import Services
from kafka_http.web.url_paths import Routes, new_blueprint
from kafka_http.web.wait_limiter import WaitLimiter

MAX_WAIT = 60
_WAIT_SLICE = 1.0
"""Seconds of one wait at the daemon. A server that stops waits for the end of it."""
_PARAMETERS = ("limit", "wait", "lock", "dead", "format", "key_format")
_LEASE = re.compile(r"[0-9]{1,10}:[0-9]{1,19}:[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9]{1,64}")


class QueueRoutes:
    """The views of queues. The node's daemon holds the messages; leases may be those of other nodes."""

    def __init__(
        self,
        services: Services,
        queues: QueueService,
        nodes: QueueNodes,
        confirmations: PageConfirmations,
        wait_limiter: WaitLimiter,
        *,
        page_memory: PageMemoryBudget,
        check_point: CheckPoint,
    ) -> None:
        self._services = services
        self._queues = queues
        self._nodes = nodes
        self._confirmations = confirmations
        self._wait_limiter = wait_limiter
        self._page_memory = page_memory
        self._check_point = check_point

    def blueprint(self) -> Blueprint:
        routes: Routes = {
            "": {"POST": self.acquire, "GET": self.state, "DELETE": self.delete},
            "/<leases>": {"DELETE": self.acknowledge, "PUT": self.extend},
        }
        return new_blueprint("queue", routes, prefix="/messages/<topic>/<consumer>/queue")

    def acquire(self, topic: str, consumer: str) -> Response:
        """POST …/queue: acquire messages, each with a lease."""
        media_type = best_of(Accept.parse(request.headers.get("Accept")), (JSON, OCTETS))
        query = QueryParameters(request.args, _PARAMETERS)
        decode_as = requested_formats(self._services.formats, topic, query)
        queue, arguments = _queue(topic, consumer), self._arguments(topic, query, is_single=media_type == OCTETS)
        page = self._acquire(queue, query.seconds("wait", 0, MAX_WAIT), arguments)
        try:
            StreamAccess(self._check_point, request_access(), "read", topic).check()  # it may have waited for a minute
            if media_type == JSON:
                response = json_response(render_queue_page(self._services.formats, queue, decode_as, page))
            else:
                response = _single(page)
            return self._tracked(response, page)
        except BaseException:
            if page.messages:
                self._queues.release_page(page.id)
            raise

    def _arguments(self, topic: str, query: QueryParameters, is_single: bool) -> dict[str, Any]:
        """Return the arguments of `acquire_messages` but the queue and the wait, from a checked request."""
        limit = query.integer("limit", 1, 1, MAX_MESSAGES)
        lock = _lock_seconds(query, DEFAULT_LOCK)
        dead = query.text("dead")
        _check_no_body(request)
        self._services.topics.partitions(topic, NEW_PARTITIONS_SECONDS)
        if dead is not None:
            self._check_dead(topic, dead)
        return {"limit": 1 if is_single else limit, "lock": lock, "dead": dead or ""}

    def _check_dead(self, topic: str, dead: str) -> None:
        """Check a topic of dead letters before anything is acquired. Raises `InvalidRequest`, `TopicNotFound`."""
        if dead == topic:
            raise InvalidRequest(
                f"dead must be another topic than {topic}: dead letters would come to the queue again.",
                field="dead",
            )
        try:
            check_publishable(dead)
        except InvalidRequest as error:
            raise InvalidRequest(f"dead: {error.message}", field="dead") from None
        self._services.topics.partitions(dead, NEW_PARTITIONS_SECONDS)

    def _acquire(self, queue: QueueName, wait: float, arguments: dict[str, Any]) -> QueuePage:
        memory = self._page_memory.reserve(1)
        with self._wait_limiter.acquire(wait) as seconds, waiting_for_kafka():
            deadline = time.monotonic() + seconds
            while True:
                left = 0 if self._services.reader.is_stopping else max(0, deadline - time.monotonic())
                page = self._queues.acquire_messages(queue, wait=min(left, _WAIT_SLICE), **arguments)
                if page.messages or left <= _WAIT_SLICE:
                    break
        size = payload_size(each.record for each in page.messages)
        memory.hold(size)
        count_messages(queue.topic, len(page.messages), size)
        return page

    def _tracked(self, response: Response, page: QueuePage) -> Response:
        """Let the response with a page tell whether it was sent."""
        if not page.messages:
            return response
        body = response.get_data()
        response.response = SentBody(
            body, lambda: self._confirmations.add(page.id), lambda: self._queues.release_page(page.id)
        )
        response.content_length = len(body)
        return response

    def acknowledge(self, topic: str, consumer: str, leases: str) -> Response:
        """DELETE …/queue/<leases>: acknowledge these messages alone, or reject them."""
        is_rejected = QueryParameters(request.args, ("reject",)).flag("reject")
        return self._settle(topic, consumer, leases, "reject" if is_rejected else "acknowledge")

    def extend(self, topic: str, consumer: str, leases: str) -> Response:
        """PUT …/queue/<leases>: lock these messages for longer, or give them back."""
        query = QueryParameters(request.args, ("lock",))
        if query.text("lock") is None:
            raise InvalidRequest(
                "lock is missing: the seconds from now on that the messages stay locked, or 0 to give them back.",
                field="lock",
            )
        lock = _lock_seconds(query, 0, may_be_zero=True)
        return self._settle(topic, consumer, leases, "extend" if lock else "release", lock)

    def _settle(self, topic: str, consumer: str, text: str, settlement: Settlement, lock: float = 0) -> Response:
        queue, leases = _queue(topic, consumer), _parse_leases(text)
        with waiting_for_kafka():
            results = self._nodes.settle(queue, list(dict.fromkeys(leases)), settlement, lock)
        by_lease = {each.lease: each for each in results}
        status = _status(results)
        headers = {"Retry-After": str(Unavailable.retry_after)} if status == Unavailable.code else None
        return json_response({"leases": [by_lease[each] for each in leases]}, status, headers)

    def state(self, topic: str, consumer: str) -> Response:
        """GET …/queue: how far the queue is, and the leases of this node."""
        QueryParameters(request.args, ())
        queue = _queue(topic, consumer)
        with self._explaining(queue), waiting_for_kafka():
            return json_response(self._queues.queue_state(queue))

    def delete(self, topic: str, consumer: str) -> Response:
        """DELETE …/queue: delete the queue. From another node: leave it, before that node deletes it."""
        QueryParameters(request.args, ())
        queue = _queue(topic, consumer)
        with self._explaining(queue), waiting_for_kafka():
            self._nodes.delete(queue)
        return Response(status=204)

    @contextmanager
    def _explaining(self, queue: QueueName) -> Iterator[None]:
        """Say what else has the name of a queue that does not exist, and who keeps one from being deleted.

        Raises `WrongGroupType`, `GroupNotFound`, `GroupHasMembers`.
        """
        try:
            yield
        except QueueInUse:
            raise
        except GroupHasMembers as error:
            error.message = (
                f"The queue {queue.consumer} has members in Kafka: another program reads it, or a node was killed, "
                "which Kafka notices within a minute. Nothing was deleted. Retry."
            )
            raise
        except GroupNotFound as error:
            topic, consumer = queue
            if self._services.groups.is_ordinary(consumer):
                raise WrongGroupType(
                    f"{consumer} is an ordinary consumer, not a queue. See it with GET /messages/{topic}/{consumer}.",
                    consumer=consumer,
                ) from None
            error.message = f"There is no queue {consumer} on the topic {topic}. The first POST to its path makes it."
            raise


def _queue(topic: str, consumer: str) -> QueueName:
    check_topic_name(topic)
    check_consumer_name(consumer)
    return QueueName(topic, consumer)


def _lock_seconds(query: QueryParameters, default: float, *, may_be_zero: bool = False) -> float:
    expected = f"{'0 or ' if may_be_zero else ''}a number of seconds from {MIN_LOCK:g} to {MAX_LOCK:g}"
    lock = query.seconds("lock", default, MAX_LOCK, expected)
    if lock < MIN_LOCK and not (may_be_zero and lock == 0):
        raise invalid_parameter("lock", query.text("lock") or "", expected)
    return lock


def _check_no_body(request: Request) -> None:
    """Check that a request has no body, which would have no effect. Raises `InvalidRequest`."""
    is_chunked = "Transfer-Encoding" in request.headers
    if request.content_length or (is_chunked and request.environ["wsgi.input"].read(1)):
        raise InvalidRequest("The body must be empty. The parameters of this call are in the query.", field="body")


def _parse_leases(text: str) -> list[str]:
    leases = text.split(",")
    for each in leases:
        if not _LEASE.fullmatch(each):
            raise InvalidRequest(
                f"Lease {each[:100]!r} is malformed. A lease is the text that was delivered with a message, such as "
                "3:1234:0.k3fa9d1c. Separate several by commas.",
                field="lease",
            )
    return leases


def _single(page: QueuePage) -> Response:
    """Return the one message of a page byte for byte. 204 without a message."""
    if not page.messages:
        return raw_response(None)
    return add_lease(raw_response(page.messages[0].record), page.messages[0])


def _status(results: list[LeaseResult]) -> int:
    """Return 200 if nothing failed, 409, 503 or 504 if all failed with it, else 207."""
    statuses = {status_of(each.error.code) if each.error else 200 for each in results}
    return statuses.pop() if len(statuses) == 1 and statuses <= {200, 409, 503, 504} else 207
