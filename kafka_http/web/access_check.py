"""Asks the check point about each request of a view, and says which rights each route needs.

`ROUTES` is the whole table: a route that is not in it cannot be registered.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import Flask, Request, Response, g, request
from werkzeug.datastructures import EnvironHeaders, MultiDict
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Request as PlainRequest

from kafka_http.environ import (
    ADMISSION,
    CLIENT_CERTIFICATE,
    CONNECTION,
    PRINCIPAL,
    split_access_key,
    without_access_key,
)
from kafka_http.errors import CrossSiteRequest, Forbidden, KafkaHttpError, RateLimited, Unauthenticated, WouldBlock
from kafka_http.logs import word_text
from kafka_http.security.access import REFUSED, UNRESTRICTED, Access
from kafka_http.security.check_point import Admission, CheckPoint
from kafka_http.security.forwarded_calls import ForwardedCalls
from kafka_http.security.principal import ANONYMOUS, Credentials
from kafka_http.security.rate_limits import NO_HEADERS, ConnectionCounts
from kafka_http.security.trusted_networks import TrustedNetworks
from kafka_http.web.health import HEALTH, READY
from kafka_http.web.negotiation import is_streaming_upload
from kafka_http.web.responses import error_response
from kafka_http.web.trusted_proxies import TrustedProxies
from kafka_http.web.url_paths import NormalizedPaths

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_ACCESS_KEY = "kafka_http.access_key"
_MAY_BLOCK = "kafka_http.may_block"
_FORWARDED = ("v2_consumers.", "queue.")
"""Prefixes of the endpoints that nodes forward."""

_REFUSALS = (Unauthenticated, Forbidden, RateLimited, CrossSiteRequest)
"""What views raise, too."""

Arguments = Mapping[str, Any]
"""The names in a path."""
Query = MultiDict[str, str]
Needs = Callable[[Access, Arguments, Query], None]
"""Checks the rights that a route needs. Raises `Forbidden`, `TopicNotFound`."""


def _nothing(access: Access, names: Arguments, query: Query) -> None:
    """Need credentials only. The view shows what the principal may see."""


def _publish(access: Access, names: Arguments, query: Query) -> None:
    access.require("publish", names["topic"])


def _read(access: Access, names: Arguments, query: Query) -> None:
    access.require("read", names["topic"])
    if "ack" in query:  # moves the consumer's position
        access.require("consumer", names["consumer"])


def _describe(access: Access, names: Arguments, query: Query) -> None:
    access.require_describe(names["topic"])


def _progress(access: Access, names: Arguments, query: Query) -> None:
    access.require_describe(names["topic"])
    access.require("consumer", names["consumer"])


def _acknowledge(access: Access, names: Arguments, query: Query) -> None:
    access.require("read", names["topic"])
    access.require("consumer", names["consumer"])


def _acquire(access: Access, names: Arguments, query: Query) -> None:
    _acknowledge(access, names, query)
    for topic in query.getlist("dead"):
        access.require("publish", topic)


def _group(access: Access, names: Arguments, query: Query) -> None:
    access.require("consumer", names["group"])


def _instance(access: Access, names: Arguments, query: Query) -> None:
    """Need the right on the group, or `admin`. The view checks the owner, and the topics in the body."""
    if not access.may("admin"):
        access.require("consumer", names["group"])


def _admin(access: Access, names: Arguments, query: Query) -> None:
    """Need `admin`. Without authentication, the view checks the setting `topic_admin`."""
    if not access.is_unrestricted:
        access.require("admin")


def _groups(access: Access, names: Arguments, query: Query) -> None:
    """Need the right to describe the topic in the query. The view shows the groups that the principal may use."""
    for topic in query.getlist("topic"):
        access.require_describe(topic)


OPEN: frozenset[str] = frozenset(
    (
        *("root.root", "manual.index", "manual.page", "openapi.document", "openapi.viewer", "openapi.viewer_file"),
        *("health.health", "health.ready", "console.page", "console.file"),
    )
)
"""Endpoints that need no credentials."""

ROUTES: Mapping[str, Needs] = {
    "messages.topics": _nothing,
    "messages.describe": _describe,
    "messages.publish": _publish,
    "messages.progress": _progress,
    "messages.delete_offsets": _acknowledge,
    "messages.read": _read,
    "messages.seek": _acknowledge,
    "messages.ack": _acknowledge,
    "queue.acquire": _acquire,
    "queue.state": _acknowledge,
    "queue.delete": _acknowledge,
    "queue.settle": _acknowledge,
    "topics.create": _admin,
    "topics.change": _admin,
    "topics.delete": _admin,
    "groups.list": _groups,
    "groups.describe": _group,
    "groups.delete": _group,
    "access.show": _nothing,
    "metrics.show": _admin,
    "tasks.list": _nothing,
    "tasks.find": _nothing,
    "tasks.cancel": _nothing,
    "instances.list": _nothing,
    "v2_topics.brokers": _nothing,
    "v2_topics.topics": _nothing,
    "v2_topics.describe": _describe,
    "v2_topics.produce": _publish,
    "v2_topics.partitions": _describe,
    "v2_topics.partition": _describe,
    "v2_topics.offsets": _describe,
    "v2_consumers.create": _group,
    "v2_consumers.delete": _instance,
    "v2_consumers.delete_by_post": _instance,
    "v2_consumers.subscribe": _instance,
    "v2_consumers.subscription": _instance,
    "v2_consumers.unsubscribe": _instance,
    "v2_consumers.assign": _instance,
    "v2_consumers.assignments": _instance,
    "v2_consumers.seek": _instance,
    "v2_consumers.seek_to_beginning": _instance,
    "v2_consumers.seek_to_end": _instance,
    "v2_consumers.commit": _instance,
    "v2_consumers.committed": _instance,
    "v2_consumers.records": _instance,
}
"""What each endpoint needs."""


def check_all_routes_listed(app: Flask) -> None:
    """Raise `LookupError` for a route without an entry in `ROUTES` or `OPEN`."""
    endpoints = {rule.endpoint for rule in app.url_map.iter_rules()}
    if missing := endpoints - ROUTES.keys() - OPEN:
        raise LookupError(f"access_check.ROUTES lacks {', '.join(sorted(missing))}")


def request_access() -> Access:
    """Return what the sender of the current request may do."""
    access: Access = g.get("access", UNRESTRICTED)
    return access


class AccessCheck:
    """Admits requests for the views. Any thread may call."""

    def __init__(
        self, app: Flask, check_point: CheckPoint, trusted: TrustedNetworks, forwarded: ForwardedCalls | None = None
    ) -> None:
        """Add the check and the middleware of `app` that it needs. `forwarded` is None if there is only one node."""
        self._app = app
        self._check_point = check_point
        self._trusted = trusted
        self._forwarded = forwarded
        self._early = _with_middleware(self._admit_early, trusted)
        app.before_request(lambda: self.check(request))
        app.after_request(self.finish)
        for refusal in _REFUSALS:
            app.register_error_handler(refusal, self._log_refusal)
        app.wsgi_app = _with_middleware(app.wsgi_app, trusted)  # type: ignore[assignment, method-assign]

    def check(self, request: Request) -> None:
        """Admit a request before its view, for which `request_access` then works. Raises the refusal."""
        if not self._check_point.has_decisions or request.endpoint in OPEN:
            return
        try:
            g.access, g.limit_headers = self._admission(request)
        except WouldBlock:  # a 405 or a 400 follows, which needs no rights
            return
        except KafkaHttpError as refusal:
            g.access = REFUSED
            request.environ[PRINCIPAL] = word_text(refusal.principal)
            if not isinstance(refusal, _REFUSALS):  # such as a topic that the principal must not see
                self._log(refusal)
            raise
        request.environ[PRINCIPAL] = word_text(g.access.principal.name)

    def _admission(self, request: Request) -> Admission:
        admission: Admission | KafkaHttpError | None = request.environ.get(ADMISSION)
        if isinstance(admission, KafkaHttpError):
            raise admission
        if admission is None or not self._check_point.is_current(admission.access):  # revoked while the body arrived
            return self._admit(request, blocking=request.path not in (HEALTH, READY))  # these run in the main loop
        _check_needs(
            self._match(request), request.args, admission.access
        )  # the server may have seen another path before the body
        return admission

    def _log_refusal(self, error: KafkaHttpError) -> Response:
        """Log a refusal, and return its response."""
        self._log(error)
        return error_response(error)

    def _log(self, error: KafkaHttpError) -> None:
        principal = error.principal or request_access().principal.name
        address = request.environ.get("REMOTE_ADDR", "")
        what = f"{request.method} {word_text(request.path)}"  # a space in it must not begin another field
        self._check_point.refusals.log(error, what, principal, address)

    def admit_early(self, environ: "WSGIEnvironment", blocking: bool) -> Admission | KafkaHttpError | None:
        """Return the admission or the refusal of a request without its body, None if a thread must decide.

        `environ` is that of the server. Does not block without `blocking`.
        """
        if not self._check_point.has_decisions:
            return Admission(UNRESTRICTED, NO_HEADERS)
        environ[_MAY_BLOCK] = blocking
        list(self._early(environ, _start_nothing))
        admission: Admission | KafkaHttpError | None = environ[ADMISSION]
        return admission

    def _admit_early(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
        """Set the admission, as a WSGI application behind the same middleware as the views."""
        try:
            environ[ADMISSION] = self._admit(PlainRequest(environ), blocking=environ[_MAY_BLOCK])
        except KafkaHttpError as refusal:
            environ[ADMISSION] = refusal
        except WouldBlock:
            environ[ADMISSION] = None
        return ()

    def admit_connection(self, address: str) -> ConnectionCounts | None:
        """Count a connection for its address. None: there are too many.

        Those of trusted proxies may carry the requests of many clients, which only the requests tell.
        """
        connection, limits = ConnectionCounts(), self._check_point.limits
        if limits.has_connections and address not in self._trusted:
            try:
                connection.add(limits.of(ANONYMOUS, address))
            except RateLimited:
                return None
        return connection

    def finish(self, response: Response) -> Response:
        """Add the headers of the limits to a response, and the challenge to a 401."""
        response.headers.update(g.get("limit_headers", NO_HEADERS))
        if response.status_code == 401 and (challenge := self._check_point.challenge):
            response.headers["WWW-Authenticate"] = challenge
        return response

    def _admit(self, request: PlainRequest, *, blocking: bool) -> Admission:
        route = self._match(request)
        needs = partial(_check_needs, route, request.args)
        credentials = _credentials(request.environ)
        if self._forwarded is not None and route.endpoint.startswith(_FORWARDED):
            caller = self._forwarded.caller(credentials.headers, blocking=blocking)
            if caller is not None:
                return self._check_point.admit_forwarded(caller, needs)
        admission = self._check_point.admit(credentials, needs, _body_size(request, route), blocking=blocking)
        if admission.access.limits.has_connections:
            self._count_connection(request.environ.get(CONNECTION), credentials, admission)
        return admission

    def _count_connection(
        self, connection: ConnectionCounts | None, credentials: Credentials, admission: Admission
    ) -> None:
        """Count a connection for the client of a request. Raises `RateLimited`."""
        if connection is None or self._trusted.is_forwarded(credentials.peer, credentials.headers):
            return
        try:
            connection.add(admission.access.limits)
        except RateLimited as error:
            error.headers = {**error.headers, **admission.headers}
            error.principal = admission.access.principal.name
            raise

    def _match(self, request: PlainRequest) -> "_Route":
        if isinstance(request, Request):
            return _Route(request.endpoint or "", request.view_args or {})
        try:
            return _Route(*self._app.url_map.bind_to_environ(request.environ).match())
        except HTTPException:  # the view raises it again
            return _Route("", {})


class _Route(NamedTuple):
    """The endpoint of a request, empty if there is none, and the names in its path."""

    endpoint: str
    names: Arguments


def _check_needs(route: _Route, query: Query, access: Access) -> None:
    ROUTES.get(route.endpoint, _nothing)(access, route.names, query)


def _body_size(request: PlainRequest, route: _Route) -> int:
    """Return the size of the body for the limits. A streaming upload counts its bytes as they arrive."""
    headers = request.headers
    is_upload = route.endpoint == "messages.publish" and is_streaming_upload(
        request.method, headers.get("Accept"), headers.get("Content-Type")
    )
    return 0 if is_upload else request.content_length or 0


def _credentials(environ: "WSGIEnvironment") -> Credentials:
    headers = {name.lower(): value for name, value in EnvironHeaders(environ).items()}
    peer = environ.get("werkzeug.proxy_fix.orig", environ).get("REMOTE_ADDR", "")
    return Credentials(
        headers, peer, environ.get("REMOTE_ADDR", ""), environ.get(_ACCESS_KEY), environ.get(CLIENT_CERTIFICATE)
    )


def _with_middleware(app: "WSGIApplication", trusted: TrustedNetworks) -> "WSGIApplication":
    return TrustedProxies(AccessKeyRemoval(NormalizedPaths(app)), trusted)


def _start_nothing(*_: Any) -> Any:
    """Do nothing, as the `start_response` of an application without a response."""


class AccessKeyRemoval:
    """WSGI middleware that moves `access_key` from the query to the environ before anything reads or logs it."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
        query, key = split_access_key(environ.get("QUERY_STRING", ""))
        if key is not None:
            environ[_ACCESS_KEY], environ["QUERY_STRING"] = key, query
            for name in ("RAW_URI", "REQUEST_URI"):
                if name in environ:
                    environ[name] = without_access_key(environ[name])
        return self._app(environ, start_response)
