"""Create, change and delete topics: POST /messages, PATCH and DELETE /messages/<topic>."""

from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from flask import Blueprint, Response, request
from msgspec import Meta, Struct, field

from kafka_http.administration import TopicChange, TopicSettings
from kafka_http.broker_protocols import TopicAdmin
from kafka_http.config import Config
from kafka_http.errors import InvalidRequest, TopicAdminOff
from kafka_http.read.start_positions import FromCommitted
from kafka_http.request_facts import name_topic
from kafka_http.topics import Topics, check_changeable
from kafka_http.web.access_check import request_access
from kafka_http.web.json_bodies import decode
from kafka_http.web.messages.position_syntax import parse_start
from kafka_http.web.query_parameters import MAX_INT32, QueryParameters
from kafka_http.web.request_bodies import RequestBodies
from kafka_http.web.request_head import root_path
from kafka_http.web.responses import json_response
from kafka_http.web.services import Services
from kafka_http.web.url_paths import Routes, new_blueprint

MAX_BODY_BYTES = 1 << 20
"""Maximum size of a body, which takes many times as much memory when it is parsed."""
_Count = Annotated[int, Meta(ge=1, le=MAX_INT32)]
_ConfigValue = str | bool | int | float


class _NewTopic(Struct, frozen=True, forbid_unknown_fields=True):
    topic: str
    partitions: _Count | None = None
    replication_factor: Annotated[int, Meta(ge=1, le=32767)] | None = None
    config: dict[str, _ConfigValue] = field(default_factory=dict)


class _TopicPatch(Struct, frozen=True, forbid_unknown_fields=True):
    partitions: _Count | None = None
    config: dict[str, _ConfigValue | None] = field(default_factory=dict)
    delete_before: str | None = None


_new_topic = msgspec.json.Decoder(_NewTopic)
_topic_patch = msgspec.json.Decoder(_TopicPatch)


class TopicRoutes:
    """The views that change topics. They need the right `admin`, or `topic_admin` if authentication is off."""

    def __init__(self, services: Services, admin: TopicAdmin, config: Config, bodies: RequestBodies) -> None:
        self._topics = services.topics
        self._resolver = services.resolver
        self._admin = admin
        self._config = config
        self._bodies = bodies

    def blueprint(self) -> Blueprint:
        routes: Routes = {"": {"POST": self.create}, "/<topic>": {"PATCH": self.change, "DELETE": self.delete}}
        topics = new_blueprint("topics", routes, prefix="/messages")
        topics.before_request(self._check_allowed)
        return topics

    def _check_allowed(self) -> None:
        """Check `topic_admin`. With authentication, the access check has checked the right `admin`."""
        if request_access().is_unrestricted and not self._config.topic_admin:
            raise TopicAdminOff

    def create(self) -> Response:
        """POST /messages: create a topic."""
        QueryParameters(request.args, ())
        wanted = decode(_new_topic, self._body())
        check_changeable(wanted.topic)
        name_topic(wanted.topic)
        config = {name: _config_text(value) for name, value in wanted.config.items()}
        self._admin.create(wanted.topic, TopicSettings(wanted.partitions, wanted.replication_factor, config))
        location = f"{root_path(request, self._config.base_url)}/messages/{quote(wanted.topic)}"
        return json_response(topic_object(self._topics, wanted.topic), 201, {"Location": location})

    def change(self, topic: str) -> Response:
        """PATCH /messages/<topic>: add partitions, change settings, delete old messages."""
        QueryParameters(request.args, ())
        check_changeable(topic)
        self._admin.change(topic, self._parse_change(topic))
        return json_response(topic_object(self._topics, topic))

    def delete(self, topic: str) -> Response:
        """DELETE /messages/<topic>: delete the topic and all its messages."""
        QueryParameters(request.args, ())
        check_changeable(topic)
        self._admin.delete(topic)
        return Response(status=204)

    def _parse_change(self, topic: str) -> TopicChange:
        wanted = decode(_topic_patch, self._body())
        config = {name: None if value is None else _config_text(value) for name, value in wanted.config.items()}
        offsets = {} if wanted.delete_before is None else self._positions(topic, wanted.delete_before)
        if wanted.partitions is None and not config and not offsets:
            raise InvalidRequest("The body changes nothing. Send partitions, config or delete_before.")
        return TopicChange(wanted.partitions, config, offsets)

    def _positions(self, topic: str, text: str) -> dict[int, int]:
        """Resolve `delete_before`. Raises `InvalidRequest`, `PartitionNotFound`, `OffsetOutOfRange`."""
        start = parse_start(text)
        if isinstance(start.rest, FromCommitted):
            raise InvalidRequest("delete_before cannot be committed: it names no consumer.", field="delete_before")
        positions = self._resolver.resolve(topic, "", start)
        self._topics.select(topic, frozenset(positions))
        self._resolver.check_range(topic, positions)
        return positions

    def _body(self) -> bytes:
        request.max_content_length = min(MAX_BODY_BYTES, self._config.max_body_bytes)
        with self._bodies.read(request) as body:
            return body


def _config_text(value: _ConfigValue) -> str:
    """Return a value as Kafka reads it."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def topic_object(topics: Topics, topic: str) -> dict[str, Any]:
    """Return the JSON form of a topic: its partitions, and the settings of its own if ACLs do not hide them.

    Raises `InvalidRequest`, `TopicNotFound`.
    """
    partitions = topics.partitions(topic)
    ends = topics.offset_ranges(topic, [each.partition for each in partitions])
    config = topics.own_config(topic)
    listed = [
        {
            "partition": each.partition,
            **ends[each.partition]._asdict(),
            "leader": each.leader,
            "replicas": each.replicas,
        }
        for each in partitions
    ]
    return {"topic": topic, "partitions": listed, **({} if config is None else {"config": config})}
