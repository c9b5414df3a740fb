"""Requests that create, change and delete topics."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kafka.admin import ConfigResourceType
from kafka.errors import (
    KafkaError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)
from kafka.protocol.admin import (
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    IncrementalAlterConfigsRequest,
)

from kafka_http.administration import TopicChange, TopicSettings
from kafka_http.backoff import Backoff
from kafka_http.broker.connections import ConnectionPool
from kafka_http.broker.controller_call import CONTROLLER_MS, ControllerCall, Results
from kafka_http.broker.leader_requests import LeaderRequests
from kafka_http.broker.topic_metadata import TopicMetadata, metadata_request
from kafka_http.errors import KafkaHttpError, OffsetOutOfRange
from kafka_http.records import PartitionOffsets, TopicPartition

_READY_TIMEOUT = 5.0
"""Seconds to wait until all brokers know of a change."""
_SET, _DELETE = 0, 1
"""Operations of IncrementalAlterConfigs."""
_NewConfig = CreateTopicsRequest.CreatableTopic.CreatableTopicConfig
_ChangedConfigs = IncrementalAlterConfigsRequest.AlterConfigsResource
_OldRecords = DeleteRecordsRequest.DeleteRecordsTopic

IsDone = Callable[[Any], bool]
"""Whether a broker knows of a change, by its description of the topic."""


class KafkaTopicAdmin:
    """The `TopicAdmin` of a Kafka cluster. Any thread may call."""

    def __init__(self, connections: ConnectionPool, metadata: TopicMetadata) -> None:
        self._connections = connections
        self._metadata = metadata
        self._leaders = LeaderRequests(connections, metadata, _READY_TIMEOUT)

    def create(self, topic: str, settings: TopicSettings) -> None:
        new = CreateTopicsRequest.CreatableTopic(
            name=topic,
            num_partitions=settings.partitions or -1,
            replication_factor=settings.replication_factor or -1,
            assignments=[],
            configs=[_NewConfig(name=name, value=value) for name, value in settings.config.items()],
        )
        request = CreateTopicsRequest(topics=[new], timeout_ms=CONTROLLER_MS, validate_only=False)
        self._call(topic, request, lambda response: response.topics, TopicAlreadyExistsError)
        self._wait_until(topic, _has_leaders)

    def change(self, topic: str, change: TopicChange) -> None:
        self._alter(topic, change, validate_only=True)
        if change.delete_before:  # before a new cleanup.policy, with which Kafka may delete no records
            self._delete_records(topic, change.delete_before)
        self._alter(topic, change, validate_only=False)

    def delete(self, topic: str) -> None:
        named = DeleteTopicsRequest.DeleteTopicState(name=topic)
        request = DeleteTopicsRequest(topics=[named], topic_names=[topic], timeout_ms=CONTROLLER_MS)
        self._call(topic, request, lambda response: response.responses, UnknownTopicOrPartitionError)
        self._wait_until(topic, lambda described: described.error_code == UnknownTopicOrPartitionError.errno)

    def _alter(self, topic: str, change: TopicChange, *, validate_only: bool) -> None:
        if change.config:
            request = _alter_request(topic, change.config, validate_only=validate_only)
            self._call(topic, request, lambda response: response.responses)
        if change.partitions is not None:
            self._add_partitions(topic, change.partitions, validate_only=validate_only)

    def _add_partitions(self, topic: str, count: int, *, validate_only: bool) -> None:
        wanted = CreatePartitionsRequest.CreatePartitionsTopic(name=topic, count=count, assignments=None)
        request = CreatePartitionsRequest(topics=[wanted], timeout_ms=CONTROLLER_MS, validate_only=validate_only)
        self._call(topic, request, lambda response: response.results)
        if not validate_only:
            self._wait_until(topic, lambda described: len(described.partitions) >= count and _has_leaders(described))

    def _delete_records(self, topic: str, offsets: PartitionOffsets) -> None:
        def request(partitions: Sequence[TopicPartition], _: float) -> DeleteRecordsRequest:
            listed = [
                _OldRecords.DeleteRecordsPartition(partition_index=each.partition, offset=offsets[each.partition])
                for each in partitions
            ]
            old = _OldRecords(name=topic, partitions=listed)
            return DeleteRecordsRequest(topics=[old], timeout_ms=int(_READY_TIMEOUT * 1000))

        responses = self._leaders.ask([TopicPartition(topic, each) for each in offsets], request, _deleted_partitions)
        for tp, response in responses.items():
            if for_code(response.error_code) is OffsetOutOfRangeError:
                raise OffsetOutOfRange(f"{topic} has no offset {offsets[tp.partition]} in partition {tp.partition}.")

    def _call(self, topic: str, request: Any, results: Results, done_already: type[KafkaError] | None = None) -> None:
        ControllerCall(self._connections, topic, request, results).run(done_already)

    def _wait_until(self, topic: str, is_done: IsDone) -> None:
        """Wait until all live brokers know of a change, for `_READY_TIMEOUT` at most. Forget what is cached."""
        deadline, backoff = time.monotonic() + _READY_TIMEOUT, Backoff(0.01, 0.2)
        while time.monotonic() < deadline and not self._is_done(topic, is_done):
            time.sleep(backoff.next())
        self._metadata.remove(topic)

    def _is_done(self, topic: str, is_done: IsDone) -> bool:
        try:
            nodes = self._metadata.brokers()
            requests = {each: metadata_request([topic]) for each in nodes}
            responses = self._connections.ask_nodes(requests, _READY_TIMEOUT)
        except KafkaHttpError:  # a broker is just stopping
            return False
        return all(is_done(response.topics[0]) for response in responses)


def _alter_request(
    topic: str, config: Mapping[str, str | None], *, validate_only: bool
) -> IncrementalAlterConfigsRequest:
    entries = [
        _ChangedConfigs.AlterableConfig(name=name, config_operation=_DELETE if value is None else _SET, value=value)
        for name, value in config.items()
    ]
    resource = _ChangedConfigs(resource_type=ConfigResourceType.TOPIC, resource_name=topic, configs=entries)
    return IncrementalAlterConfigsRequest(resources=[resource], validate_only=validate_only)


def _has_leaders(described: Any) -> bool:
    return not described.error_code and all(each.leader_id >= 0 for each in described.partitions)


def _deleted_partitions(response: Any) -> Iterator[tuple[TopicPartition, Any]]:
    for topic in response.topics:
        for each in topic.partitions:
            yield TopicPartition(topic.name, each.partition_index), each
