"""Forwards requests for a consumer instance to the node that has it, one hop at most."""

import time
from threading import Lock
from urllib.parse import quote

from flask import Response, request

from kafka_http import http_client
from kafka_http.consumers.instance_service import InstanceLocator, RemoteNode
from kafka_http.errors import Unavailable
from kafka_http.http_client import HttpRequestFailed, HttpTarget, HttpTimeout
from kafka_http.logs import request_id
from kafka_http.web.request_bodies import RequestBodies
from kafka_http.web.rest_v2.consumer_bodies import MAX_TIMEOUT
from kafka_http.web.wait_limiter import WaitLimiter

NODE_HEADER = "Kafka-Http-Node"
"""Holds the secret that the nodes share; without the secret the header has no effect."""

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
"""Time for the other node to answer, in addition to the wait that the request asks for."""

_BODY_SECONDS = 60.0
_MAX_RESPONSE_BYTES = 1 << 30
_PROBE_SECONDS = 1.0
"""Interval and timeout of the probes that find out whether a hung node answers again."""

_PROXY_HEADERS = ("Forwarded", *(f"X-Forwarded-{each}" for each in ("Proto", "Host", "Port", "Prefix")))
_REQUEST_HEADERS = ("Accept", "Content-Type", *_PROXY_HEADERS)
_RESPONSE_HEADERS = ("Content-Type", "Retry-After", "Allow")


class Forwarding:
    """Runs before the views of a blueprint whose paths have the group and the name of an instance."""

    def __init__(self, nodes: InstanceLocator, bodies: RequestBodies, waits: WaitLimiter) -> None:
        self._nodes = nodes
        self._bodies = bodies
        self._waits = waits
        self._hung = _HungNodes()

    def pass_on(self) -> Response | None:
        """Return the other node's response, or None if the instance is here. Raises `Unavailable`."""
        path_values = request.view_args or {}
        if "name" not in path_values:
            return None
        secret = request.headers.get(NODE_HEADER, "")
        node = self._nodes.locate(path_values["group"], path_values["name"], secret)
        if node is None:
            return None
        may_wait = str(request.endpoint).endswith(".records")
        self._hung.check(node.url)
        wait = _requested_wait(node.timeout)
        with self._bodies.read(request) as body, self._waits.place(wait if may_wait else 0) as granted:
            query = request.query_string.decode("latin-1")
            if may_wait and not granted:
                query = f"timeout=0&{query}"  # the first of two parameters of the same name counts
            try:
                return _forward(node, query, body, wait + _ANSWER_SECONDS)
            except HttpTimeout:
                self._hung.add(node.url)
                raise _not_responding() from None
            except HttpRequestFailed:
                raise Unavailable("The node that has this consumer instance cannot be reached. Try again.") from None


class _HungNodes:
    """Nodes that did not answer in time.

    Requests for their instances fail at once, except that one request per second probes whether the node answers again.
    """

    def __init__(self) -> None:
        self._probe_at: dict[str, float] = {}
        self._lock = Lock()

    def add(self, url: str) -> None:
        self._probe_at[url] = time.monotonic() + _PROBE_SECONDS

    def check(self, url: str) -> None:
        """Raise `Unavailable` if the node at this URL hangs."""
        if url not in self._probe_at:
            return
        now = time.monotonic()
        with self._lock:
            is_due = now >= self._probe_at.get(url, 0.0)
            if is_due:
                self._probe_at[url] = now + 2 * _PROBE_SECONDS
        if not (is_due and _is_healthy(url)):
            raise _not_responding()
        self._probe_at.pop(url, None)


def _not_responding() -> Unavailable:
    return Unavailable("The node that has this consumer instance does not respond. Try again.")


def _requested_wait(timeout: float) -> float:
    """The seconds that the request may wait at the other node; `timeout` is the instance's own."""
    requested = request.args.get("timeout", "")
    is_number = requested.isascii() and requested.isdigit() and len(requested) < 10
    return min(int(requested) / 1000 if is_number else timeout, MAX_TIMEOUT)


def _is_healthy(url: str) -> bool:
    try:
        target = HttpTarget.from_url(f"{url.rstrip('/')}/health")
        with http_client.send("GET", target, {}, timeout=_PROBE_SECONDS, max_bytes=1 << 16):
            return True
    except HttpRequestFailed:
        return False


def _forward(node: RemoteNode, query: str, body: bytes, seconds: float) -> Response:
    url = f"{node.url.rstrip('/')}{quote(request.path, safe='/%')}?{query}".rstrip("?")
    headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
    headers |= {"X-Request-Id": request_id.get(), NODE_HEADER: node.secret}
    with http_client.send(
        request.method,
        HttpTarget.from_url(url),
        headers,
        body or None,
        timeout=seconds,
        connect_timeout=_CONNECT_SECONDS,
        max_bytes=_MAX_RESPONSE_BYTES,
    ) as response:
        kept = {name: value for name in _RESPONSE_HEADERS if (value := response.headers.get(name)) is not None}
        return Response(response.read(_BODY_SECONDS), response.status, kept)
