"""Calls for an instance that another node has: passed on to it, one hop at most."""

from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import quote, urlsplit

from flask import Response, request

from kafka_http.core.nodes import Elsewhere, Nodes
from kafka_http.errors import Unavailable
from kafka_http.logs import request_id
from kafka_http.web.bodies import Bodies
from kafka_http.web.waits import Waits

NODE_HEADER = "Kafka-Http-Node"
"""Has the secret that the nodes share; believed with that alone."""

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 75.0
"""More than the longest wait of a call."""

_PROXY_HEADERS = ("Forwarded", *(f"X-Forwarded-{each}" for each in ("Proto", "Host", "Port", "Prefix")))
_THERE = ("Accept", "Content-Type", *_PROXY_HEADERS)
_BACK = ("Content-Type", "Retry-After", "Allow")


class Forwarding:
    """Goes before the views of a blueprint whose paths have a group and the name of an instance."""

    def __init__(self, nodes: Nodes, bodies: Bodies, waits: Waits) -> None:
        self._nodes = nodes
        self._bodies = bodies
        self._waits = waits

    def pass_on(self) -> Response | None:
        """The other node's answer; None where the view is to answer. Raises `Unavailable`."""
        of = request.view_args or {}
        if "name" not in of:
            return None
        elsewhere = self._nodes.locate(of["group"], of["name"], request.headers.get(NODE_HEADER, ""))
        if elsewhere is None:
            return None
        may_wait = str(request.endpoint).endswith(".records")
        with self._bodies.read(request) as body, self._waits.place(_ANSWER_SECONDS if may_wait else 0) as granted:
            query = request.query_string.decode("latin-1")
            if may_wait and not granted:
                query = f"timeout=0&{query}"  # of two that are the same the first counts
            try:
                return _ask(elsewhere, query, body)
            except (OSError, HTTPException):
                raise Unavailable("The node that has this consumer instance cannot be reached, try again.") from None


def _ask(node: Elsewhere, query: str, body: bytes) -> Response:
    url = urlsplit(node.url)
    kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
    with closing(kind(url.netloc, timeout=_CONNECT_SECONDS)) as connection:
        connection.connect()
        connection.sock.settimeout(_ANSWER_SECONDS)
        path = f"{url.path.rstrip('/')}{quote(request.path, safe='/%')}?{query}".rstrip("?")
        headers = {name: request.headers[name] for name in _THERE if name in request.headers}
        headers |= {"X-Request-Id": request_id.get(), NODE_HEADER: node.secret}
        connection.request(request.method, path, body or None, headers)
        answer = connection.getresponse()
        back = {name: value for name in _BACK if (value := answer.headers.get(name)) is not None}
        return Response(answer.read(), answer.status, back)
