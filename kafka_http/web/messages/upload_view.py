"""Streaming uploads: a POST of NDJSON that is published while it arrives, with a response in NDJSON."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import chain
from threading import Semaphore
from typing import Any

import msgspec
from flask import Request, Response

from kafka_http.config import Config
from kafka_http.errors import InvalidRequest, KafkaHttpError, TooMuchInFlight, Unavailable
from kafka_http.publish.upload_session import MAX_BYTES, UploadPublisher, UploadSession
from kafka_http.records import ProducerRecord
from kafka_http.request_facts import count_received, count_records
from kafka_http.schemas.formats import Formats
from kafka_http.security.check_point import CheckPoint
from kafka_http.security.rate_limits import ClientLimits
from kafka_http.security.stream_access import StreamAccess
from kafka_http.web.access_check import request_access
from kafka_http.web.body_reader import READ_SIZE, BodyReader, LimitedSource, body_source
from kafka_http.web.content_coding import content_codings
from kafka_http.web.json_bodies import not_empty
from kafka_http.web.messages.message_attributes import request_attributes
from kafka_http.web.messages.message_bodies import Lines, records_of, values_of
from kafka_http.web.messages.message_publish import (
    MAX_TIMEOUT,
    SERIALIZER_PARAMETERS,
    check_formats,
    default_formats,
    line_parameters,
    schemas_of,
)
from kafka_http.web.negotiation import JSON, NDJSON
from kafka_http.web.publish_limits import PublishLimits
from kafka_http.web.query_parameters import QueryParameters
from kafka_http.web.request_bodies import DRAIN_BYTES, DRAIN_SECONDS, RequestBodies, check_body_length
from kafka_http.web.request_head import KEY_HEADER, RESPOND_ASYNC, RequestHead
from kafka_http.web.responses import flask_response, internal_error, render_error
from kafka_http.web.topic_hints import TopicHint

log = logging.getLogger(__name__)

_PARAMETERS = ("answer", "key", "partition", "timestamp", "timeout", "lines", "partitions", *SERIALIZER_PARAMETERS)
_LINES_AT_ONCE = 1000
_PROGRESS_SECONDS = 1.0
"""Minimum time between two lines of the response. A client that reads them only at the end must not stall."""
_WAIT_SECONDS, _IDLE_WAIT_SECONDS = 0.02, 0.25
"""How long one wait for the body takes: while Kafka has yet to answer, and otherwise."""


class UploadView:
    """Responds to uploads. Each keeps its thread, so at most an eighth of a worker's threads may be uploads."""

    def __init__(
        self,
        uploader: UploadPublisher,
        formats: Formats,
        config: Config,
        bodies: RequestBodies,
        check_point: CheckPoint,
    ) -> None:
        self._uploader = uploader
        self._formats = formats
        self._config = config
        self._bodies = bodies
        self._check_point = check_point
        self._max_uploads = max(1, config.threads // 8)
        self._slots = Semaphore(self._max_uploads)

    def publish(self, request: Request, head: RequestHead, topic: str, hint: TopicHint) -> Response:
        """Publish until the first line of the response is known. The response's iterator publishes the rest.

        Errors before any record was written are raised, or become an error response. `hint` is for a missing topic.
        """
        parameters = UploadParameters(head, topic, self._formats, self._config)
        with ExitStack() as resources:
            body = self._open_body(request, resources)
            session = self._uploader.open(topic, schemas_of(parameters.query), parameters.timeout)
            access = StreamAccess(self._check_point, request_access(), "publish", topic)
            upload = _UploadResponse(body, session, parameters, access)
            lines = upload.lines()
            first = next(lines)
            if upload.error is not None and not upload.has_written:
                return flask_response(render_error(hint.explain(upload.error), **upload.summary))
            response = Response(chain([first], lines), content_type=NDJSON, headers={"X-Accel-Buffering": "no"})
            response.call_on_close(resources.pop_all().close)
            return response

    def _open_body(self, request: Request, resources: ExitStack) -> BodyReader:
        """Acquire a slot and memory, and return the reader of the body."""
        content_codings(request, supported=())
        check_body_length(request)
        if not self._slots.acquire(blocking=False):
            raise Unavailable(
                f"Too many concurrent streaming publishes (limit: {self._max_uploads} per worker, an eighth of its "
                "threads). Nothing was written. Retry."
            )
        resources.callback(self._slots.release)
        limits = request_access().limits
        resources.callback(limits.acquire_stream())
        memory = _UploadMemory(self._bodies)
        resources.callback(memory.release)
        source = LimitedSource(body_source(request.environ, request.content_length), partial(_count_bytes, limits))
        body = BodyReader(source, self._config.max_body_bytes, memory.reserve)
        request.environ["wsgi.input"] = body  # after an error before the first record, the rest is drained
        return body


def _count_bytes(limits: ClientLimits, size: int) -> float:
    """Count bytes of the body. Return the seconds to wait before more may arrive."""
    count_received(size)
    return limits.add_bytes(size)


class _UploadMemory:
    """What an upload counts in `max_in_flight`: the records on their way to Kafka, or more for one long line."""

    def __init__(self, bodies: RequestBodies) -> None:
        self._bodies = bodies
        self._reserved = bodies.reserve(MAX_BYTES + READ_SIZE)

    def reserve(self, line_bytes: int) -> None:
        if line_bytes <= self._reserved:
            return
        try:
            self._reserved += self._bodies.reserve(line_bytes - self._reserved, self._reserved)
        except TooMuchInFlight as error:
            raise TooMuchInFlight(
                f"A line of more than {line_bytes} bytes exceeds the memory for requests in flight (max_in_flight: "
                f"{error.fields['limit']}). It was not published.",
                **error.fields,
            ) from None

    def release(self) -> None:
        self._bodies.reserve(-self._reserved)


class UploadParameters:
    """The parameters of an upload. The constructor checks them and raises `InvalidRequest`, `UnsupportedFormat`."""

    def __init__(self, head: RequestHead, topic: str, formats: Formats, config: Config) -> None:
        self._reject_async(head)
        self._max_records = config.max_records
        self.query = query = QueryParameters(head.args, _PARAMETERS)
        check_formats(query, formats)
        self.timeout = query.seconds("timeout", config.timeout, MAX_TIMEOUT)
        self.responds_at_end = query.choice("answer", ("end", ""), "") == "end"
        self._attributes = request_attributes(query, head.all_headers)
        self._default = default_formats(query, formats, topic)
        self._are_records, self._keeps_partitions = line_parameters(query)

    def _reject_async(self, head: RequestHead) -> None:
        options = [
            ("Prefer: respond-async", head.prefers(RESPOND_ASYNC)),
            ("callback", "callback" in head.args),
            ("Idempotency-Key", KEY_HEADER in head.headers),
        ]
        for name, is_present in options:
            if is_present:
                raise InvalidRequest(
                    f"{name} cannot be combined with a streaming publish. Omit it, or send Accept: {JSON} to publish "
                    "the body as a whole.",
                    field=name,
                )

    def records(self, lines: Lines, first: int) -> Iterator[ProducerRecord]:
        """Yield the records of these lines. `first` is the index of the first. Raises at the first invalid line."""
        if self._are_records:
            limits = PublishLimits(self._max_records)  # limits their headers, not their number
            records = records_of(lines, self._default, self._keeps_partitions, first, limits)
        else:
            records = values_of(lines, self._default.value, first)
        return records if self._attributes is None else map(self._attributes.fill, records)


class _UploadResponse:
    """One upload, from the first line of its body to the last line of its response. Its request's thread calls."""

    def __init__(
        self, body: BodyReader, session: UploadSession, parameters: UploadParameters, access: StreamAccess
    ) -> None:
        self.error: KafkaHttpError | None = None
        """The error that ended the upload before the end of the body."""
        self.summary: Mapping[str, Any] = {}
        """The fields of the last line, without `done` and `error`."""
        self._body = body
        self._session = session
        self._parameters = parameters
        self._access = access
        self._lines: list[tuple[int, bytes]] = []
        self._reported = 0
        self._reported_at = 0.0
        self._counted = 0

    @property
    def has_written(self) -> bool:
        return self._session.acknowledged > 0 or "written" in self.summary

    def lines(self) -> Iterator[bytes]:
        """Publish, and yield the lines of the response."""
        try:
            yield from self._publish_body()
        except KafkaHttpError as error:
            self.error = error
        except Exception:
            log.exception("Unexpected error: streaming publish ended")
            self.error = internal_error()
        self._session.finish()
        rest = self._session.unacknowledged()
        self._count_records(rest.get("written", ()))
        self.summary = self._progress() | rest
        end = {"done": True} if self.error is None else {"error": self.error.as_object()}
        yield _json_line({**self.summary, **end})
        if self.error is not None:
            self._drain()

    def _publish_body(self) -> Iterator[bytes]:
        while self._step():
            self._session.check()
            self._count_records()
            self._access.check()
            if self._is_progress_due():
                self._reported, self._reported_at = self._session.acknowledged, time.monotonic()
                yield _json_line(self._progress())
        if not self._session.sent:
            not_empty([])

    def _count_records(self, written: Sequence[tuple[int, int]] = ()) -> None:
        """Count the records that Kafka has acknowledged, and the ranges of later ones that were written."""
        acknowledged = self._session.acknowledged
        count_records(acknowledged - self._counted + sum(last + 1 - first for first, last in written))
        self._counted = acknowledged

    def _is_progress_due(self) -> bool:
        """Whether there is progress to report, it is time to, and the client takes it without delay."""
        if self._parameters.responds_at_end or self._session.acknowledged == self._reported:
            return False
        return time.monotonic() >= self._reported_at + _PROGRESS_SECONDS and self._body.can_send()

    def _step(self) -> bool:
        """Read, publish or wait for a moment. Return false when all records have results."""
        session, body = self._session, self._body
        is_all_published = body.has_ended and not self._lines
        if is_all_published and not session.is_pending:
            return False
        if session.is_full or is_all_published:
            session.wait(_WAIT_SECONDS)
        elif self._lines:
            self._publish(self._lines[:_LINES_AT_ONCE])
            del self._lines[:_LINES_AT_ONCE]
        elif body.wait(_WAIT_SECONDS if session.is_pending else _IDLE_WAIT_SECONDS):
            self._lines = body.lines()
        return True

    def _publish(self, lines: list[tuple[int, bytes]]) -> None:
        """Publish the records of these lines. If one is invalid, publish those before it and raise."""
        records: list[ProducerRecord] = []
        try:
            records.extend(self._parameters.records(lines, self._session.sent))
        finally:
            if records:
                self._session.send(records)

    def _progress(self) -> dict[str, Any]:
        return {"records": self._session.acknowledged, "partitions": self._session.last_offsets}

    def _drain(self) -> None:
        """Read a part of the rest, so that a client that is still sending gets to read the last line."""
        until, left = time.monotonic() + DRAIN_SECONDS, DRAIN_BYTES
        with suppress(KafkaHttpError):  # the client is gone
            while left > 0 and time.monotonic() < until and not self._body.has_ended:
                if self._body.wait(_WAIT_SECONDS):
                    left -= len(self._body.read_available())


def _json_line(fields: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(fields) + b"\n"
