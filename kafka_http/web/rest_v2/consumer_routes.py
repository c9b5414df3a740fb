"""The routes of consumer instances in the REST Proxy v2 API: `/consumers/…`."""

import logging
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from urllib.parse import quote

from flask import Blueprint, Response, request

from kafka_http.config import Config
from kafka_http.consumers.instance_reader import InstanceReader, LeasedPage
from kafka_http.consumers.instance_service import InstanceLocator, InstanceService, ReadLease
from kafka_http.errors import InstanceBusy, InvalidRequest, InvalidValue, KafkaHttpError, WrongGroupType
from kafka_http.read.page_reader import ReadLimits
from kafka_http.records import InstanceSettings, OffsetReset
from kafka_http.request_facts import count_page
from kafka_http.security.check_point import CheckPoint
from kafka_http.security.server_tls import ServerTls
from kafka_http.security.stream_access import StreamAccess
from kafka_http.web.access_check import request_access
from kafka_http.web.authority import link_base
from kafka_http.web.content_coding import compress
from kafka_http.web.instance_routes import instance_caller
from kafka_http.web.negotiation import check_records_type, check_v2_content_type, kafka_type, v2_response_type
from kafka_http.web.node_calls import NodeCalls
from kafka_http.web.page_memory import PageMemoryBudget
from kafka_http.web.request_bodies import RequestBodies
from kafka_http.web.responses import v2_response
from kafka_http.web.rest_v2.consumer_bodies import (
    MAX_TIMEOUT,
    check_group,
    parse_commit,
    parse_create,
    parse_partitions,
    parse_requested_partitions,
    parse_seek,
    parse_subscription,
)
from kafka_http.web.rest_v2.instance_forwarding import InstanceForwarding
from kafka_http.web.rest_v2.v2_records import render_v2
from kafka_http.web.sent_body import SentBody
from kafka_http.web.services import Services
from kafka_http.web.url_paths import Routes, new_blueprint
from kafka_http.web.wait_limiter import WaitLimiter

log = logging.getLogger(__name__)

MAX_RECORDS = 100_000
DEFAULT_MAX_BYTES = 4 << 20
MAX_BODY_BYTES = 1 << 20
"""Maximum size of a body, which takes many times as much memory when it is parsed."""
_ACQUIRE_SECONDS = 0.05
"""Time that a read may wait for its lease without counting as a waiting request: the previous read may just end."""


class V2ConsumerRoutes:
    """The views of consumer instances. Instances may be held by the node's daemon or by another node."""

    def __init__(
        self,
        services: Services,
        instances: InstanceService,
        config: Config,
        bodies: RequestBodies,
        wait_limiter: WaitLimiter,
        *,
        page_memory: PageMemoryBudget,
        check_point: CheckPoint,
        locator: InstanceLocator | None,
        node_tls: ServerTls | None,
    ) -> None:
        """Create the views. `locator` is None if there is only one node. `node_tls` is that of `NodeCalls`."""
        calls = NodeCalls("this consumer instance", node_tls)
        self._page_memory = page_memory
        self._check_point = check_point
        self._formats = services.formats
        self._groups = services.groups
        self._instances = instances
        self._reader = InstanceReader(instances, services.reader)
        self._config = config
        self._bodies = bodies
        self._wait_limiter = wait_limiter
        self._forwarding = None if locator is None else InstanceForwarding(locator, bodies, wait_limiter, calls)

    def blueprint(self) -> Blueprint:
        instance = "/instances/<name>"
        routes: Routes = {
            "": {"POST": self.create},
            instance: {"DELETE": self.delete, "POST": self.delete_by_post},
            f"{instance}/subscription": {
                "POST": self.subscribe,
                "GET": self.subscription,
                "DELETE": self.unsubscribe,
            },
            f"{instance}/assignments": {"POST": self.assign, "GET": self.assignments},
            f"{instance}/positions": {"POST": self.seek},
            f"{instance}/positions/beginning": {"POST": self.seek_to_beginning},
            f"{instance}/positions/end": {"POST": self.seek_to_end},
            f"{instance}/offsets": {"POST": self.commit, "GET": self.committed},
            f"{instance}/records": {"GET": self.records},
        }
        consumers = new_blueprint("v2_consumers", routes, prefix="/consumers/<group>", without_head=["records"])
        consumers.before_request(_check_accept)
        if self._forwarding is not None:
            consumers.before_request(self._forwarding.forward)
        return consumers

    def create(self, group: str) -> Response:
        """POST /consumers/<group>: create an instance."""
        check_group(group)
        name, settings = parse_create(self._body(), self._config.consumer_auto_offset_reset, self._formats)
        self._check_not_queue(group)
        if name is None:
            name = f"rest-consumer-{uuid.uuid4()}"
        base = link_base(request.environ, self._config.base_url)
        base_uri = f"{base}/consumers/{quote(group, safe='')}/instances/{quote(name, safe='')}"
        self._instances.create(group, name, settings, instance_caller())
        return v2_response({"instance_id": name, "base_uri": base_uri})

    def _check_not_queue(self, group: str) -> None:
        """Raise `WrongGroupType` for a queue. If Kafka does not tell, the instance finds out when it joins."""
        try:
            self._groups.check_not_queue(group)
        except WrongGroupType:
            raise
        except KafkaHttpError as error:
            log.debug("The type of group %s is not known: %s", group, error.message)

    def delete(self, group: str, name: str) -> Response:
        """DELETE /consumers/<group>/instances/<name>: delete the instance."""
        self._instances.delete(group, name, instance_caller())
        return _no_content()

    def delete_by_post(self, group: str, name: str) -> Response:
        """POST /consumers/<group>/instances/<name> without a body: delete the instance, as a known tutorial does."""
        if self._body().strip():
            raise InvalidRequest("The body must be empty: a POST to an instance deletes it.")
        return self.delete(group, name)

    def subscribe(self, group: str, name: str) -> Response:
        """POST …/subscription: subscribe to topics, or to all topics that match a pattern."""
        topics, pattern = parse_subscription(self._body())
        _require_read(topics)
        self._instances.subscribe(group, name, topics, pattern, instance_caller())
        return _no_content()

    def subscription(self, group: str, name: str) -> Response:
        """GET …/subscription: return the subscribed topics."""
        topics = self._instances.subscription(group, name, instance_caller())
        return v2_response({"topics": request_access().visible(topics)})

    def unsubscribe(self, group: str, name: str) -> Response:
        """DELETE …/subscription: leave the group."""
        self._instances.unsubscribe(group, name, instance_caller())
        return _no_content()

    def assign(self, group: str, name: str) -> Response:
        """POST …/assignments: read these partitions, independently of the group's other members."""
        partitions = parse_partitions(self._body())
        _require_read(each.topic for each in partitions)
        self._instances.assign(group, name, partitions, instance_caller())
        return _no_content()

    def assignments(self, group: str, name: str) -> Response:
        """GET …/assignments: return the partitions that the instance reads."""
        partitions = self._instances.assignments(group, name, instance_caller())
        visible = frozenset(request_access().visible({each.topic for each in partitions}))
        return v2_response({"partitions": [each._asdict() for each in partitions if each.topic in visible]})

    def seek(self, group: str, name: str) -> Response:
        """POST …/positions: set the positions of the next read."""
        offsets, times = parse_seek(self._body())
        _require_read(each.topic for each in (*offsets, *times))
        if offsets or not times:
            self._instances.seek(group, name, offsets, instance_caller())
        if times:
            self._instances.seek_times(group, name, times, instance_caller())
        return _no_content()

    def seek_to_beginning(self, group: str, name: str) -> Response:
        """POST …/positions/beginning: continue with the first record."""
        return self._seek_ends(group, name, "earliest")

    def seek_to_end(self, group: str, name: str) -> Response:
        """POST …/positions/end: continue with the next new record."""
        return self._seek_ends(group, name, "latest")

    def _seek_ends(self, group: str, name: str, end: OffsetReset) -> Response:
        partitions = parse_partitions(self._body())
        _require_read(each.topic for each in partitions)
        self._instances.seek_ends(group, name, partitions, end, instance_caller())
        return _no_content()

    def commit(self, group: str, name: str) -> Response:
        """POST …/offsets: commit the offsets in the body, or those of all delivered records."""
        offsets = parse_commit(self._body())
        _require_read(each.topic for each in offsets or ())
        self._instances.commit(group, name, offsets, instance_caller())
        return v2_response([])

    def committed(self, group: str, name: str) -> Response:
        """GET …/offsets: return the group's committed offsets."""
        partitions = parse_requested_partitions(
            self._body(), request.args.get("topic"), request.args.getlist("partition")
        )
        _require_read(each.topic for each in partitions)
        offsets = self._instances.committed(group, name, partitions, instance_caller())
        return v2_response({"offsets": [each._asdict() for each in offsets]})

    def records(self, group: str, name: str) -> Response:
        """GET …/records: read the next page.

        The lease is acquired before the request is checked, because the lease has the instance's settings. A page takes
        two calls of the daemon: one acquires the lease and one releases it.
        """
        began = time.monotonic()
        acquired = self._acquire_now(group, name)
        lease = None if isinstance(acquired, KafkaHttpError) else acquired
        try:
            settings = self._settings(group, name) if lease is None else lease.settings
            check_records_type(request.headers.get("Accept"), settings.format)
            seconds = min(_seconds("timeout", settings.timeout), MAX_TIMEOUT)
            limits = self._limits(settings)
        except BaseException:
            if lease is not None:
                self._instances.release_lease(lease)
            raise
        if isinstance(acquired, KafkaHttpError) and not isinstance(acquired, InstanceBusy):
            raise acquired
        page = self._read(group, name, lease, limits, began + seconds)
        body, headers = (b"[]\n", {}) if page is None else self._render(page, settings.format)
        parts = body if page is None else SentBody(body, page.confirm, page.discard)
        response = Response(parts, headers=headers, content_type=kafka_type(settings.format))
        response.content_length = len(body)
        return response

    def _settings(self, group: str, name: str) -> InstanceSettings:
        return self._instances.settings(group, name, instance_caller())

    def _acquire_now(self, group: str, name: str) -> ReadLease | KafkaHttpError:
        """Acquire the lease, waiting only for a moment. Return the error if there is one."""
        try:
            return self._acquire(group, name, 0 if request.args.get("timeout") == "0" else _ACQUIRE_SECONDS)
        except KafkaHttpError as error:
            return error

    def _limits(self, settings: InstanceSettings) -> ReadLimits:
        max_bytes = _number("max_bytes", settings.max_bytes or DEFAULT_MAX_BYTES)
        max_records = _number("max_poll_records", settings.max_records or MAX_RECORDS)
        memory = self._page_memory.reserve(min(max(1, max_bytes), self._config.max_page_bytes))
        return ReadLimits(min(max(1, max_records), MAX_RECORDS), memory.size, memory)

    def _read(
        self, group: str, name: str, lease: ReadLease | None, limits: ReadLimits, deadline: float
    ) -> LeasedPage | None:
        """Read a page. Return None if there are no records in time, or if another reader keeps the lease."""
        joining = lease is not None and lease.joining
        with self._wait_limiter.acquire(deadline - time.monotonic(), joining=joining) as may_wait:
            until = deadline if may_wait else time.monotonic()
            if lease is None and may_wait:
                with suppress(InstanceBusy):
                    lease = self._acquire(group, name, max(0, until - time.monotonic()))
            readable = request_access().rights.read
            page = None if lease is None else self._reader.read(lease, limits, until, readable)
        if page is not None and not page.parts:
            page.confirm()
            return None
        return None if page is None else self._still_readable(page)

    def _still_readable(self, page: LeasedPage) -> LeasedPage:
        """Return a page if its topics may still be read: it may have waited for a minute. Otherwise discard it."""
        try:
            for topic in {each.topic for each in page.parts}:
                StreamAccess(self._check_point, request_access(), "read", topic).check()
        except KafkaHttpError:
            page.discard()
            raise
        return page

    def _acquire(self, group: str, name: str, seconds: float) -> ReadLease:
        """Acquire the lease if its topics may be read. Topics of a pattern are left out of the page instead."""
        lease = self._instances.acquire_lease(group, name, seconds, instance_caller())
        try:
            if not lease.by_pattern:
                _require_read(each.topic for each in lease.positions)
        except KafkaHttpError:
            self._instances.release_lease(lease)
            raise
        return lease

    def _render(self, page: LeasedPage, format_: str) -> tuple[bytes, Mapping[str, str]]:
        try:
            rendered = compress(request, render_v2(self._formats, format_, page.parts))
        except BaseException:
            page.discard()
            raise
        count_page(page.parts)
        return rendered

    def _body(self) -> bytes:
        request.max_content_length = min(MAX_BODY_BYTES, self._config.max_body_bytes)
        with self._bodies.read(request) as body:
            if body:
                check_v2_content_type(request.headers.get("Content-Type"))
            return body


def _require_read(topics: Iterable[str]) -> None:
    """Require the right to read each topic. Raises `Forbidden`, `TopicNotFound`."""
    access = request_access()
    if not access.is_unrestricted:
        for each in dict.fromkeys(topics):
            access.require("read", each)


def _no_content() -> Response:
    return Response(status=204)


def _check_accept() -> None:
    """Reject an unsatisfiable Accept header before doing any work. That of records depends on the instance."""
    if request.endpoint != "v2_consumers.records":
        v2_response_type(request.headers.get("Accept"))


def _seconds(name: str, default: float) -> float:
    """Return a query parameter in milliseconds as seconds."""
    milliseconds = _number(name, -1)
    return default if milliseconds < 0 else milliseconds / 1000


def _number(name: str, default: int) -> int:
    """Return a query parameter. -1 stands for the default, as in kafka-rest."""
    text = request.args.get(name, "").strip()
    if text in {"", "-1"}:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidValue(f"{name} must be a whole number, got {text[:100]!r}.", field=name)
    return int(text)
