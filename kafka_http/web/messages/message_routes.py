"""The /messages dialect: publish, read, acknowledge."""

from collections.abc import Callable
from urllib.parse import quote, urlencode

from flask import Blueprint, Response, request
from flask.sansio.blueprints import BlueprintSetupState

from kafka_http.config import Config
from kafka_http.consumers.consumer_offsets import check_consumer_name
from kafka_http.errors import InvalidRequest
from kafka_http.read.page_reader import Page, ReadLimits
from kafka_http.read.start_positions import FromOffset, ReadStart
from kafka_http.records import TopicPartition
from kafka_http.web.authority import link_base
from kafka_http.web.idempotent_publish import IdempotentPublish
from kafka_http.web.messages.page_rendering import raw_response, render_page, with_positions
from kafka_http.web.messages.position_syntax import page_position
from kafka_http.web.messages.publish_view import MessagesPublish
from kafka_http.web.messages.read_parameters import (
    SELECTION,
    ReadParameters,
    acks_previous,
    select,
    wanted_formats,
    wanted_isolation,
)
from kafka_http.web.messages.stream_view import STREAMS, MessageStreams
from kafka_http.web.messages.upload_view import UploadView, is_upload
from kafka_http.web.negotiation import JSON, OCTETS, Accept, best_of, kafka_format, kafka_types
from kafka_http.web.page_memory import PageMemoryBudget
from kafka_http.web.query_parameters import MAX_INT64, QueryParameters
from kafka_http.web.request_bodies import RequestBodies, head_of
from kafka_http.web.responses import as_response, json_response
from kafka_http.web.rest_v2.v2_records import render_v2
from kafka_http.web.services import Services
from kafka_http.web.wait_limiter import WaitLimiter

MAX_WAIT = 60
MAX_RECORDS = 100_000
READ_PARAMETERS = (*SELECTION, "wait")


class MessageRoutes:
    """The views of the dialect."""

    def __init__(
        self,
        core: Services,
        config: Config,
        bodies: RequestBodies,
        waits: WaitLimiter,
        once: IdempotentPublish,
        *,
        answers: PageMemoryBudget,
    ) -> None:
        self._answers = answers
        self._core = core
        self._uploads = UploadView(core.uploader, core.formats, config, bodies)
        self._config = config
        self._bodies = bodies
        self._waits = waits
        self._once = once
        self._streams = MessageStreams(core, config, waits)

    def blueprint(self) -> Blueprint:
        messages = Blueprint("messages", __name__, url_prefix="/messages")
        rules: dict[str, dict[str, Callable[..., Response]]] = {
            "": {"GET": self.topics},
            "/<topic>": {"GET": self.describe, "PUT": self.publish, "POST": self.publish},
            "/<topic>/<consumer>": {"GET": self.progress, "DELETE": self.forget},
            "/<topic>/<consumer>/<offset>": {"GET": self.read, "PUT": self.seek, "DELETE": self.ack},
        }
        for rule, methods in rules.items():
            for method, view in methods.items():
                messages.add_url_rule(rule, view_func=view, methods=[method])
        messages.record_once(_without_head_on_reads)
        return messages

    def topics(self) -> Response:
        """GET /messages: the topics there are."""
        QueryParameters(request.args, ())
        return json_response({"topics": self._core.topics.names()})

    def describe(self, topic: str) -> Response:
        """GET /messages/<topic>: its partitions."""
        QueryParameters(request.args, ())
        partitions = self._core.topics.partitions(topic)
        ends = self._core.topics.offset_ranges(topic, [each.partition for each in partitions])
        listed = [
            {
                "partition": each.partition,
                **ends[each.partition]._asdict(),
                "leader": each.leader,
                "replicas": each.replicas,
            }
            for each in partitions
        ]
        return json_response({"topic": topic, "partitions": listed})

    def publish(self, topic: str) -> Response:
        """PUT, POST /messages/<topic>: publish one message or a set."""
        head = head_of(request, self._config.base_url)
        if is_upload(head):
            return self._uploads.answer(request, head, topic)
        publish = MessagesPublish(head, topic, self._core.formats, self._config.timeout)
        with self._bodies.read(request) as body:
            return as_response(self._once.answer(request, publish, body))

    def read(self, topic: str, consumer: str, offset: str) -> Response:
        """GET /messages/<topic>/<consumer>/<offset>: messages from there on."""
        formats = self._core.formats
        accept = Accept.parse(request.headers.get("Accept"))
        media_type = best_of(accept, (JSON, OCTETS, *STREAMS, *kafka_types(formats)))
        if media_type in STREAMS:
            return self._streams.open(topic, consumer, offset, media_type)
        query = QueryParameters(request.args, READ_PARAMETERS)
        wanted = wanted_formats(formats, topic, query, kafka_format(media_type, formats))
        selection = select(consumer, offset, query)
        page = self._read(topic, consumer, selection, query, one=media_type == OCTETS)
        following = page_position(page.next, has_all=selection.has_all)
        if media_type == OCTETS:
            response = with_positions(raw_response(page), page, following)
        elif media_type == JSON:
            response = json_response(render_page(formats, topic, consumer, wanted, page, following=following))
        else:
            body = render_v2(formats, str(wanted.value), page.records, wanted.key)
            response = with_positions(Response(body, content_type=media_type), page, following)
        response.headers["Link"] = self._next_link(topic, consumer, following)
        return response

    def _read(self, topic: str, consumer: str, selection: ReadParameters, query: QueryParameters, one: bool) -> Page:
        isolation = wanted_isolation(query)
        limit = query.integer("limit", 1000, 1, MAX_RECORDS)
        max_bytes = query.integer("max_bytes", 4 << 20, 1, MAX_INT64)
        room = self._answers.page(min(max_bytes, self._config.max_page_bytes))
        limits = ReadLimits(1 if one else limit, room.size, room)
        wait = query.seconds("wait", 0, MAX_WAIT)
        start, wanted, reset = selection
        positions = self._core.resolver.resolve(topic, consumer, start, wanted, isolation)
        if acks_previous(query) and not selection.is_committed:
            self._core.consumers.ack_before(topic, consumer, positions, skip=reset is not None)
        with self._waits.place(wait) as seconds:
            places = {TopicPartition(topic, partition): at for partition, at in positions.items()}
            return self._core.reader.read(
                places, limits, wait=seconds, isolation=isolation, reset=reset, has_all=selection.has_all
            )

    def _next_link(self, topic: str, consumer: str, following: str) -> str:
        parts = ("messages", topic, consumer, following)
        path = "/".join(quote(part, safe=":,*") for part in parts)
        query = urlencode([(name, value) for name, value in request.args.items(multi=True) if name != "partition"])
        base = link_base(request.environ, self._config.base_url)
        return f'<{base}/{path}{"?" if query else ""}{query}>; rel="next"'

    def seek(self, topic: str, consumer: str, offset: str) -> Response:
        """PUT /messages/<topic>/<consumer>/<offset>: set the committed position."""
        start, wanted, reset = select(consumer, offset, QueryParameters(request.args, ("partition", "reset")))
        self._core.consumers.seek(topic, consumer, start, wanted, reset)
        return self._progress_response(topic, consumer)

    def ack(self, topic: str, consumer: str, offset: str) -> Response:
        """DELETE /messages/<topic>/<consumer>/<offset>: acknowledge up to and with it."""
        query = QueryParameters(request.args, ("partition", "isolation"))
        isolation = wanted_isolation(query)
        start, wanted, _ = select(consumer, offset, query)
        self._core.consumers.ack(topic, consumer, self._acknowledged(topic, start, wanted), isolation)
        return Response(status=204)

    def _acknowledged(self, topic: str, start: ReadStart, wanted: frozenset[int] | None) -> dict[int, int]:
        """The offsets that a DELETE names, by partition."""
        form = "DELETE takes 42 with ?partition=0, or 0:42,3:17"
        if start.rest is None:
            offsets = {p: place.offset for p, place in start.partitions.items() if isinstance(place, FromOffset)}
            if len(offsets) == len(start.partitions):
                return offsets
        if not isinstance(start.rest, FromOffset) or start.partitions:
            raise InvalidRequest(f"Only offsets can be acknowledged: {form}.", field="offset")
        partitions = self._core.topics.select(topic, wanted)
        if len(partitions) != 1:
            raise InvalidRequest(
                f"Which partition? {topic} has {len(partitions)}, an offset is one partition's: {form}.",
                field="partition",
            )
        return {partitions[0]: start.rest.offset}

    def progress(self, topic: str, consumer: str) -> Response:
        """GET /messages/<topic>/<consumer>: how far the consumer is."""
        QueryParameters(request.args, ())
        check_consumer_name(consumer)
        return self._progress_response(topic, consumer)

    def _progress_response(self, topic: str, consumer: str) -> Response:
        partitions = self._core.consumers.progress(topic, consumer)
        return json_response({"topic": topic, "consumer": consumer, "partitions": partitions})

    def forget(self, topic: str, consumer: str) -> Response:
        """DELETE /messages/<topic>/<consumer>: forget the consumer's offsets on the topic."""
        QueryParameters(request.args, ())
        check_consumer_name(consumer)
        self._core.consumers.forget(topic, consumer)
        return Response(status=204)


def _without_head_on_reads(state: BlueprintSetupState) -> None:
    """A read's HEAD would read all that its GET does, to throw it away."""
    for rule in state.app.url_map.iter_rules("messages.read"):
        (rule.methods or set()).discard("HEAD")
