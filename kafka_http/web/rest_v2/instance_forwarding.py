"""Forwards requests for a consumer instance to the node that holds it, over at most one hop."""

import ssl
import time
from threading import Lock
from urllib.parse import quote

from flask import Response, request

from kafka_http import http_client
from kafka_http.consumers.instance_service import InstanceLocator, RemoteNode
from kafka_http.errors import Unavailable
from kafka_http.http_client import HttpRequestFailed, HttpTarget, HttpTimeout
from kafka_http.logs import request_id
from kafka_http.security.forwarded_calls import NODE_HEADER, forwarded_headers
from kafka_http.security.server_tls import ServerTls
from kafka_http.web.access_check import request_access
from kafka_http.web.request_bodies import RequestBodies
from kafka_http.web.rest_v2.consumer_bodies import MAX_TIMEOUT
from kafka_http.web.wait_limiter import WaitLimiter

_CONNECT_SECONDS = 2.0
_RESPONSE_SECONDS = 5.0
"""Time that the other node has for its response, in addition to the wait that the request asks for."""
_BODY_SECONDS = 60.0
_MAX_RESPONSE_BYTES = 1 << 30
_PROBE_SECONDS = 1.0
"""Interval and timeout of the probes of a node that does not respond."""

_PROXY_HEADERS = ("Forwarded", *(f"X-Forwarded-{each}" for each in ("Proto", "Host", "Port", "Prefix")))
_REQUEST_HEADERS = ("Accept", "Content-Type", *_PROXY_HEADERS)
_RESPONSE_HEADERS = ("Content-Type", "Retry-After", "Allow")


class InstanceForwarding:
    """Runs before the views of a blueprint whose paths have `group` and `name`. Any thread may call it."""

    def __init__(
        self, locator: InstanceLocator, bodies: RequestBodies, wait_limiter: WaitLimiter, tls: ServerTls | None
    ) -> None:
        """`tls` is that of calls to other nodes; None: the certificates of the system."""
        self._locator = locator
        self._bodies = bodies
        self._wait_limiter = wait_limiter
        self._tls = tls
        self._unresponsive = _UnresponsiveNodes()

    def forward(self) -> Response | None:
        """Return the other node's response, or None if this node holds the instance. Raises `Unavailable`."""
        path = request.view_args or {}
        if "name" not in path:
            return None
        node = self._locator.locate(path["group"], path["name"], request.headers.get(NODE_HEADER, ""))
        if node is None:
            return None
        is_read = str(request.endpoint).endswith(".records")
        tls = None if self._tls is None else self._tls.context
        self._unresponsive.check(node.url, tls)
        wait = _wait_seconds(node.timeout)
        with self._bodies.read(request) as body, self._wait_limiter.acquire(wait if is_read else 0) as may_wait:
            query = request.query_string.decode("latin-1")
            if is_read and not may_wait:
                query = f"timeout=0&{query}"  # the first of two timeouts counts
            try:
                return _send(node, query, body, wait + _RESPONSE_SECONDS, tls)
            except HttpTimeout:
                self._unresponsive.add(node.url)
                raise _not_responding() from None
            except HttpRequestFailed:
                raise Unavailable("The node that holds this consumer instance cannot be reached. Retry.") from None


class _UnresponsiveNodes:
    """Nodes that did not respond in time.

    Requests for their instances fail at once, except that one request per second probes whether the node responds.
    """

    def __init__(self) -> None:
        self._next_probes: dict[str, float] = {}
        self._lock = Lock()

    def add(self, url: str) -> None:
        self._next_probes[url] = time.monotonic() + _PROBE_SECONDS

    def check(self, url: str, tls: ssl.SSLContext | None) -> None:
        """Raise `Unavailable` if the node at this URL does not respond."""
        if url not in self._next_probes:
            return
        now = time.monotonic()
        with self._lock:
            is_probe = now >= self._next_probes.get(url, 0.0)
            if is_probe:
                self._next_probes[url] = now + 2 * _PROBE_SECONDS
        if not (is_probe and _is_healthy(url, tls)):
            raise _not_responding()
        self._next_probes.pop(url, None)


def _not_responding() -> Unavailable:
    return Unavailable("The node that holds this consumer instance does not respond. Retry.")


def _wait_seconds(default: float) -> float:
    """Return how long the request may wait at the other node. `default` is the instance's timeout."""
    text = request.args.get("timeout", "")
    is_number = text.isascii() and text.isdigit() and len(text) < 10
    return min(int(text) / 1000 if is_number else default, MAX_TIMEOUT)


def _is_healthy(url: str, tls: ssl.SSLContext | None) -> bool:
    try:
        target = HttpTarget.from_url(f"{url.rstrip('/')}/health")
        with http_client.send("GET", target, {}, timeout=_PROBE_SECONDS, max_bytes=1 << 16, tls=tls):
            return True
    except HttpRequestFailed:
        return False


def _send(node: RemoteNode, query: str, body: bytes, seconds: float, tls: ssl.SSLContext | None) -> Response:
    url = f"{node.url.rstrip('/')}{quote(request.path, safe='/%')}?{query}".rstrip("?")
    headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
    headers |= {"X-Request-Id": request_id.get(), **forwarded_headers(request_access(), node.secret)}
    with http_client.send(
        request.method,
        HttpTarget.from_url(url),
        headers,
        body or None,
        timeout=seconds,
        connect_timeout=_CONNECT_SECONDS,
        max_bytes=_MAX_RESPONSE_BYTES,
        tls=tls,
    ) as response:
        kept = {name: value for name in _RESPONSE_HEADERS if (value := response.headers.get(name)) is not None}
        return Response(response.read(_BODY_SECONDS), response.status, kept)
