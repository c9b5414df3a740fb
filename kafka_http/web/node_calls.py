"""Calls of other nodes, on behalf of the sender of the current request, over at most one hop."""

import ssl
import time
from email.message import Message
from threading import Lock
from typing import NamedTuple

from flask import request

from kafka_http import http_client
from kafka_http.consumers.instance_service import RemoteNode
from kafka_http.errors import Unavailable
from kafka_http.http_client import HttpRequestFailed, HttpTarget, HttpTimeout
from kafka_http.logs import request_id
from kafka_http.security.forwarded_calls import forwarded_headers
from kafka_http.security.server_tls import ServerTls
from kafka_http.web.access_check import request_access

_CONNECT_SECONDS = 2.0
_BODY_SECONDS = 60.0
_MAX_RESPONSE_BYTES = 1 << 30
_PROBE_SECONDS = 1.0
"""Interval and timeout of the probes of a node that does not respond."""

_PROXY_HEADERS = ("Forwarded", *(f"X-Forwarded-{each}" for each in ("Proto", "Host", "Port", "Prefix")))
_REQUEST_HEADERS = ("Accept", "Content-Type", *_PROXY_HEADERS)


class NodeResponse(NamedTuple):
    """The response of another node."""

    status: int
    headers: Message
    body: bytes


class NodeCalls:
    """Sends requests to other nodes, with the principal and some headers of the current request. Any thread may call.

    Requests to a node that did not respond in time fail at once, except that one request per second probes whether it
    responds.
    """

    def __init__(self, holds: str, tls: ServerTls | None) -> None:
        """`holds` says in errors what the other node holds. `tls` is None for the certificates of the system."""
        self._holder = f"The node that holds {holds}"
        self._tls = tls
        self._next_probes: dict[str, float] = {}
        self._lock = Lock()

    def check(self, node: RemoteNode) -> None:
        """Raise `Unavailable` if a node is known not to respond."""
        if node.url not in self._next_probes:
            return
        now = time.monotonic()
        with self._lock:
            is_probe = now >= self._next_probes.get(node.url, 0.0)
            if is_probe:
                self._next_probes[node.url] = now + 2 * _PROBE_SECONDS
        if not (is_probe and _is_healthy(node.url, self._context)):
            raise self._not_responding()
        self._next_probes.pop(node.url, None)

    def send(self, node: RemoteNode, method: str, target: str, body: bytes, seconds: float) -> NodeResponse:
        """Send a request to a node, and return its response. `target` is the path with the query.

        The node has `seconds` for its response. Raises `Unavailable`.
        """
        try:
            return self._send(node, method, target, body, seconds)
        except HttpTimeout:
            self._next_probes[node.url] = time.monotonic() + _PROBE_SECONDS
            raise self._not_responding() from None
        except HttpRequestFailed:
            raise Unavailable(f"{self._holder} cannot be reached. Retry.") from None

    def _send(self, node: RemoteNode, method: str, target: str, body: bytes, seconds: float) -> NodeResponse:
        headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
        headers |= {"X-Request-Id": request_id.get(), **forwarded_headers(request_access(), node.secret)}
        with http_client.send(
            method,
            HttpTarget.from_url(f"{node.url.rstrip('/')}{target}"),
            headers,
            body or None,
            timeout=seconds,
            connect_timeout=_CONNECT_SECONDS,
            max_bytes=_MAX_RESPONSE_BYTES,
            tls=self._context,
        ) as response:
            return NodeResponse(response.status, response.headers, response.read(_BODY_SECONDS))

    @property
    def _context(self) -> ssl.SSLContext | None:
        return None if self._tls is None else self._tls.context

    def _not_responding(self) -> Unavailable:
        return Unavailable(f"{self._holder} does not respond. Retry.")


def _is_healthy(url: str, tls: ssl.SSLContext | None) -> bool:
    try:
        target = HttpTarget.from_url(f"{url.rstrip('/')}/health")
        with http_client.send("GET", target, {}, timeout=_PROBE_SECONDS, max_bytes=1 << 16, tls=tls):
            return True
    except HttpRequestFailed:
        return False
