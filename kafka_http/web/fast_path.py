"""The fast path: requests that do not occupy a thread while they wait for Kafka or for the node's daemon.

The worker's main loop starts a call here and sends the response when the result is there. What the head of a request
says is prepared once for all requests with the same head. Requests that are invalid, that would block or that need a
feature of the views are left to the views, which give the same responses.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl, urlsplit

from werkzeug.datastructures import MultiDict

from kafka_http.config import Config
from kafka_http.errors import KafkaHttpError, RateLimited, WouldBlock
from kafka_http.logs import request_id
from kafka_http.security.access import UNRESTRICTED, Access
from kafka_http.security.check_point import CheckPoint
from kafka_http.security.principal import ConnectedClient, Credentials
from kafka_http.security.rate_limits import ConnectionCounts
from kafka_http.security.trusted_networks import TrustedNetworks
from kafka_http.web.browser_guard import BrowserGuard
from kafka_http.web.cors import CrossOriginSharing
from kafka_http.web.request_head import KEY_HEADER, RequestHead
from kafka_http.web.responses import RenderedResponse, internal_error, new_request_id, valid_request_id

log = logging.getLogger(__name__)

_CREDENTIALS = frozenset(("authorization", "proxy-authorization", "x-api-key"))
"""Headers that a remembered head does not have."""
_OF_ONE_REQUEST = frozenset(("x-request-id", "traceparent", "tracestate", KEY_HEADER)) | _CREDENTIALS
"""Headers of a head that is not remembered: they differ from request to request, or are secret."""
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


class CallHead(Protocol):
    """What a head asks for: in a dialect's parsing and rendering."""

    topic: str
    timeout: float
    """Seconds after which the response must be sent at the latest."""

    @property
    def route(self) -> str:
        """The URL rule, for `RequestFacts`."""

    def error_response(self, error: KafkaHttpError) -> RenderedResponse:
        """Return the response for an error of the whole request."""


class PendingCallResponse(Protocol):
    """The response to a call that was started: a future. The main loop uses it."""

    @property
    def add_done_callback(self) -> Callable[[Callable[[], None]], None]:
        """Takes what to call once when the response is known, or now if it is. Any thread may make the call."""

    def result(self, timeout: float | None = None) -> RenderedResponse:
        """Return the response with what is known now, for `timeout=0`. Raises the error of the call."""

    @property
    def release(self) -> Callable[[], object]:
        """Releases what the call holds. It is called once, after `result`."""

    @property
    def on_sent(self) -> Callable[[bool], None] | None:
        """After `result`: what to call once with whether the response was sent."""


StartCall = Callable[[bytes], PendingCallResponse]
"""Starts a call with a body, without blocking. Raises `KafkaHttpError`, `WouldBlock`: a view must respond."""


class FastPathRoute(Protocol):
    """The calls of one kind that the fast path can make."""

    path: re.Pattern[str]
    """Matches the paths, whole."""

    def require(self, path: re.Match[str], access: Access, args: MultiDict[str, str]) -> None:
        """Check the rights. Raises the refusal."""

    def prepare(self, path: re.Match[str], head: RequestHead, query: str, access: Access) -> "PreparedStart | None":
        """Check a head. Return None, or raise anything, if a view must respond. Does not block."""


class PreparedStart(NamedTuple):
    """A checked head, and what starts its calls. `is_reusable`: other requests with this head may use it."""

    head: CallHead
    start: StartCall
    is_reusable: bool = True


class FastPathRequests:
    """Prepares requests for the fast path. An application has one, and its main loop calls it."""

    def __init__(
        self,
        routes: Sequence[FastPathRoute],
        config: Config,
        *,
        guard: BrowserGuard,
        cors: CrossOriginSharing,
        check_point: CheckPoint,
        trusted: TrustedNetworks,
    ) -> None:
        self.routes = routes
        self._root = urlsplit(config.base_url).path.rstrip("/")
        self._guard = guard
        self._cors = cors
        self._check_point = check_point
        self._trusted = trusted
        self._max_body_bytes = config.max_body_bytes

    @property
    def decides_by_client(self) -> bool:
        """Whether authentication or limits are on."""
        return self._check_point.has_decisions

    def prepare(
        self, method: str, target: str, headers: Mapping[str, str], client: ConnectedClient
    ) -> "PreparedCall | None":
        """Return what starts calls with this head, or None if a view must respond. Does not block.

        Header names are in lower case, each once.
        """
        path, _, query = target.partition("?")
        route, match = next(((each, found) for each in self.routes if (found := each.path.fullmatch(path))), _NO_ROUTE)
        if route is None or match is None:
            return None
        try:
            args = MultiDict(parse_qsl(query, keep_blank_values=True, errors="strict")) if query else _NO_QUERY
            grant = self._grant(headers, client)
            route.require(match, grant.access, args)
            if self._check_point.has_decisions:
                headers = {name: value for name, value in headers.items() if name not in _CREDENTIALS}
            if not self._guard.allows(headers):
                return None
            head = RequestHead(method, args, headers, self._root, owner=grant.access.owner)
            prepared = route.prepare(match, head, query, grant.access)
        except Exception:  # the view will raise it again and respond
            return None
        return None if prepared is None else PreparedCall(prepared, headers, self._max_body_bytes, grant)

    def _grant(self, headers: Mapping[str, str], client: ConnectedClient) -> "Grant":
        """Return the check point's decision. Raises the refusal, `WouldBlock`."""
        check_point, generation = self._check_point, self._check_point.generation
        response_headers = self._cors.headers(headers.get("origin"))
        if not check_point.has_decisions:
            return Grant(check_point, generation, UNRESTRICTED, response_headers)
        address = self._trusted.client_address(client.address, headers)
        credentials = Credentials(headers, client.address, address, None, client.certificate)
        access = check_point.authenticate(credentials, blocking=False)
        counts_connections = access.limits.has_connections and not self._trusted.is_forwarded(client.address, headers)
        return Grant(check_point, generation, access, response_headers, counts_connections=counts_connections)


_NO_ROUTE: tuple[FastPathRoute | None, re.Match[str] | None] = (None, None)


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


class PreparedCall:
    """The head of a call, for any number of bodies. The main loop calls it."""

    def __init__(self, prepared: PreparedStart, headers: Mapping[str, str], max_body_bytes: int, grant: Grant) -> None:
        self.is_reusable = prepared.is_reusable and _OF_ONE_REQUEST.isdisjoint(headers)
        """Whether the head has nothing that only one request has, and no credentials."""
        self._grant = grant
        self._limits = grant.access.limits
        self._start = prepared.start
        self._head = prepared.head
        self._request_id = valid_request_id(headers.get("x-request-id"))
        self._max_body_bytes = max_body_bytes

    @property
    def is_current(self) -> bool:
        """Whether the client may still make calls with this head."""
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

    def start(self, body: bytes, connection: ConnectionCounts | None = None) -> "StartedCall | None":
        """Start a call, which the loop's `end_round` sends. Does not block.

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
            return StartedCall(self._head, _FailedStart(error), sent_id, headers, principal)
        pending = self._start_or_fail(body, sent_id)
        if pending is None:
            self._limits.give_back(len(body))
            return None
        return StartedCall(self._head, pending, sent_id, headers, principal)

    def _start_or_fail(self, body: bytes, sent_id: str) -> PendingCallResponse | None:
        """Start a call. Return None, with nothing done, if a view must respond."""
        token = request_id.set(sent_id)  # for log lines
        try:
            return self._start(body)
        except (KafkaHttpError, WouldBlock):  # the view will raise it again and respond
            return None
        except Exception as error:  # some of it may be done, so no view may repeat it
            return _FailedStart(error)
        finally:
            request_id.reset(token)


class StartedCall:
    """A call that was started. `finish` must be called once."""

    __slots__ = ("_head", "_headers", "_pending", "_principal", "_request_id", "add_done_callback", "timeout")

    def __init__(
        self, head: CallHead, pending: PendingCallResponse, sent_id: str, headers: Mapping[str, str], principal: str
    ) -> None:
        """`headers` are those that the response has in addition to those of the result."""
        self.timeout = head.timeout
        """Seconds after which the response must be sent at the latest."""
        self.add_done_callback = pending.add_done_callback
        self._head = head
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
        head = self._head
        return IdentifiedResponse(
            response.status,
            headers,
            response.content_type,
            self._request_id,
            response.body,
            self._principal,
            head.route,
            head.topic,
            response.records,
            self._pending.on_sent,
        )

    def _error_response(self, error: Exception) -> RenderedResponse:
        if isinstance(error, KafkaHttpError):
            return self._head.error_response(error)
        token = request_id.set(self._request_id)
        try:
            log.error("Unexpected error: %s, topic %s", self._head.route, self._head.topic, exc_info=error)
            return self._head.error_response(internal_error())
        finally:
            request_id.reset(token)


class _FailedStart:
    """The response to a call that failed as it started."""

    on_sent = None

    def __init__(self, error: Exception) -> None:
        self._error = error

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        callback()

    def result(self, timeout: float | None = None) -> RenderedResponse:
        raise self._error

    def release(self) -> None:
        """Release nothing."""
