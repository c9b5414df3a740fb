"""Forwards requests for a consumer instance to the node that holds it, over at most one hop."""

from urllib.parse import quote

from flask import Response, request

from kafka_http.consumers.instance_service import InstanceLocator
from kafka_http.security.forwarded_calls import NODE_HEADER
from kafka_http.web.node_calls import NodeCalls
from kafka_http.web.request_bodies import RequestBodies
from kafka_http.web.rest_v2.consumer_bodies import MAX_TIMEOUT
from kafka_http.web.wait_limiter import WaitLimiter

_RESPONSE_SECONDS = 5.0
"""Time that the other node has for its response, in addition to the wait that the request asks for."""
_RESPONSE_HEADERS = ("Content-Type", "Retry-After", "Allow")


class InstanceForwarding:
    """Runs before the views of a blueprint whose paths have `group` and `name`. Any thread may call it."""

    def __init__(
        self, locator: InstanceLocator, bodies: RequestBodies, wait_limiter: WaitLimiter, calls: NodeCalls
    ) -> None:
        self._locator = locator
        self._bodies = bodies
        self._wait_limiter = wait_limiter
        self._calls = calls

    def forward(self) -> Response | None:
        """Return the other node's response, or None if this node holds the instance. Raises `Unavailable`."""
        path = request.view_args or {}
        if "name" not in path:
            return None
        node = self._locator.locate(path["group"], path["name"], request.headers.get(NODE_HEADER, ""))
        if node is None:
            return None
        is_read = str(request.endpoint).endswith(".records")
        self._calls.check(node)
        wait = _wait_seconds(node.timeout)
        with self._bodies.read(request) as body, self._wait_limiter.acquire(wait if is_read else 0) as may_wait:
            query = request.query_string.decode("latin-1")
            if is_read and not may_wait:
                query = f"timeout=0&{query}"  # the first of two timeouts counts
            target = f"{quote(request.path, safe='/%')}?{query}".rstrip("?")
            sent = self._calls.send(node, request.method, target, body, wait + _RESPONSE_SECONDS)
            kept = {name: value for name in _RESPONSE_HEADERS if (value := sent.headers.get(name)) is not None}
            return Response(sent.body, sent.status, kept)


def _wait_seconds(default: float) -> float:
    """Return how long the request may wait at the other node. `default` is the instance's timeout."""
    text = request.args.get("timeout", "")
    is_number = text.isascii() and text.isdigit() and len(text) < 10
    return min(int(text) / 1000 if is_number else default, MAX_TIMEOUT)
