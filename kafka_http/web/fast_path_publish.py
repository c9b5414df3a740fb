"""The fast path: publishes of both dialects that do not occupy a thread while they wait for Kafka.

The worker's main loop starts a publish here and sends the response when Kafka has answered. What the head of a request
says is prepared once for all requests with the same head. Requests that are invalid, that would block or that need a
feature of the views are left to the views, which give the same responses.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from werkzeug.datastructures import MultiDict

from kafka_http.config import Config
from kafka_http.errors import KafkaHttpError, RateLimited, WouldBlock
from kafka_http.logs import request_id
from kafka_http.schemas.formats import Formats
from kafka_http.security.access import UNRESTRICTED, Access
from kafka_http.security.check_point import CheckPoint
from kafka_http.security.principal import ConnectedClient, Credentials
from kafka_http.security.rate_limits import ConnectionCounts
from kafka_http.security.trusted_networks import TrustedNetworks
from kafka_http.web.browser_guard import BrowserGuard
from kafka_http.web.cors import CrossOriginSharing
from kafka_http.web.idempotent_publish import IdempotentPublish, KeyedPublish
from kafka_http.web.messages.message_publish import MessagesPublish
from kafka_http.web.publish_view import PendingPublishResponse, PublishDialect, PublishView
from kafka_http.web.request_head import KEY_HEADER, RequestHead
from kafka_http.web.responses import RenderedResponse, internal_error, new_request_id, valid_request_id
from kafka_http.web.rest_v2.produce_view import V2Produce
from kafka_http.web.topic_hints import TopicHints

log = logging.getLogger(__name__)

_ROUTE = re.compile(
    r"/(?:messages/(?P<topic>[A-Za-z0-9._-]+)|topics/(?P<v2>[A-Za-z0-9._-]+)(?:/partitions/(?P<partition>[0-9]{1,9}))?)"
)
_CREDENTIALS = frozenset(("authorization", "proxy-authorization", "x-api-key"))
"""Headers that a remembered head does not have."""
_OF_ONE_REQUEST = frozenset(("x-request-id", "traceparent", "tracestate", KEY_HEADER)) | _CREDENTIALS
"""Headers of a head that is not remembered: they differ from request to request, or are secret."""
_MIN_TIMEOUT_WITH_KEY = 1.0
"""Seconds. A publish with a key and a shorter timeout goes to a thread: here the timeout includes claiming the key."""
_NO_QUERY: MultiDict[str, str] = MultiDict()


class IdentifiedResponse(NamedTuple):
    """A response with its request's id: the server's `FastPathResponse`. `headers` are those of this response only."""

    status: int
    headers: Mapping[str, str]
    content_type: str
    request_id: str
    body: bytes
    principal: str
    route: str
    topic: str
    records: int
    on_sent: Callable[[bool], None] | None = None


class FastPathPublishes:
    """Prepares publishes. An application has one, and its main loop calls it."""

    def __init__(
        self,
        publish_view: PublishView,
        idempotent_publish: IdempotentPublish,
        formats: Formats,
        config: Config,
        *,
        guard: BrowserGuard,
        cors: CrossOriginSharing,
        check_point: CheckPoint,
        trusted: TrustedNetworks,
        hints: TopicHints,
    ) -> None:
        self._publish_view = publish_view
        self._idempotent_publish = idempotent_publish
        self._formats = formats
        self._root = urlsplit(config.base_url).path.rstrip("/")
        self._guard = guard
        self._cors = cors
        self._check_point = check_point
        self._trusted = trusted
        self._hints = hints
        self._timeout = config.timeout
        self._max_body_bytes = config.max_body_bytes

    @property
    def decides_by_client(self) -> bool:
        """Whether authentication or limits are on."""
        return self._check_point.has_decisions

    def prepare(
        self, method: str, target: str, headers: Mapping[str, str], client: ConnectedClient
    ) -> "PreparedPublish | None":
        """Return what starts publishes with this head, or None if a view must respond. Does not block.

        Header names are in lower case, each once.
        """
        path, _, query = target.partition("?")
        try:
            args = MultiDict(parse_qsl(query, keep_blank_values=True, errors="strict")) if query else _NO_QUERY
            grant = self._grant(path, headers, client)
            if self._check_point.has_decisions:
                headers = {name: value for name, value in headers.items() if name not in _CREDENTIALS}
            head = RequestHead(method, args, headers, self._root, owner=grant.access.owner)
            dialect = self._parse(path, head, grant.access)
        except Exception:  # the view will raise it again and respond
            return None
        if dialect is None or dialect.timeout != self._timeout:
            return None
        if dialect.respond_async is not None and "x-forwarded-prefix" in headers:  # the Location header contains it
            return None
        start: StartPublish = partial(self._publish_view.start, dialect, blocking=False)
        if KEY_HEADER in headers:
            if dialect.timeout < _MIN_TIMEOUT_WITH_KEY or not self._idempotent_publish.is_ready:
                return None
            start = partial(self._idempotent_publish.start, dialect, head, path, query.encode())
        return PreparedPublish(start, dialect, headers, self._max_body_bytes, grant)

    def _grant(self, path: str, headers: Mapping[str, str], client: ConnectedClient) -> "Grant":
        """Return the check point's decision. Raises the refusal, `WouldBlock`."""
        check_point, generation = self._check_point, self._check_point.generation
        response_headers = self._cors.headers(headers.get("origin"))
        if not check_point.has_decisions:
            return Grant(check_point, generation, UNRESTRICTED, response_headers)
        address = self._trusted.client_address(client.address, headers)
        credentials = Credentials(headers, client.address, address, None, client.certificate)
        access = check_point.authenticate(credentials, blocking=False)
        if (route := _ROUTE.fullmatch(path)) is not None:
            access.require("publish", route["topic"] or route["v2"])
        counts_connections = access.limits.has_connections and not self._trusted.is_forwarded(client.address, headers)
        return Grant(check_point, generation, access, response_headers, counts_connections=counts_connections)

    def _parse(self, path: str, head: RequestHead, access: Access) -> PublishDialect | None:
        route = _ROUTE.fullmatch(path)
        if route is None or head.method == "DELETE" or not self._guard.allows(head.headers):
            return None
        if (topic := route["topic"]) is not None:
            if head.is_streaming_upload:
                return None
            hint = self._hints.of_head(head.headers, access)
            return MessagesPublish(head, topic, self._formats, self._timeout, hint)
        if head.method != "POST":
            return None
        partition = route["partition"]
        number = None if partition is None else int(partition)
        return V2Produce(head, route["v2"], number, self._formats, self._timeout)


class Grant:
    """The check point's decision about a head, for requests of one client. The main loop uses it."""

    __slots__ = ("_check_point", "_expires", "_generation", "access", "counts_connections", "response_headers")

    def __init__(
        self,
        check_point: CheckPoint,
        generation: int,
        access: Access,
        response_headers: Mapping[str, str],
        *,
        counts_connections: bool = False,
    ) -> None:
        """`generation` is that of the check point before it decided."""
        self._check_point = check_point
        self._generation = generation
        self._expires = access.principal.expires
        self.access = access
        self.response_headers = response_headers
        """Headers that the origins in the settings add to each response."""
        self.counts_connections = counts_connections
        """Whether the connections of the client are limited."""

    @property
    def is_current(self) -> bool:
        return self._generation == self._check_point.generation and self._expires > time.time()


class PreparedPublish:
    """The head of a publish, for any number of bodies. The main loop calls it."""

    def __init__(
        self,
        start: "StartPublish",
        dialect: PublishDialect,
        headers: Mapping[str, str],
        max_body_bytes: int,
        grant: Grant,
    ) -> None:
        """`start` starts a publish with a body, like `PublishView.start`."""
        self.is_reusable = _OF_ONE_REQUEST.isdisjoint(headers)
        """Whether the head has nothing that only one request has, and no credentials."""
        self._grant = grant
        self._limits = grant.access.limits
        self._start = start
        self._dialect = dialect
        self._request_id = valid_request_id(headers.get("x-request-id"))
        self._max_body_bytes = max_body_bytes

    @property
    def is_current(self) -> bool:
        """Whether the client may still publish with this head."""
        return self._grant.is_current

    def has_room(self, size: int, connection: ConnectionCounts | None = None) -> bool:
        """Whether the limits of the client allow a body of this size now. Counts nothing but the connection."""
        return self._limits.has_room(size) and (not self._grant.counts_connections or self._admits(connection))

    def _admits(self, connection: ConnectionCounts | None) -> bool:
        """Count a connection for the client. Return False if it has too many."""
        if connection is not None and connection.last is not self._limits:
            try:
                connection.add(self._limits)
            except RateLimited:
                return False
        return True

    def start(self, body: bytes, connection: ConnectionCounts | None = None) -> "FastPathPublish | None":
        """Start a publish, which the loop's `end_round` sends. Does not block.

        Returns None, with nothing done, if a view must respond.
        """
        if len(body) > self._max_body_bytes:
            return None
        grant = self._grant
        if grant.counts_connections and not self._admits(connection):
            return None
        sent_id, headers = self._request_id or new_request_id(), grant.response_headers
        principal = grant.access.principal.name
        try:
            if limits := self._limits.take(len(body)):
                headers = {**headers, **limits} if headers else limits
        except RateLimited as error:
            return FastPathPublish(self._dialect, _FailedStart(error), sent_id, headers, principal)
        pending = self._start_or_fail(body, sent_id)
        if pending is None:
            self._limits.give_back(len(body))
            return None
        return FastPathPublish(self._dialect, pending, sent_id, headers, principal)

    def _start_or_fail(self, body: bytes, sent_id: str) -> "_Pending | None":
        """Start a publish. Return None, with nothing done, if a view must respond."""
        token = request_id.set(sent_id)  # for log lines
        try:
            return self._start(body)
        except (KafkaHttpError, WouldBlock):  # the view will raise it again and respond
            return None
        except Exception as error:  # Kafka may have some records, so no view may repeat it
            return _FailedStart(error)
        finally:
            request_id.reset(token)


class FastPathPublish:
    """A publish that was handed to Kafka. `finish` must be called once."""

    __slots__ = ("_dialect", "_headers", "_pending", "_principal", "_request_id", "add_done_callback", "timeout")

    def __init__(
        self, dialect: PublishDialect, pending: "_Pending", sent_id: str, headers: Mapping[str, str], principal: str
    ) -> None:
        """`headers` are those that the response has in addition to the dialect's."""
        self.timeout = dialect.timeout
        """Seconds after which the response must be sent at the latest."""
        self.add_done_callback = pending.add_done_callback
        self._dialect = dialect
        self._pending = pending
        self._request_id = sent_id
        self._headers = headers
        self._principal = principal

    def finish(self) -> IdentifiedResponse:
        """Return the response with the results that are known now. Does not block. Raises nothing."""
        try:
            response = self._pending.result(0)
        except Exception as error:
            response = self._error_response(error)
        finally:
            self._pending.release()
        headers = {**response.headers, **self._headers} if response.headers else self._headers
        dialect = self._dialect
        return IdentifiedResponse(
            response.status,
            headers,
            response.content_type,
            self._request_id,
            response.body,
            self._principal,
            dialect.route,
            dialect.topic,
            response.records,
        )

    def _error_response(self, error: Exception) -> RenderedResponse:
        if isinstance(error, KafkaHttpError):
            return self._dialect.error_response(error)
        token = request_id.set(self._request_id)
        try:
            log.error("Unexpected error: publish to %s", self._dialect.topic, exc_info=error)
            return self._dialect.error_response(internal_error())
        finally:
            request_id.reset(token)


class _FailedStart:
    """The `PendingPublishResponse` of a publish that failed as it started."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        callback()

    def result(self, timeout: float | None = None) -> RenderedResponse:
        raise self._error

    def release(self) -> None:
        """Release nothing."""


_Pending = PendingPublishResponse | KeyedPublish | _FailedStart
StartPublish = Callable[[bytes], PendingPublishResponse | KeyedPublish]
