"""The /messages dialect: publish, read, acknowledge."""

from urllib.parse import quote, urlencode

from flask import Blueprint, Response, request

from kafka_http.config import Config
from kafka_http.consumers.consumer_offsets import check_consumer_name
from kafka_http.errors import InvalidRequest
from kafka_http.read.page_reader import Page, ReadLimits
from kafka_http.read.start_positions import FromOffset, ReadStart
from kafka_http.records import TopicPartition
from kafka_http.request_facts import count_page
from kafka_http.security.check_point import CheckPoint
from kafka_http.security.stream_access import StreamAccess
from kafka_http.web.access_check import request_access
from kafka_http.web.authority import link_base
from kafka_http.web.idempotent_publish import IdempotentPublish
from kafka_http.web.messages.message_publish import MessagesPublish
from kafka_http.web.messages.page_rendering import add_positions, raw_response, render_page
from kafka_http.web.messages.position_syntax import page_position
from kafka_http.web.messages.read_parameters import (
    SHARED_PARAMETERS,
    ReadParameters,
    acks_previous,
    requested_formats,
    requested_isolation,
)
from kafka_http.web.messages.stream_view import SEARCH_PARAMETERS, STREAM_TYPES, MessageStreams
from kafka_http.web.messages.upload_view import UploadView
from kafka_http.web.negotiation import JSON, OCTETS, Accept, best_of, kafka_format, kafka_types
from kafka_http.web.page_memory import PageMemoryBudget
from kafka_http.web.query_parameters import MAX_INT64, QueryParameters
from kafka_http.web.request_bodies import RequestBodies
from kafka_http.web.request_head import RequestHead
from kafka_http.web.responses import flask_response, json_response
from kafka_http.web.rest_v2.v2_records import render_v2
from kafka_http.web.services import Services
from kafka_http.web.topic_hints import TopicHints
from kafka_http.web.topics import topic_object
from kafka_http.web.url_paths import Routes, new_blueprint
from kafka_http.web.wait_limiter import WaitLimiter

MAX_WAIT = 60
MAX_RECORDS = 100_000
_READ_PARAMETERS = (*SHARED_PARAMETERS, "wait")
_ACK_FORMS = "DELETE accepts 42 with ?partition=0, or 0:42,3:17"


class MessageRoutes:
    """The views of the dialect."""

    def __init__(
        self,
        services: Services,
        config: Config,
        bodies: RequestBodies,
        wait_limiter: WaitLimiter,
        idempotent_publish: IdempotentPublish,
        *,
        page_memory: PageMemoryBudget,
        check_point: CheckPoint,
        hints: TopicHints,
    ) -> None:
        self._services = services
        self._check_point = check_point
        self._config = config
        self._bodies = bodies
        self._wait_limiter = wait_limiter
        self._idempotent_publish = idempotent_publish
        self._page_memory = page_memory
        self._hints = hints
        self._uploads = UploadView(services.uploader, services.formats, config, bodies, check_point)
        self._streams = MessageStreams(services, config, wait_limiter, check_point)

    def blueprint(self) -> Blueprint:
        routes: Routes = {
            "": {"GET": self.topics},
            "/<topic>": {"GET": self.describe, "PUT": self.publish, "POST": self.publish},
            "/<topic>/<consumer>": {"GET": self.progress, "DELETE": self.delete_offsets},
            "/<topic>/<consumer>/<offset>": {"GET": self.read, "PUT": self.seek, "DELETE": self.ack},
        }
        return new_blueprint("messages", routes, prefix="/messages", without_head=["read"])

    def topics(self) -> Response:
        """GET /messages: the names of all topics that may be described."""
        QueryParameters(request.args, ())
        return json_response({"topics": request_access().visible(self._services.topics.names())})

    def describe(self, topic: str) -> Response:
        """GET /messages/<topic>: the topic's partitions, and the settings of its own."""
        QueryParameters(request.args, ())
        return json_response(topic_object(self._services.topics, topic))

    def publish(self, topic: str) -> Response:
        """PUT, POST /messages/<topic>: publish one or more messages."""
        head = RequestHead.from_request(request, self._config.base_url)
        if head.is_streaming_upload:
            return self._uploads.publish(request, head, topic, self._hints.of_request())
        hint = self._hints.of_request()
        publish = MessagesPublish(head, topic, self._services.formats, self._config.timeout, hint)
        with self._bodies.read(request) as body:
            return flask_response(self._idempotent_publish.publish(request, publish, body))

    def read(self, topic: str, consumer: str, offset: str) -> Response:
        """GET /messages/<topic>/<consumer>/<offset>: the messages from a position on, as a page or a stream."""
        formats = self._services.formats
        accept = Accept.parse(request.headers.get("Accept"))
        media_type = best_of(accept, (JSON, OCTETS, *STREAM_TYPES, *kafka_types(formats)))
        if media_type in STREAM_TYPES:
            return self._streams.open(topic, consumer, offset, media_type)
        if not SEARCH_PARAMETERS.isdisjoint(request.args):
            raise InvalidRequest(
                "contains and key search a stream: send until=end, and Accept: text/event-stream or "
                "application/x-ndjson.",
                field="Accept",
            )
        query = QueryParameters(request.args, _READ_PARAMETERS)
        decode_as = requested_formats(formats, topic, query, kafka_format(media_type, formats))
        parameters = ReadParameters.from_request(consumer, offset, query)
        page = self._read_page(topic, consumer, parameters, query, is_single=media_type == OCTETS)
        next_position = page_position(page.next, has_all=parameters.has_all)
        if media_type == JSON:
            body = render_page(formats, topic, consumer, decode_as, page, next_position=next_position)
            response = json_response(body)
        elif media_type == OCTETS:
            response = add_positions(raw_response(page.parts[0][0] if page.parts else None), page, next_position)
        else:
            body = render_v2(formats, str(decode_as.value), page.parts, decode_as.key)
            response = add_positions(Response(body, content_type=media_type), page, next_position)
        response.headers["Link"] = self._next_link(topic, consumer, next_position)
        return response

    def _read_page(
        self, topic: str, consumer: str, parameters: ReadParameters, query: QueryParameters, is_single: bool
    ) -> Page:
        isolation = requested_isolation(query)
        limit = query.integer("limit", 1000, 1, MAX_RECORDS)
        max_bytes = query.integer("max_bytes", 4 << 20, 1, MAX_INT64)
        memory = self._page_memory.reserve(min(max_bytes, self._config.max_page_bytes))
        limits = ReadLimits(1 if is_single else limit, memory.size, memory)
        wait = query.seconds("wait", 0, MAX_WAIT)
        start, partitions, reset = parameters
        positions = self._services.resolver.resolve(topic, consumer, start, partitions, isolation)
        if acks_previous(query) and not parameters.is_committed:
            self._services.consumers.ack_before(topic, consumer, positions, skip=reset is not None)
        with self._wait_limiter.acquire(wait) as seconds:
            start_offsets = {TopicPartition(topic, partition): at for partition, at in positions.items()}
            page = self._services.reader.read(
                start_offsets, limits, wait=seconds, isolation=isolation, reset=reset, has_all=parameters.has_all
            )
        StreamAccess(self._check_point, request_access(), "read", topic).check()  # it may have waited for a minute
        count_page(page.parts)
        return page

    def _next_link(self, topic: str, consumer: str, next_position: str) -> str:
        path = "/".join(quote(part, safe=":,*") for part in ("messages", topic, consumer, next_position))
        query = urlencode([(name, value) for name, value in request.args.items(multi=True) if name != "partition"])
        base = link_base(request.environ, self._config.base_url)
        return f'<{base}/{path}{"?" if query else ""}{query}>; rel="next"'

    def seek(self, topic: str, consumer: str, offset: str) -> Response:
        """PUT /messages/<topic>/<consumer>/<offset>: set the committed position."""
        query = QueryParameters(request.args, ("partition", "reset"))
        start, partitions, reset = ReadParameters.from_request(consumer, offset, query)
        self._services.consumers.seek(topic, consumer, start, partitions, reset)
        return self._progress_response(topic, consumer)

    def ack(self, topic: str, consumer: str, offset: str) -> Response:
        """DELETE /messages/<topic>/<consumer>/<offset>: acknowledge all messages up to this one."""
        query = QueryParameters(request.args, ("partition", "isolation"))
        isolation = requested_isolation(query)
        start, partitions, _ = ReadParameters.from_request(consumer, offset, query)
        self._services.consumers.ack(topic, consumer, self._offsets_to_ack(topic, start, partitions), isolation)
        return Response(status=204)

    def _offsets_to_ack(self, topic: str, start: ReadStart, partitions: frozenset[int] | None) -> dict[int, int]:
        """Return the offsets that a DELETE names, by partition."""
        if start.rest is None:
            offsets = {p: each.offset for p, each in start.partitions.items() if isinstance(each, FromOffset)}
            if len(offsets) == len(start.partitions):
                return offsets
        if not isinstance(start.rest, FromOffset) or start.partitions:
            raise InvalidRequest(f"Only offsets can be acknowledged: {_ACK_FORMS}.", field="offset")
        selected = self._services.topics.select(topic, partitions)
        if len(selected) != 1:
            raise InvalidRequest(
                f"Partition is missing: {topic} has {len(selected)} partitions. {_ACK_FORMS}.", field="partition"
            )
        return {selected[0]: start.rest.offset}

    def progress(self, topic: str, consumer: str) -> Response:
        """GET /messages/<topic>/<consumer>: the consumer's committed position and lag."""
        QueryParameters(request.args, ())
        check_consumer_name(consumer)
        return self._progress_response(topic, consumer)

    def _progress_response(self, topic: str, consumer: str) -> Response:
        partitions = self._services.consumers.progress(topic, consumer)
        return json_response({"topic": topic, "consumer": consumer, "partitions": partitions})

    def delete_offsets(self, topic: str, consumer: str) -> Response:
        """DELETE /messages/<topic>/<consumer>: delete the consumer's committed offsets on the topic."""
        QueryParameters(request.args, ())
        check_consumer_name(consumer)
        self._services.consumers.delete_offsets(topic, consumer)
        return Response(status=204)
