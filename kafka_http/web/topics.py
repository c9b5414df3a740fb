"""Create, change and delete topics: POST /messages, PATCH and DELETE /messages/<topic>."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from flask import Blueprint, Response, request
from msgspec import Meta, Struct, field

from kafka_http.administration import TopicChange, TopicSettings
from kafka_http.broker_protocols import TopicAdmin
from kafka_http.config import Config
from kafka_http.errors import InvalidRequest, InvalidValue, TopicAdminOff
from kafka_http.read.start_positions import FromCommitted, ReadStart, out_of_range
from kafka_http.request_facts import name_topic
from kafka_http.topics import Topics, check_changeable
from kafka_http.web.access_check import request_access
from kafka_http.web.json_bodies import decode
from kafka_http.web.messages.position_syntax import GRAMMAR, parse_start
from kafka_http.web.query_parameters import MAX_INT32, QueryParameters
from kafka_http.web.request_bodies import RequestBodies
from kafka_http.web.request_head import root_path
from kafka_http.web.responses import json_response
from kafka_http.web.services import Services
from kafka_http.web.url_paths import Routes, new_blueprint

MAX_BODY_BYTES = 1 << 20
"""Maximum size of a body, which takes many times as much memory when it is parsed."""
_MAX_NEW_PARTITIONS = 10_000
"""Kafka's limit for a change of a topic. Beyond it, Kafka reports an unknown error."""
_MAX_CONFIG_BYTES = 32_000
"""Kafka's strings have 32,767 bytes at most, also that of an error that quotes a setting.

Kafka closes the connection, or reports an unknown error, if one has more.
"""
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
        _check_lengths(config)
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
        """Parse and check the body.

        Raises `InvalidRequest`, `InvalidValue`, `TopicNotFound`, `PartitionNotFound`, `OffsetOutOfRange`.
        """
        wanted = decode(_topic_patch, self._body())
        if wanted == _TopicPatch():
            raise InvalidRequest("The body changes nothing. Send partitions, config or delete_before.")
        config = {name: None if value is None else _config_text(value) for name, value in wanted.config.items()}
        _check_lengths(config)
        partitions = None if wanted.partitions is None else self._more_partitions(topic, wanted.partitions)
        offsets = {} if wanted.delete_before is None else self._positions(topic, wanted.delete_before)
        return TopicChange(partitions, config, offsets)

    def _more_partitions(self, topic: str, wanted: int) -> int | None:
        """Return the new number of partitions, None if the topic has it already."""
        present = len(self._topics.partitions(topic))
        if wanted < present:
            raise InvalidValue(
                f"Topic {topic} has {present} partitions, and Kafka cannot remove partitions: partitions must be at "
                f"least {present}, got {wanted}. Nothing was done.",
                field="partitions",
                partitions=present,
            )
        if wanted - present > _MAX_NEW_PARTITIONS:
            raise InvalidValue(
                f"Kafka adds {_MAX_NEW_PARTITIONS} partitions at a time: partitions of {topic} must be at most "
                f"{present + _MAX_NEW_PARTITIONS}, got {wanted}. Nothing was done.",
                field="partitions",
                partitions=present,
            )
        return wanted if wanted > present else None

    def _positions(self, topic: str, text: str) -> dict[int, int]:
        """Return the offsets that `delete_before` names. Those that were deleted already are no error."""
        positions = self._resolver.resolve(topic, "", _parse_positions(text))
        ranges = self._topics.offset_ranges(topic, self._topics.select(topic, frozenset(positions)))
        too_high = {p: ranges[p] for p, offset in positions.items() if offset > ranges[p].latest}
        if too_high:
            raise out_of_range(topic, positions, too_high, " Nothing was done.")
        policy = self._topics.configs(topic).get("cleanup.policy", "delete")
        if "delete" not in policy:
            raise InvalidValue(
                f"Kafka deletes no messages of {topic} by offset: its cleanup.policy is {policy}, without delete. "
                "Nothing was done.",
                field="delete_before",
            )
        return positions

    def _body(self) -> bytes:
        request.max_content_length = min(MAX_BODY_BYTES, self._config.max_body_bytes)
        with self._bodies.read(request) as body:
            return body


def _parse_positions(text: str) -> ReadStart:
    try:
        start = parse_start(text)
    except InvalidRequest:
        start = ReadStart(FromCommitted())
    if isinstance(start.rest, FromCommitted):
        grammar = GRAMMAR.replace("committed | ", "")
        raise InvalidRequest(f"delete_before must be one of {grammar}, got {text[:100]!r}.", field="delete_before")
    return start


def _config_text(value: _ConfigValue) -> str:
    """Return a value as Kafka reads it."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _check_lengths(config: Mapping[str, str | None]) -> None:
    """Raise `InvalidValue` if Kafka cannot read a name or a value."""
    for name, value in config.items():
        if (size := max(len(name.encode()), len((value or "").encode()))) > _MAX_CONFIG_BYTES:
            raise InvalidValue(
                f"config: names and values must have at most {_MAX_CONFIG_BYTES} bytes, got {size} for {name[:100]}. "
                "Nothing was done.",
                field="config",
            )


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
