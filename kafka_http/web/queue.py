"""The calls of queues: /messages/<topic>/<consumer>/queue."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Blueprint, Request, Response, request

from kafka_http.consumers.queue_service import QueueName, QueuePage, QueueService
from kafka_http.errors import GroupHasMembers, GroupNotFound, InvalidRequest, QueueInUse, WrongGroupType
from kafka_http.records import payload_size
from kafka_http.request_facts import count_messages, waiting_for_kafka
from kafka_http.security.check_point import CheckPoint
from kafka_http.security.stream_access import StreamAccess
from kafka_http.web.access_check import request_access
from kafka_http.web.messages.page_rendering import add_lease, raw_response
from kafka_http.web.page_memory import PageMemoryBudget
from kafka_http.web.query_parameters import QueryParameters
from kafka_http.web.queue_nodes import QueueNodes
from kafka_http.web.queue_pages import QueuePages
from kafka_http.web.queue_requests import PREFIX, AcquireRequest, SettleRequest, queue_name
from kafka_http.web.responses import flask_response, json_response
from kafka_http.web.sent_body import SentBody
from kafka_http.web.services import Services
from kafka_http.web.url_paths import Routes, new_blueprint
from kafka_http.web.wait_limiter import WaitLimiter

WAIT_SLICE = 1.0
"""Seconds of one wait at the daemon. A server that stops waits for the end of it."""


class QueueRoutes:
    """The views of queues. The node's daemon holds the messages; leases may be those of other nodes."""

    def __init__(
        self,
        services: Services,
        queues: QueueService,
        nodes: QueueNodes,
        pages: QueuePages,
        *,
        wait_limiter: WaitLimiter,
        page_memory: PageMemoryBudget,
        check_point: CheckPoint,
    ) -> None:
        self._services = services
        self._queues = queues
        self._nodes = nodes
        self._pages = pages
        self._wait_limiter = wait_limiter
        self._page_memory = page_memory
        self._check_point = check_point

    def blueprint(self) -> Blueprint:
        routes: Routes = {
            "": {"POST": self.acquire, "GET": self.state, "DELETE": self.delete},
            "/<leases>": {"DELETE": self.settle, "PUT": self.settle},
        }
        return new_blueprint("queue", routes, prefix=PREFIX)

    def acquire(self, topic: str, consumer: str) -> Response:
        """POST …/queue: acquire messages, each with a lease."""
        accept, formats = request.headers.get("Accept"), self._services.formats
        asked = AcquireRequest.parse(topic, consumer, request.args, accept, formats)
        _check_no_body(request)
        self._services.topics.check_exist(asked.topics)
        page = self._acquire(asked)
        try:
            StreamAccess(self._check_point, request_access(), "read", topic).check()  # it may have waited for a minute
            response = _single(page) if asked.is_single else flask_response(asked.render(formats, page))
            return self._tracked(response, page)
        except BaseException:
            if page.messages:
                self._queues.release_page(page.id)
            raise

    def _acquire(self, asked: AcquireRequest) -> QueuePage:
        memory, queue = self._page_memory.reserve(1), asked.queue
        with self._wait_limiter.acquire(asked.wait) as seconds, waiting_for_kafka():
            deadline = time.monotonic() + seconds
            while True:
                left = 0 if self._services.reader.is_stopping else max(0, deadline - time.monotonic())
                wait = min(left, WAIT_SLICE)
                page = self._queues.acquire_messages(queue, asked.limit, wait, asked.lock, asked.dead)
                if page.messages or left <= WAIT_SLICE:
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
            body, lambda: self._pages.end(page.id, is_sent=True), lambda: self._pages.end(page.id, is_sent=False)
        )
        response.content_length = len(body)
        return response

    def settle(self, topic: str, consumer: str, leases: str) -> Response:
        """DELETE …/queue/<leases>: acknowledge these messages alone, or reject them.

        PUT …/queue/<leases>: lock these messages for longer, or give them back.
        """
        asked = SettleRequest.parse(request.method, topic, consumer, leases, request.args)
        with waiting_for_kafka():
            results = self._nodes.settle(asked.queue, asked.distinct_leases, asked.settlement, asked.lock)
        return flask_response(asked.render(results))

    def state(self, topic: str, consumer: str) -> Response:
        """GET …/queue: how far the queue is, and the leases of this node."""
        QueryParameters(request.args, ())
        queue = queue_name(topic, consumer)
        with self._explaining(queue), waiting_for_kafka():
            return json_response(self._queues.queue_state(queue))

    def delete(self, topic: str, consumer: str) -> Response:
        """DELETE …/queue: delete the queue. From another node: leave it, before that node deletes it."""
        QueryParameters(request.args, ())
        queue = queue_name(topic, consumer)
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


def _check_no_body(request: Request) -> None:
    """Check that a request has no body, which would have no effect. Raises `InvalidRequest`."""
    is_chunked = "Transfer-Encoding" in request.headers
    if request.content_length or (is_chunked and request.environ["wsgi.input"].read(1)):
        raise InvalidRequest("The body must be empty. The parameters of this call are in the query.", field="body")


def _single(page: QueuePage) -> Response:
    """Return the one message of a page byte for byte. 204 without a message."""
    if not page.messages:
        return raw_response(None)
    return add_lease(raw_response(page.messages[0].record), page.messages[0])
