"""The v2 API's metadata and produce."""

import re
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from kafka_http.config import Config
from kafka_http.records import PartitionInfo
from kafka_http.web.idempotent_publish import IdempotentPublish
from kafka_http.web.negotiation import v2_answer_type
from kafka_http.web.query_parameters import MAX_INT32
from kafka_http.web.request_bodies import RequestBodies, head_of
from kafka_http.web.responses import as_response, v2_response
from kafka_http.web.rest_v2.produce_view import V2Produce
from kafka_http.web.services import Services

_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)


class V2TopicRoutes:
    """The views of topics, partitions and brokers."""

    def __init__(self, core: Services, config: Config, bodies: RequestBodies, once: IdempotentPublish) -> None:
        self._core = core
        self._config = config
        self._bodies = bodies
        self._once = once

    def blueprint(self) -> Blueprint:
        topics = Blueprint("v2_topics", __name__)
        rules: dict[str, dict[str, Callable[..., Response]]] = {
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
        if not _INTEGER.fullmatch(partition):
            self._core.topics.partitions(topic)  # an unknown topic is said first
            raise NotFound
        number = self._number(topic, partition)
        ends = self._core.topics.offset_ranges(topic, [number])[number]
        return v2_response({"beginning_offset": ends.earliest, "end_offset": ends.latest})

    def _number(self, topic: str, partition: str) -> int:
        """The partition of a path. Raises `TopicNotFound`, `PartitionNotFound`."""
        number = as_number(partition)
        self._core.topics.select(topic, frozenset({number}))
        return number

    def publish(self, topic: str, partition: str | None = None) -> Response:
        """POST /topics/<topic>, /topics/<topic>/partitions/<partition>: produce records."""
        number = None if partition is None else as_number(partition)
        head = head_of(request, self._config.base_url)
        produce = V2Produce(head, topic, number, self._core.formats, self._config.timeout)
        if number is not None and number < 0:
            self._number(topic, str(partition))
        with self._bodies.read(request) as body:
            return as_response(self._once.answer(request, produce, body))


def _check_accept() -> None:
    """Refuse before anything is done whom no answer would suit."""
    v2_answer_type(request.headers.get("Accept"))


def as_number(partition: str) -> int:
    """The number in a path, -1 for what is none: no topic has such a partition."""
    is_number = partition.isascii() and partition.isdigit() and len(partition) < 11
    return int(partition) if is_number and int(partition) <= MAX_INT32 else -1


def _partition(info: PartitionInfo) -> dict[str, Any]:
    replicas = [
        {"broker": each, "leader": each == info.leader, "in_sync": each in info.in_sync} for each in info.replicas
    ]
    return {"partition": info.partition, "leader": -1 if info.leader is None else info.leader, "replicas": replicas}
