"""Publishes of both dialects on the fast path."""

import re
from functools import partial

from werkzeug.datastructures import MultiDict

from kafka_http.config import Config
from kafka_http.schemas.formats import Formats
from kafka_http.security.access import Access
from kafka_http.web.fast_path import PreparedStart, StartCall
from kafka_http.web.idempotent_publish import IdempotentPublish
from kafka_http.web.messages.message_publish import MessagesPublish
from kafka_http.web.publish_view import PublishDialect, PublishView
from kafka_http.web.request_head import KEY_HEADER, RequestHead
from kafka_http.web.rest_v2.produce_view import V2Produce
from kafka_http.web.topic_hints import TopicHints

_MIN_TIMEOUT_WITH_KEY = 1.0
"""Seconds. A publish with a key and a shorter timeout goes to a thread: here the timeout includes claiming the key."""


class FastPathPublishes:
    """The `FastPathRoute` of publishes."""

    path = re.compile(
        r"/(?:messages/(?P<topic>[A-Za-z0-9._-]+)|topics/(?P<v2>[A-Za-z0-9._-]+)(?:/partitions/(?P<partition>[0-9]{1,9}))?)"
    )

    def __init__(
        self,
        publish_view: PublishView,
        idempotent_publish: IdempotentPublish,
        formats: Formats,
        config: Config,
        hints: TopicHints,
    ) -> None:
        self._publish_view = publish_view
        self._idempotent_publish = idempotent_publish
        self._formats = formats
        self._hints = hints
        self._timeout = config.timeout

    def require(self, path: re.Match[str], access: Access, args: MultiDict[str, str]) -> None:
        access.require("publish", path["topic"] or path["v2"])

    def prepare(self, path: re.Match[str], head: RequestHead, query: str, access: Access) -> PreparedStart | None:
        dialect = self._parse(path, head, access)
        if dialect is None or dialect.timeout != self._timeout:
            return None
        if dialect.respond_async is not None and "x-forwarded-prefix" in head.headers:  # Location contains it
            return None
        start: StartCall = partial(self._publish_view.start, dialect, blocking=False)
        if KEY_HEADER in head.headers:
            if dialect.timeout < _MIN_TIMEOUT_WITH_KEY or not self._idempotent_publish.is_ready:
                return None
            start = partial(self._idempotent_publish.start, dialect, head, path[0], query.encode())
        return PreparedStart(dialect, start)

    def _parse(self, path: re.Match[str], head: RequestHead, access: Access) -> PublishDialect | None:
        if (topic := path["topic"]) is not None:
            if head.method == "DELETE" or head.is_streaming_upload:
                return None
            hint = self._hints.of_head(head.headers, access)
            return MessagesPublish(head, topic, self._formats, self._timeout, hint)
        if head.method != "POST":
            return None
        partition = path["partition"]
        number = None if partition is None else int(partition)
        return V2Produce(head, path["v2"], number, self._formats, self._timeout)
