"""Says in the 404 of a missing topic how to create it."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from flask import Flask, Response, request

from kafka_http.config import Config
from kafka_http.errors import KafkaHttpError, TopicNotFound
from kafka_http.security.access import Access
from kafka_http.topics import is_legal_name
from kafka_http.web.access_check import request_access
from kafka_http.web.authority import link_base, parse_authority
from kafka_http.web.responses import error_response

_FORWARDED = frozenset(("forwarded", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix"))


class TopicHint(NamedTuple):
    """How a client can create a missing topic: itself, with a call to the server at `base`, or not.

    `base` is empty if this server does not know the URL that the client uses.
    """

    may_create: bool
    base: str
    remedy: str
    """What to do if it may not create topics."""

    def explain(self, error: KafkaHttpError) -> KafkaHttpError:
        """Return the error of a missing topic with this hint. Return other errors unchanged."""
        topic = error.fields.get("topic", "")
        if type(error) is not TopicNotFound or not is_legal_name(topic):
            return error
        explained = TopicNotFound(topic)
        explained.message += f" {self._call(topic) if self.may_create else self.remedy}"
        return explained

    def _call(self, topic: str) -> str:
        body = json.dumps({"topic": topic})
        return f"Create it: curl {self.base}/messages -d '{body}'" if self.base else f"Create it: POST /messages {body}"


class TopicHints:
    """Makes the hints of an application. Any thread may call."""

    def __init__(self, config: Config) -> None:
        self._topic_admin = config.topic_admin
        self._base_url = config.base_url
        self._scheme = "https" if config.tls_cert else "http"

    def register(self, app: Flask) -> None:
        """Add the hints to the responses of the views."""
        app.register_error_handler(TopicNotFound, self._response)

    def of_request(self) -> TopicHint:
        """Return the hint for the current request."""
        return self._hint(request_access(), link_base(request.environ, self._base_url))

    def of_head(self, headers: Mapping[str, str], access: Access) -> TopicHint:
        """Return the hint for a request on the fast path. Header names are in lower case."""
        base = self._base_url.rstrip("/")
        if not base and _FORWARDED.isdisjoint(headers) and (host := parse_authority(headers.get("host", ""))):
            base = f"{self._scheme}://{host}"
        return self._hint(access, base)

    def _hint(self, access: Access, base: str) -> TopicHint:
        if access.is_unrestricted:
            remedy = "Create it in Kafka, or let clients create topics: set topic_admin (--topic-admin)."
            return TopicHint(self._topic_admin, base if "://" in base else "", remedy)
        remedy = "Only a principal with the right admin can create it."
        return TopicHint(access.may("admin"), base if "://" in base else "", remedy)

    def _response(self, error: TopicNotFound) -> Response:
        return error_response(self.of_request().explain(error))
