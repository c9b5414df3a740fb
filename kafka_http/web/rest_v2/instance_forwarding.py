"""Calls for an instance that another node has: passed on to it, one hop at most."""

import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import Lock
from urllib.parse import SplitResult, quote, urlsplit

from flask import Response, request

from kafka_http.consumers.instance_locator import InstanceLocator, RemoteNode
from kafka_http.errors import Unavailable
from kafka_http.logs import request_id
from kafka_http.web.request_bodies import RequestBodies
from kafka_http.web.rest_v2.consumer_bodies import MAX_TIMEOUT
from kafka_http.web.wait_limiter import WaitLimiter

NODE_HEADER = "Kafka-Http-Node"
"""Has the secret that the nodes share; believed with that alone."""

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
"""How long the other node may take beyond the wait that a call asks for."""

_PROBE_SECONDS = 1.0
"""How often a node that hangs is asked whether it answers again, and how long it may take for that."""

_PROXY_HEADERS = ("Forwarded", *(f"X-Forwarded-{each}" for each in ("Proto", "Host", "Port", "Prefix")))
_THERE = ("Accept", "Content-Type", *_PROXY_HEADERS)
_BACK = ("Content-Type", "Retry-After", "Allow")


class Forwarding:
    """Goes before the views of a blueprint whose paths have a group and the name of an instance."""

    def __init__(self, nodes: InstanceLocator, bodies: RequestBodies, wait_limiter: WaitLimiter) -> None:
        self._nodes = nodes
        self._bodies = bodies
        self._wait_limiter = wait_limiter
        self._hung = _HungNodes()

    def pass_on(self) -> Response | None:
        """The other node's answer; None where the view is to answer. Raises `Unavailable`."""
        of = request.view_args or {}
        if "name" not in of:
            return None
        elsewhere = self._nodes.locate(of["group"], of["name"], request.headers.get(NODE_HEADER, ""))
        if elsewhere is None:
            return None
        may_wait = str(request.endpoint).endswith(".records")
        self._hung.check(elsewhere.url)
        wait = _wait(elsewhere.timeout)
        with self._bodies.read(request) as body, self._wait_limiter.acquire(wait if may_wait else 0) as granted:
            query = request.query_string.decode("latin-1")
            if may_wait and not granted:
                query = f"timeout=0&{query}"  # of two that are the same the first counts
            try:
                return _ask(elsewhere, query, body, wait + _ANSWER_SECONDS)
            except TimeoutError:
                self._hung.add(elsewhere.url)
                raise Unavailable("The node that has this consumer instance does not respond, try again.") from None
            except (OSError, HTTPException):
                raise Unavailable("The node that has this consumer instance cannot be reached, try again.") from None


class _HungNodes:
    """Nodes that did not answer in time. Calls for their instances fail at once until one of them answers again: of
    these calls one a second asks for that."""

    def __init__(self) -> None:
        self._probe_at: dict[str, float] = {}
        self._lock = Lock()

    def add(self, url: str) -> None:
        self._probe_at[url] = time.monotonic() + _PROBE_SECONDS

    def check(self, url: str) -> None:
        """Raise `Unavailable` where the node at this URL hangs."""
        if url not in self._probe_at:
            return
        now = time.monotonic()
        with self._lock:
            probes = now >= self._probe_at.get(url, 0.0)
            if probes:
                self._probe_at[url] = now + 2 * _PROBE_SECONDS
        if not (probes and _is_healthy(url)):
            raise Unavailable("The node that has this consumer instance does not respond, try again.")
        self._probe_at.pop(url, None)


def _wait(timeout: float) -> float:
    """How many seconds a call may wait at the other node; `timeout` is the instance's."""
    asked = request.args.get("timeout", "")
    is_number = asked.isascii() and asked.isdigit() and len(asked) < 10
    return min(int(asked) / 1000 if is_number else timeout, MAX_TIMEOUT)


def _connection(url: SplitResult, seconds: float) -> HTTPConnection:
    return (HTTPSConnection if url.scheme == "https" else HTTPConnection)(url.netloc, timeout=seconds)


def _is_healthy(url: str) -> bool:
    parts = urlsplit(url)
    try:
        with closing(_connection(parts, _PROBE_SECONDS)) as connection:
            connection.request("GET", f"{parts.path.rstrip('/')}/health")
            return bool(connection.getresponse().status)
    except (OSError, HTTPException):
        return False


def _ask(node: RemoteNode, query: str, body: bytes, seconds: float) -> Response:
    url = urlsplit(node.url)
    with closing(_connection(url, _CONNECT_SECONDS)) as connection:
        connection.connect()
        connection.sock.settimeout(seconds)
        path = f"{url.path.rstrip('/')}{quote(request.path, safe='/%')}?{query}".rstrip("?")
        headers = {name: request.headers[name] for name in _THERE if name in request.headers}
        headers |= {"X-Request-Id": request_id.get(), NODE_HEADER: node.secret}
        connection.request(request.method, path, body or None, headers)
        answer = connection.getresponse()
        back = {name: value for name in _BACK if (value := answer.headers.get(name)) is not None}
        return Response(answer.read(), answer.status, back)
