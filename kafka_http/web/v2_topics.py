"""The v2 API's metadata and produce."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from kafka_http.config import Config
from kafka_http.core import Core
from kafka_http.errors import (
    BrokerUnavailable,
    InvalidValue,
    KafkaHttpError,
    NotAuthorized,
    OutcomeUnknown,
    TooLarge,
)
from kafka_http.records import Outcome, PartitionInfo, ProducerRecord
from kafka_http.web.bodies import Bodies
from kafka_http.web.negotiation import names_v2, produced_format, v2_answer_type
from kafka_http.web.query import MAX_INT32
from kafka_http.web.responses import error_response, v2_response
from kafka_http.web.v2_records import parse_v2

KAFKA_ERROR = 50002
KAFKA_RETRIABLE_ERROR = 50003
_WHOLE = (TooLarge, OutcomeUnknown, BrokerUnavailable)
"""What is an error of the answer where it is each record's."""


class V2Topics:
    """The views of topics, partitions and brokers."""

    def __init__(self, core: Core, config: Config, bodies: Bodies) -> None:
        self._core = core
        self._config = config
        self._bodies = bodies

    def blueprint(self) -> Blueprint:
        topics = Blueprint("v2_topics", __name__)
        rules: dict[str, dict[str, Callable[..., Response]]] = {
            "/": {"GET": self.root},
            "/brokers": {"GET": self.brokers},
            "/topics": {"GET": self.topics},
            "/topics/<topic>": {"GET": self.describe, "POST": self.publish},
            "/topics/<topic>/partitions": {"GET": self.partitions},
            "/topics/<topic>/partitions/<partition>": {"GET": self.partition, "POST": self.publish},
            "/topics/<topic>/partitions/<partition>/offsets": {"GET": self.offsets},
        }
        for rule, methods in rules.items():
            for method, view in methods.items():
                topics.add_url_rule(rule, view_func=view, methods=[method])
        topics.before_request(_check_accept)
        return topics

    def root(self) -> Response:
        """GET /: an empty object, for clients of this API alone."""
        if not names_v2(request.accept_mimetypes):
            raise NotFound
        return v2_response({})

    def brokers(self) -> Response:
        """GET /brokers: the ids of those that are alive."""
        return v2_response({"brokers": self._core.topics.brokers()})

    def topics(self) -> Response:
        """GET /topics: the names of those there are."""
        return v2_response(self._core.topics.names())

    def describe(self, topic: str) -> Response:
        """GET /topics/<topic>: its settings and partitions."""
        partitions = [_partition(each) for each in self._core.topics.partitions(topic)]
        return v2_response({"name": topic, "configs": self._core.topics.configs(topic), "partitions": partitions})

    def partitions(self, topic: str) -> Response:
        """GET /topics/<topic>/partitions: its partitions."""
        return v2_response([_partition(each) for each in self._core.topics.partitions(topic)])

    def partition(self, topic: str, partition: str) -> Response:
        """GET /topics/<topic>/partitions/<partition>: one of them."""
        number = self._number(topic, partition)
        info = next(each for each in self._core.topics.partitions(topic) if each.partition == number)
        return v2_response(_partition(info))

    def offsets(self, topic: str, partition: str) -> Response:
        """GET /topics/<topic>/partitions/<partition>/offsets: the ends of its log."""
        number = self._number(topic, partition)
        ends = self._core.topics.ends(topic, [number])[number]
        return v2_response({"beginning_offset": ends.earliest, "end_offset": ends.latest})

    def _number(self, topic: str, partition: str) -> int:
        """The partition of a path. Raises `TopicNotFound`, `PartitionNotFound`."""
        number = _as_number(partition)
        self._core.topics.select(topic, frozenset({number}))
        return number

    def publish(self, topic: str, partition: str | None = None) -> Response:
        """POST /topics/<topic>, /topics/<topic>/partitions/<partition>: produce records."""
        format_ = produced_format(request.headers.get("Content-Type"), self._core.formats)
        with self._bodies.read(request) as body:
            records = parse_v2(body, format_, InvalidValue)
            if partition is not None:
                number = _as_number(partition)
                if number < 0:
                    self._number(topic, partition)
                records = [_placed(each, number) for each in records]
            outcomes = self._core.publisher.publish(topic, records, self._config.timeout)
        return _produce_response(outcomes)


def _check_accept() -> None:
    """Refuse before anything is done whom no answer would suit."""
    if request.path != "/":
        v2_answer_type(request.accept_mimetypes)


def _as_number(partition: str) -> int:
    """The number in a path, -1 for what is none: no topic has such a partition."""
    is_number = partition.isascii() and partition.isdigit() and len(partition) < 11
    return int(partition) if is_number and int(partition) <= MAX_INT32 else -1


def _placed(record: ProducerRecord, partition: int) -> ProducerRecord:
    return msgspec.structs.replace(record, partition=partition) if record.partition is None else record


def _partition(info: PartitionInfo) -> dict[str, Any]:
    replicas = [
        {"broker": each, "leader": each == info.leader, "in_sync": each in info.in_sync} for each in info.replicas
    ]
    return {"partition": info.partition, "leader": -1 if info.leader is None else info.leader, "replicas": replicas}


def _produce_response(outcomes: Sequence[Outcome]) -> Response:
    """200 though single records failed; what says it of the whole, and `Prefer: strict`, make it an error."""
    failures = [each for each in outcomes if isinstance(each, KafkaHttpError)]
    if (whole := _error_of_all(failures, len(outcomes))) is not None:
        return error_response(whole)
    body = b'{"offsets":[%b],"key_schema_id":null,"value_schema_id":null}' % b",".join(map(_entry, outcomes))
    if not _is_strict():
        return v2_response(body)
    applied = {"Preference-Applied": "strict"}
    if failures and len(failures) == len(outcomes):
        more = {"offsets": msgspec.Raw(b"[%b]" % b",".join(map(_entry, outcomes)))}
        response = error_response(failures[0], **(more if len(failures) > 1 else {}))
        response.headers.update(applied)
        return response
    return v2_response(body, 207 if failures else 200, applied)


def _error_of_all(failures: Sequence[KafkaHttpError], records: int) -> KafkaHttpError | None:
    """What failed the request whole: a refusal of its sender by one record, another by all."""
    refused = next((each for each in failures if isinstance(each, NotAuthorized)), None)
    if refused is None and failures and len(failures) == records:
        kind = type(failures[0])
        if issubclass(kind, _WHOLE) and all(isinstance(each, kind) for each in failures):
            return failures[0]
    return refused


def _entry(outcome: Outcome) -> bytes:
    if not isinstance(outcome, KafkaHttpError):
        return b'{"partition":%d,"offset":%d,"error_code":null,"error":null}' % (outcome.partition, outcome.offset)
    may_pass = outcome.retry_after is not None or isinstance(outcome, OutcomeUnknown)
    code = KAFKA_RETRIABLE_ERROR if may_pass else KAFKA_ERROR
    return msgspec.json.encode({"partition": None, "offset": None, "error_code": code, "error": outcome.message})


def _is_strict() -> bool:
    """Whether the client sends `Prefer: strict` (RFC 7240)."""
    preferences = ",".join(request.headers.getlist("Prefer")).split(",")
    return any(each.partition(";")[0].strip().lower() == "strict" for each in preferences)
