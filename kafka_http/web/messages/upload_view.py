"""POST /messages/<topic> of NDJSON, answered in NDJSON: publishes while it reads, for as long as the client sends."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from threading import Semaphore
from typing import Any

import msgspec
from flask import Request, Response

from kafka_http.config import Config
from kafka_http.errors import InvalidRequest, KafkaHttpError, TooMuchInFlight, Unavailable
from kafka_http.publish.upload_session import MAX_BYTES, UploadPublisher, UploadSession
from kafka_http.records import ProducerRecord
from kafka_http.schemas.formats import Formats
from kafka_http.web.body_reader import PIECE, BodyReader, source_of
from kafka_http.web.content_coding import codings_of
from kafka_http.web.messages.message_attributes import request_attributes
from kafka_http.web.messages.message_bodies import Lines, not_empty, records_of, values_of
from kafka_http.web.messages.publish_view import (
    KEY_HEADER,
    MAX_TIMEOUT,
    RESPOND_ASYNC,
    SERIALISING,
    Head,
    check_formats,
    default_formats,
    schemas_of,
)
from kafka_http.web.negotiation import JSON, NDJSON, Accept, ContentType
from kafka_http.web.publish_limits import PublishLimits
from kafka_http.web.query_parameters import QueryParameters
from kafka_http.web.rendered_responses import error_answer, unforeseen
from kafka_http.web.request_bodies import DRAIN_BYTES, DRAIN_SECONDS, RequestBodies, check_transfer
from kafka_http.web.responses import as_response

log = logging.getLogger(__name__)

_PARAMETERS = ("answer", "key", "partition", "timestamp", "timeout", "lines", "partitions", *SERIALISING)
_LINES_AT_ONCE = 1000
_EVERY = 1.0
"""Seconds between two lines of the answer, at least: a client that reads none of them before its end must not stall."""
_TICK, _IDLE = 0.02, 0.25
"""Seconds for which the body is waited for at a time: while Kafka owes an answer, and while it does not."""


def is_upload(head: Head) -> bool:
    """Whether a request publishes while it is read."""
    accept = head.headers.get("accept", "")
    if head.method != "POST" or NDJSON not in accept.lower():
        return False
    is_ndjson = ContentType.parse(head.headers.get("content-type")).media_type == NDJSON
    wanted = Accept.parse(accept)
    return is_ndjson and wanted.match(NDJSON) > wanted.match(JSON)


class UploadView:
    """Answers such requests. Each keeps its thread, so an eighth of them may be at it at a time."""

    def __init__(self, uploader: UploadPublisher, formats: Formats, config: Config, bodies: RequestBodies) -> None:
        self._uploader = uploader
        self._formats = formats
        self._config = config
        self._bodies = bodies
        self._most = max(1, config.threads // 8)
        self._places = Semaphore(self._most)

    def answer(self, request: Request, head: Head, topic: str) -> Response:
        """Publish until the first line of the answer is known. What is wrong before any record was written is raised,
        or answered with its status; the rest of the answer is an iterator."""
        wanted = UploadParameters(head, topic, self._formats, self._config)
        with ExitStack() as held:
            arrivals = self._arrivals(request, held)
            upload = self._uploader.open(topic, schemas_of(wanted.query), wanted.timeout)
            course = _UploadResponse(arrivals, upload, wanted)
            lines = course.lines()
            first = next(lines)
            if course.error is not None and not course.has_written:
                return as_response(error_answer(course.error, **course.said))
            response = Response(chain([first], lines), content_type=NDJSON, headers={"X-Accel-Buffering": "no"})
            response.call_on_close(held.pop_all().close)
            return response

    def _arrivals(self, request: Request, held: ExitStack) -> BodyReader:
        """The body, once there is a place and memory for it."""
        codings_of(request, supported=())
        check_transfer(request)
        if not self._places.acquire(blocking=False):
            raise Unavailable(
                f"As many streams are published here as may be at a time, {self._most} in each worker, an eighth of "
                "its threads. Nothing was written; try again."
            )
        held.callback(self._places.release)
        memory = _Memory(self._bodies)
        held.callback(memory.release)
        source = source_of(request.environ, request.content_length)
        arrivals = BodyReader(source, self._config.max_body_bytes, memory.hold)
        request.environ["wsgi.input"] = arrivals  # an error before the first record has the rest drained
        return arrivals


class _Memory:
    """What an upload counts for in `max_in_flight`: what may be on its way to Kafka, or more for one long line."""

    def __init__(self, bodies: RequestBodies) -> None:
        self._bodies = bodies
        self._held = bodies.hold(MAX_BYTES + PIECE)

    def hold(self, begun: int) -> None:
        if begun <= self._held:
            return
        try:
            self._held += self._bodies.hold(begun - self._held, self._held)
        except TooMuchInFlight as error:
            raise TooMuchInFlight(
                f"A line of more than {begun} bytes is too much beside what is in flight already, max_in_flight is "
                f"{error.fields['limit']}: it was not published.",
                **error.fields,
            ) from None

    def release(self) -> None:
        self._bodies.hold(-self._held)


class UploadParameters:
    """What a request asks for beside its body. Raises for what is wrong with that."""

    def __init__(self, head: Head, topic: str, formats: Formats, config: Config) -> None:
        self._refuse_later(head)
        self._max_records = config.max_records
        self.query = query = QueryParameters(head.args, _PARAMETERS)
        check_formats(query, formats)
        self.timeout = query.seconds("timeout", config.timeout, MAX_TIMEOUT)
        self.answers_at_end = query.choice("answer", ("end", ""), "") == "end"
        self._attributes = request_attributes(query, head.fields)
        self._default = default_formats(query, formats, topic)
        self._are_records = query.choice("lines", ("records", "values"), "values") == "records"
        self._keeps_partitions = query.choice("partitions", ("keep", ""), "") == "keep"

    def _refuse_later(self, head: Head) -> None:
        given = [
            ("Prefer: respond-async", head.prefers(RESPOND_ASYNC)),
            ("callback", "callback" in head.args),
            ("Idempotency-Key", KEY_HEADER in head.headers),
        ]
        for name, is_given in given:
            if is_given:
                raise InvalidRequest(
                    f"{name} does not go with a stream, which is answered while it is read: leave it away, or send "
                    f"Accept: {JSON} to publish the body as a whole.",
                    field=name,
                )

    def records(self, lines: Lines, first: int) -> Iterator[ProducerRecord]:
        """The records on these lines, the first of which has that index. Raises at the first that is wrong."""
        if self._are_records:
            admission = PublishLimits(self._max_records)  # their headers are bounded, not their number
            records = records_of(lines, self._default, self._keeps_partitions, first, admission)
        else:
            records = values_of(lines, self._default.value, first)
        return records if self._attributes is None else map(self._attributes.fill, records)


class _UploadResponse:
    """One upload from its first line to the last of its answer."""

    def __init__(self, arrivals: BodyReader, upload: UploadSession, wanted: UploadParameters) -> None:
        self.error: KafkaHttpError | None = None
        """Why it ended before the body did; its last line says so."""
        self.said: Mapping[str, Any] = {}
        """What the last line says beside that."""
        self._arrivals = arrivals
        self._upload = upload
        self._wanted = wanted
        self._arrived: list[tuple[int, bytes]] = []
        self._told = 0
        self._told_at = 0.0

    @property
    def has_written(self) -> bool:
        return self._upload.acknowledged > 0 or "written" in self.said

    def lines(self) -> Iterator[bytes]:
        """The answer."""
        try:
            yield from self._progress()
        except KafkaHttpError as error:
            self.error = error
        except Exception:
            log.exception("unforeseen error: a stream of records")
            self.error = unforeseen()
        self._upload.finish()
        rest = self._upload.unacknowledged()
        self.said = self._state() | rest
        yield _line({**self.said, **({"done": True} if self.error is None else {"error": self.error.as_object()})})
        if self.error is not None:
            self._drain()

    def _progress(self) -> Iterator[bytes]:
        while self._go_on():
            self._upload.check()
            if self._is_due():
                self._told, self._told_at = self._upload.acknowledged, time.monotonic()
                yield _line(self._state())
        if not self._upload.sent:
            not_empty([])

    def _is_due(self) -> bool:
        """Whether there is something to tell, it is time to, and the client takes it."""
        if self._wanted.answers_at_end or self._upload.acknowledged == self._told:
            return False
        return time.monotonic() >= self._told_at + _EVERY and self._arrivals.can_answer()

    def _go_on(self) -> bool:
        """Do what there is to do, or wait a moment for it; false once all is done."""
        upload, arrivals = self._upload, self._arrivals
        is_all_handed_over = arrivals.has_ended and not self._arrived
        if is_all_handed_over and not upload.is_pending:
            return False
        if upload.is_full or is_all_handed_over:
            upload.wait(_TICK)
        elif self._arrived:
            self._publish(self._arrived[:_LINES_AT_ONCE])
            del self._arrived[:_LINES_AT_ONCE]
        elif arrivals.wait(_TICK if upload.is_pending else _IDLE):
            self._arrived = arrivals.lines()
        return True

    def _publish(self, lines: list[tuple[int, bytes]]) -> None:
        """Hand over the records on these lines, those before the first that is wrong at least."""
        records: list[ProducerRecord] = []
        try:
            records.extend(self._wanted.records(lines, self._upload.sent))
        finally:
            if records:
                self._upload.send(records)

    def _state(self) -> dict[str, Any]:
        return {"records": self._upload.acknowledged, "partitions": self._upload.last_offsets}

    def _drain(self) -> None:
        """Read a little more, so that a client which is still sending comes to see the last line."""
        until, left = time.monotonic() + DRAIN_SECONDS, DRAIN_BYTES
        try:
            while left > 0 and time.monotonic() < until and not self._arrivals.has_ended:
                if self._arrivals.wait(_TICK):
                    left -= len(self._arrivals.some())
        except KafkaHttpError:
            pass  # it has left


def _line(said: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(said) + b"\n"
