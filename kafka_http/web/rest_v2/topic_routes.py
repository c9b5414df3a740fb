"""The routes of topics, partitions and brokers in the REST Proxy v2 API: `/topics/…` and `/brokers`."""

import re
from typing import Any

from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from kafka_http.config import Config
from kafka_http.records import PartitionInfo
from kafka_http.web.access_check import request_access
from kafka_http.web.idempotent_publish import IdempotentPublish
from kafka_http.web.negotiation import v2_response_type
from kafka_http.web.query_parameters import MAX_INT32
from kafka_http.web.request_bodies import RequestBodies
from kafka_http.web.request_head import RequestHead
from kafka_http.web.responses import flask_response, v2_response
from kafka_http.web.rest_v2.produce_view import V2Produce
from kafka_http.web.services import Services
from kafka_http.web.url_paths import Routes, new_blueprint

_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)


class V2TopicRoutes:
    """The views of topics, partitions and brokers."""

    def __init__(
        self, services: Services, config: Config, bodies: RequestBodies, idempotent_publish: IdempotentPublish
    ) -> None:
        self._topics = services.topics
        self._formats = services.formats
        self._config = config
        self._bodies = bodies
        self._idempotent_publish = idempotent_publish

    def blueprint(self) -> Blueprint:
        routes: Routes = {
            "/brokers": {"GET": self.brokers},
            "/topics": {"GET": self.topics},
            "/topics/<topic>": {"GET": self.describe, "POST": self.produce},
            "/topics/<topic>/partitions": {"GET": self.partitions},
            "/topics/<topic>/partitions/<partition>": {"GET": self.partition, "POST": self.produce},
            "/topics/<topic>/partitions/<partition>/offsets": {"GET": self.offsets},
        }
        topics = new_blueprint("v2_topics", routes)
        topics.before_request(_check_accept)
        return topics

    def brokers(self) -> Response:
        """GET /brokers: return the ids of the brokers in the cluster."""
        return v2_response({"brokers": self._topics.brokers()})

    def topics(self) -> Response:
        """GET /topics: return the names of all topics that may be described."""
        return v2_response(request_access().visible(self._topics.names()))

    def describe(self, topic: str) -> Response:
        """GET /topics/<topic>: return the topic's settings and partitions."""
        partitions = [_describe_partition(each) for each in self._topics.partitions(topic)]
        return v2_response({"name": topic, "configs": self._topics.configs(topic), "partitions": partitions})

    def partitions(self, topic: str) -> Response:
        """GET /topics/<topic>/partitions: return the topic's partitions."""
        return v2_response([_describe_partition(each) for each in self._topics.partitions(topic)])

    def partition(self, topic: str, partition: str) -> Response:
        """GET /topics/<topic>/partitions/<partition>: return one partition."""
        number = self._existing_partition(topic, partition)
        info = next(each for each in self._topics.partitions(topic) if each.partition == number)
        return v2_response(_describe_partition(info))

    def offsets(self, topic: str, partition: str) -> Response:
        """GET /topics/<topic>/partitions/<partition>/offsets: return the first and the next offset."""
        if not _INTEGER.fullmatch(partition):
            self._topics.partitions(topic)  # raises for an unknown topic
            raise NotFound
        number = self._existing_partition(topic, partition)
        ends = self._topics.offset_ranges(topic, [number])[number]
        return v2_response({"beginning_offset": ends.earliest, "end_offset": ends.latest})

    def produce(self, topic: str, partition: str | None = None) -> Response:
        """POST /topics/<topic>, /topics/<topic>/partitions/<partition>: produce records."""
        number = None if partition is None else _partition_number(partition)
        head = RequestHead.from_request(request, self._config.base_url)
        produce = V2Produce(head, topic, number, self._formats, self._config.timeout)
        if number is not None and number < 0:
            self._existing_partition(topic, str(partition))
        with self._bodies.read(request) as body:
            return flask_response(self._idempotent_publish.publish(request, produce, body))

    def _existing_partition(self, topic: str, partition: str) -> int:
        """Return the partition of a path. Raises `TopicNotFound`, `PartitionNotFound`."""
        number = _partition_number(partition)
        self._topics.select(topic, frozenset({number}))
        return number


def _check_accept() -> None:
    """Reject an unsatisfiable Accept header before doing any work."""
    v2_response_type(request.headers.get("Accept"))


def _partition_number(text: str) -> int:
    """Return the number in a path, or -1, which no topic has, if it is not one."""
    is_number = text.isascii() and text.isdigit() and len(text) < 11
    return int(text) if is_number and int(text) <= MAX_INT32 else -1


def _describe_partition(info: PartitionInfo) -> dict[str, Any]:
    replicas = [
        {"broker": each, "leader": each == info.leader, "in_sync": each in info.in_sync} for each in info.replicas
    ]
    return {"partition": info.partition, "leader": -1 if info.leader is None else info.leader, "replicas": replicas}
