"""What a server has to know of requests that it receives before the views have them."""

import re
from collections.abc import Mapping
from typing import Literal

from werkzeug.datastructures import MultiDict

from kafka_http.config import Config
from kafka_http.web.health import HEALTH, READY
from kafka_http.web.messages.publish_view import Head
from kafka_http.web.messages.upload_view import is_upload
from kafka_http.web.request_bodies import RequestBodies

_PUBLISH = re.compile("/+messages/+[^/]+/*")
_NO_QUERY: MultiDict[str, str] = MultiDict()


class ReceivePolicy:
    """The limits of bodies, and who is to answer. Any thread may call."""

    def __init__(self, config: Config, bodies: RequestBodies) -> None:
        self.max_body_bytes = config.max_body_bytes
        self.max_in_flight = config.max_in_flight
        self.min_body_rate = config.min_body_rate
        self.max_answers_in_flight = config.max_answers_in_flight
        self.hold = bodies.hold

    def is_streamed(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        """Whether a view publishes the body while it comes."""
        return _PUBLISH.fullmatch(path) is not None and is_upload(Head(method, _NO_QUERY, headers, ""))

    def runner(self, path: str) -> Literal["loop", "reserved", "pool"]:
        """Where a request runs: health checks must not wait for the thread pool."""
        return "loop" if path == HEALTH else "reserved" if path == READY else "pool"
