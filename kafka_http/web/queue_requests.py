"""The requests of queues: parsed and checked, with the rendering of their responses."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from werkzeug.datastructures import MultiDict

from kafka_http.consumers.consumer_offsets import check_consumer_name
from kafka_http.consumers.queue_service import (
    DEFAULT_LOCK,
    MAX_LOCK,
    MAX_MESSAGES,
    MIN_LOCK,
    LeaseResult,
    QueueName,
    QueuePage,
    Settlement,
)
from kafka_http.errors import InvalidRequest, Unavailable, status_of
from kafka_http.schemas.formats import Formats
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.topics import check_publishable, check_topic_name
from kafka_http.web.messages.page_rendering import render_queue_page
from kafka_http.web.messages.read_parameters import requested_formats
from kafka_http.web.negotiation import JSON, OCTETS, Accept, best_of
from kafka_http.web.query_parameters import QueryParameters, invalid_parameter
from kafka_http.web.responses import RenderedResponse, render_json

MAX_WAIT = 60
PREFIX = "/messages/<topic>/<consumer>/queue"
_PARAMETERS = ("limit", "wait", "lock", "dead", "format", "key_format")
_LEASE = re.compile(r"[0-9]{1,10}:[0-9]{1,19}:[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9]{1,64}")


class AcquireRequest(NamedTuple):
    """POST …/queue. With `is_single`, the response is one message byte for byte. Without a dead topic, it is empty."""

    queue: QueueName
    limit: int
    wait: float
    lock: float
    dead: str
    decode_as: TopicFormat
    is_single: bool

    @classmethod
    def parse(cls, topic: str, consumer: str, args: MultiDict[str, str], accept: str | None, formats: Formats) -> Self:
        """Raises `InvalidRequest`, `NotAcceptable`, `UnsupportedFormat`."""
        is_single = best_of(Accept.parse(accept), (JSON, OCTETS)) == OCTETS
        query = QueryParameters(args, _PARAMETERS)
        decode_as, queue = requested_formats(formats, topic, query), queue_name(topic, consumer)
        limit, wait = query.integer("limit", 1, 1, MAX_MESSAGES), query.seconds("wait", 0, MAX_WAIT)
        lock, dead = _lock_seconds(query, DEFAULT_LOCK), query.text("dead")
        if dead is not None:
            _check_dead(topic, dead)
        return cls(queue, 1 if is_single else limit, wait, lock, dead or "", decode_as, is_single)

    @property
    def topics(self) -> Sequence[str]:
        """The topics that must exist before anything is acquired."""
        return (self.queue.topic, self.dead) if self.dead else (self.queue.topic,)

    def render(self, formats: Formats, page: QueuePage) -> RenderedResponse:
        """Render a page as JSON."""
        body = render_queue_page(formats, self.queue, self.decode_as, page)
        return render_json(body)


class SettleRequest(NamedTuple):
    """DELETE or PUT …/queue/<leases>. `lock` are the seconds of `extend`."""

    queue: QueueName
    leases: Sequence[str]
    settlement: Settlement
    lock: float = 0

    @classmethod
    def parse(cls, method: str, topic: str, consumer: str, leases: str, args: MultiDict[str, str]) -> Self:
        """Raises `InvalidRequest`."""
        if method == "DELETE":
            settlement: Settlement = "reject" if QueryParameters(args, ("reject",)).flag("reject") else "acknowledge"
            return cls(queue_name(topic, consumer), _parse_leases(leases), settlement)
        query = QueryParameters(args, ("lock",))
        if query.text("lock") is None:
            raise InvalidRequest(
                "lock is missing: the seconds from now on that the messages stay locked, or 0 to give them back.",
                field="lock",
            )
        lock = _lock_seconds(query, 0, may_be_zero=True)
        return cls(queue_name(topic, consumer), _parse_leases(leases), "extend" if lock else "release", lock)

    @property
    def distinct_leases(self) -> list[str]:
        return list(dict.fromkeys(self.leases))

    def render(self, results: Sequence[LeaseResult]) -> RenderedResponse:
        """Render the results of the distinct leases, in the order of the request."""
        by_lease = {each.lease: each for each in results}
        status = _status(results)
        headers: Mapping[str, str] = {"Retry-After": str(Unavailable.retry_after)} if status == Unavailable.code else {}
        return render_json({"leases": [by_lease[each] for each in self.leases]}, status, headers)


def queue_name(topic: str, consumer: str) -> QueueName:
    """Return the queue that a path names. Raises `InvalidRequest`."""
    check_topic_name(topic)
    check_consumer_name(consumer)
    return QueueName(topic, consumer)


def _lock_seconds(query: QueryParameters, default: float, *, may_be_zero: bool = False) -> float:
    expected = f"{'0 or ' if may_be_zero else ''}a number of seconds from {MIN_LOCK:g} to {MAX_LOCK:g}"
    lock = query.seconds("lock", default, MAX_LOCK, expected)
    if lock < MIN_LOCK and not (may_be_zero and lock == 0):
        raise invalid_parameter("lock", query.text("lock") or "", expected)
    return lock


def _check_dead(topic: str, dead: str) -> None:
    if dead == topic:
        raise InvalidRequest(
            f"dead must be another topic than {topic}: dead letters would come to the queue again.", field="dead"
        )
    try:
        check_publishable(dead)
    except InvalidRequest as error:
        raise InvalidRequest(f"dead: {error.message}", field="dead") from None


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


def _status(results: Sequence[LeaseResult]) -> int:
    """Return 200 if nothing failed, 409, 503 or 504 if all failed with it, else 207."""
    statuses = {status_of(each.error.code) if each.error else 200 for each in results}
    return statuses.pop() if len(statuses) == 1 and statuses <= {200, 409, 503, 504} else 207
