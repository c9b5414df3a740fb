"""The v2 API's consumers."""

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote

from flask import Blueprint, Response, request
from flask.sansio.blueprints import BlueprintSetupState

from kafka_http.config import Config
from kafka_http.consumers.instance_reader import InstanceReader, LeasedPage
from kafka_http.consumers.instance_service import InstanceService, ReadLease
from kafka_http.errors import InstanceBusy, InvalidRequest, InvalidValue, KafkaHttpError
from kafka_http.read.page_reader import ReadLimits
from kafka_http.records import InstanceSettings, OffsetReset
from kafka_http.web.authority import link_base
from kafka_http.web.content_coding import compress
from kafka_http.web.negotiation import check_records_type, check_v2_content_type, kafka_type, v2_answer_type
from kafka_http.web.page_memory import PageMemoryBudget
from kafka_http.web.request_bodies import RequestBodies
from kafka_http.web.responses import v2_response
from kafka_http.web.rest_v2.consumer_bodies import (
    MAX_TIMEOUT,
    check_group,
    parse_asked_partitions,
    parse_commit,
    parse_create,
    parse_partitions,
    parse_seek,
    parse_subscription,
)
from kafka_http.web.rest_v2.v2_records import render_v2
from kafka_http.web.services import Services
from kafka_http.web.wait_limiter import WaitLimiter

log = logging.getLogger(__name__)

MAX_RECORDS = 100_000
DEFAULT_MAX_BYTES = 4 << 20
MAX_BODY_BYTES = 1 << 20
"""Of a call's body, which becomes many times as large when it is parsed."""
_AT_ONCE = 0.05
"""The time in seconds that a request waits for the lease without counting as a waiting request."""


class V2ConsumerRoutes:
    """The views of consumer instances."""

    def __init__(
        self,
        core: Services,
        instances: InstanceService,
        config: Config,
        bodies: RequestBodies,
        waits: WaitLimiter,
        *,
        answers: PageMemoryBudget,
    ) -> None:
        self._answers = answers
        self._formats = core.formats
        self._instances = instances
        self._reader = InstanceReader(instances, core.reader)
        self._config = config
        self._bodies = bodies
        self._waits = waits

    def blueprint(self) -> Blueprint:
        consumers = Blueprint("v2_consumers", __name__, url_prefix="/consumers/<group>")
        instance = "/instances/<name>"
        rules: dict[str, dict[str, Callable[..., Response]]] = {
            "": {"POST": self.create},
            instance: {"DELETE": self.delete, "POST": self.delete_by_post},
            f"{instance}/subscription": {
                "POST": self.subscribe,
                "GET": self.subscription,
                "DELETE": self.unsubscribe,
            },
            f"{instance}/assignments": {"POST": self.assign, "GET": self.assignments},
            f"{instance}/positions": {"POST": self.seek},
            f"{instance}/positions/beginning": {"POST": self.seek_to_beginning},
            f"{instance}/positions/end": {"POST": self.seek_to_end},
            f"{instance}/offsets": {"POST": self.commit, "GET": self.committed},
            f"{instance}/records": {"GET": self.records},
        }
        for rule, methods in rules.items():
            for method, view in methods.items():
                consumers.add_url_rule(rule, view_func=view, methods=[method])
        consumers.before_request(_check_accept)
        consumers.record_once(_without_head_on_reads)
        return consumers

    def create(self, group: str) -> Response:
        """POST /consumers/<group>: make an instance."""
        check_group(group)
        name, settings = parse_create(self._body(), self._config.consumer_auto_offset_reset, self._formats)
        if name is None:
            name = f"rest-consumer-{uuid.uuid4()}"
        base = link_base(request.environ, self._config.base_url)
        base_uri = f"{base}/consumers/{quote(group, safe='')}/instances/{quote(name, safe='')}"
        self._instances.create(group, name, settings)
        return v2_response({"instance_id": name, "base_uri": base_uri})

    def delete(self, group: str, name: str) -> Response:
        """DELETE /consumers/<group>/instances/<name>: remove it."""
        self._instances.delete(group, name)
        return Response(status=204)

    def delete_by_post(self, group: str, name: str) -> Response:
        """POST /consumers/<group>/instances/<name>, with an empty body: the same, as a published tutorial has it."""
        if self._body().strip():
            raise InvalidRequest("A POST with a body means nothing here. One without a body removes the instance.")
        return self.delete(group, name)

    def subscribe(self, group: str, name: str) -> Response:
        """POST …/subscription: subscribe to topics, or to those that a pattern finds."""
        topics, pattern = parse_subscription(self._body())
        self._instances.subscribe(group, name, topics, pattern)
        return Response(status=204)

    def subscription(self, group: str, name: str) -> Response:
        """GET …/subscription: the topics subscribed to."""
        return v2_response({"topics": self._instances.subscription(group, name)})

    def unsubscribe(self, group: str, name: str) -> Response:
        """DELETE …/subscription: leave the group."""
        self._instances.unsubscribe(group, name)
        return Response(status=204)

    def assign(self, group: str, name: str) -> Response:
        """POST …/assignments: read these partitions, whoever else reads them."""
        self._instances.assign(group, name, parse_partitions(self._body()))
        return Response(status=204)

    def assignments(self, group: str, name: str) -> Response:
        """GET …/assignments: the partitions that the instance reads now."""
        partitions = self._instances.assignments(group, name)
        return v2_response({"partitions": [each._asdict() for each in partitions]})

    def seek(self, group: str, name: str) -> Response:
        """POST …/positions: what to read next."""
        offsets, times = parse_seek(self._body())
        if offsets or not times:
            self._instances.seek(group, name, offsets)
        if times:
            self._instances.seek_times(group, name, times)
        return Response(status=204)

    def seek_to_beginning(self, group: str, name: str) -> Response:
        """POST …/positions/beginning: read on from the first record there is."""
        return self._seek_ends(group, name, "earliest")

    def seek_to_end(self, group: str, name: str) -> Response:
        """POST …/positions/end: read on from the next record to come."""
        return self._seek_ends(group, name, "latest")

    def _seek_ends(self, group: str, name: str, end: OffsetReset) -> Response:
        self._instances.seek_ends(group, name, parse_partitions(self._body()), end)
        return Response(status=204)

    def commit(self, group: str, name: str) -> Response:
        """POST …/offsets: commit what was delivered, or what the body says."""
        self._instances.commit(group, name, parse_commit(self._body()))
        return v2_response([])

    def committed(self, group: str, name: str) -> Response:
        """GET …/offsets: what the group has committed."""
        asked = parse_asked_partitions(self._body(), request.args.get("topic"), request.args.getlist("partition"))
        places = self._instances.committed(group, name, asked)
        return v2_response({"offsets": [each._asdict() for each in places]})

    def records(self, group: str, name: str) -> Response:
        """GET …/records: read the next page.

        The lease is acquired before the request is checked, because it has the instance's settings: so a page takes two
        calls of the daemon, one to acquire the lease and one to release it.
        """
        began = time.monotonic()
        acquired = self._acquire_now(group, name)
        lease = None if isinstance(acquired, KafkaHttpError) else acquired
        try:
            settings = self._instances.settings(group, name) if lease is None else lease.settings
            check_records_type(request.headers.get("Accept"), settings.format)
            seconds = min(_milliseconds("timeout", settings.timeout), MAX_TIMEOUT)
            limits = self._limits(settings)
        except BaseException:
            if lease is not None:
                self._instances.release_lease(lease)
            raise
        if isinstance(acquired, KafkaHttpError) and not isinstance(acquired, InstanceBusy):
            raise acquired
        page = self._read(group, name, lease, limits, began + seconds)
        body, headers = (b"[]\n", {}) if page is None else self._rendered(page, settings.format)
        content = body if page is None else _Told(body, page)
        response = Response(content, headers=headers, content_type=kafka_type(settings.format))
        response.content_length = len(body)
        return response

    def _acquire_now(self, group: str, name: str) -> ReadLease | KafkaHttpError:
        """Acquire the lease, waiting only for a moment. Return the error if there is one."""
        try:
            return self._instances.acquire_lease(group, name, 0 if request.args.get("timeout") == "0" else _AT_ONCE)
        except KafkaHttpError as error:
            return error

    def _limits(self, settings: InstanceSettings) -> ReadLimits:
        max_bytes = _number("max_bytes", settings.max_bytes or DEFAULT_MAX_BYTES)
        records = _number("max_poll_records", settings.max_records or MAX_RECORDS)
        room = self._answers.page(min(max(1, max_bytes), self._config.max_page_bytes))
        return ReadLimits(min(max(1, records), MAX_RECORDS), room.size, room)

    def _read(
        self, group: str, name: str, lease: ReadLease | None, limits: ReadLimits, deadline: float
    ) -> LeasedPage | None:
        """Read a page. Return None if there are no records in time, or if another reader keeps the lease."""
        joining = lease is not None and lease.joining
        with self._waits.place(deadline - time.monotonic(), joining=joining) as granted:
            until = deadline if granted else time.monotonic()
            if lease is None and granted:
                lease = self._acquire(group, name, max(0, until - time.monotonic()))
            page = None if lease is None else self._reader.read(lease, limits, until)
        if page is not None and not page.records:
            page.delivered()
            return None
        return page

    def _acquire(self, group: str, name: str, seconds: float) -> ReadLease | None:
        try:
            return self._instances.acquire_lease(group, name, seconds)
        except InstanceBusy:
            return None

    def _rendered(self, page: LeasedPage, format_: str) -> tuple[bytes, Mapping[str, str]]:
        try:
            return compress(request, render_v2(self._formats, format_, page.records))
        except BaseException:
            page.lost()
            raise

    def _body(self) -> bytes:
        request.max_content_length = min(MAX_BODY_BYTES, self._config.max_body_bytes)
        with self._bodies.read(request) as body:
            if body:
                check_v2_content_type(request.headers.get("Content-Type"))
            return body


class _Told(Iterator[bytes]):
    """A body of one piece, which counts as delivered once the server comes back for more: that it was closed tells
    nothing."""

    def __init__(self, body: bytes, page: LeasedPage) -> None:
        self._pieces = [body]
        self._page: LeasedPage | None = page

    def __next__(self) -> bytes:
        if self._pieces:
            return self._pieces.pop()
        self._tell(LeasedPage.delivered)
        raise StopIteration

    def close(self) -> None:
        self._tell(LeasedPage.lost)

    def _tell(self, what: Callable[[LeasedPage], None]) -> None:
        page, self._page = self._page, None
        if page is None:
            return
        try:
            what(page)
        except KafkaHttpError as error:  # the answer is out: the instance goes on as if it had been lost
            log.warning("A page was answered, and its records may come again: %s", error.message)


def _check_accept() -> None:
    """Refuse before anything is done whom no answer would suit; that of records depends on the instance."""
    if request.endpoint != "v2_consumers.records":
        v2_answer_type(request.headers.get("Accept"))


def _without_head_on_reads(state: BlueprintSetupState) -> None:
    """A read's HEAD would read all that its GET does, to throw it away."""
    for rule in state.app.url_map.iter_rules("v2_consumers.records"):
        (rule.methods or set()).discard("HEAD")


def _milliseconds(name: str, default: float) -> float:
    """A time of the query in seconds."""
    given = _number(name, -1)
    return default if given < 0 else given / 1000


def _number(name: str, default: int) -> int:
    """A number of the query; -1 stands for the default, as clients have it from kafka-rest."""
    text = request.args.get(name, "").strip()
    if text in {"", "-1"}:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidValue(f"{name}: expected a whole number, got {text[:100]!r}.", field=name)
    return int(text)
