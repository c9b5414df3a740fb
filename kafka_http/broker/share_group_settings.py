"""The settings of share groups in Kafka: configs of the resource type GROUP (KIP-848, KIP-932)."""

import logging
from collections.abc import Mapping
from typing import Any

from kafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IncompatibleBrokerVersion,
    InvalidConfigurationError,
    KafkaError,
    NoError,
    for_code,
)
from kafka.net.manager import KafkaConnectionManager
from kafka.protocol.admin import DescribeConfigsRequest, IncrementalAlterConfigsRequest

from kafka_http.broker.connections import ConnectionPool, ask_any
from kafka_http.broker.error_map import translate
from kafka_http.broker.messages import ShareFetchRequest
from kafka_http.errors import QueuesUnsupported
from kafka_http.share_groups import ShareGroupSettings

_log = logging.getLogger(__name__)

_GROUP_RESOURCE = 32
_SET_OPERATION = 0
_SET_ON_GROUP = 8
"""The source of a config that is set on the group itself."""
_NOT_ALLOWED = (ClusterAuthorizationFailedError, GroupAuthorizationFailedError)

_ATTEMPTS = "share.delivery.count.limit"
_LOCK = "share.record.lock.duration.ms"
_WINDOW = "share.partition.max.record.locks"
_DEFAULTS = {_ATTEMPTS: "5", _LOCK: "30000", _WINDOW: "2000"}
_NEW_GROUP = {
    "share.auto.offset.reset": "earliest",
    "share.assignment.interval.ms": "0",  # else the first message takes a second
    _WINDOW: "4000",
}
"""Settings of a new group. The window is the largest that brokers allow by default."""


class ShareGroupConfigs:
    """Reads and changes the settings of share groups. Any thread may call; each call has its own connection."""

    def __init__(self, connections: ConnectionPool) -> None:
        self._connections = connections

    def settings(self, group: str) -> ShareGroupSettings:
        """Return the settings, those of Kafka's defaults that ACLs hide. Raises `QueuesUnsupported`."""
        return _settings({name: value for name, (value, _) in self._describe(group).items()})

    def prepare(self, group: str, attempts: int) -> ShareGroupSettings:
        """Set what is not set on the group, and return the settings. Raises `QueuesUnsupported`."""
        configs = self._describe(group)
        wanted = _NEW_GROUP | {_ATTEMPTS: str(attempts)}
        missing = {name: value for name, value in wanted.items() if configs.get(name, ("", 0))[1] != _SET_ON_GROUP}
        values = {name: value for name, (value, _) in configs.items()}
        try:
            return _settings(values | self._set(group, missing))
        except _NOT_ALLOWED:
            return _settings(values, refused=True)

    def _describe(self, group: str) -> dict[str, tuple[str, int]]:
        """Return the values and the sources of the configs; none if ACLs hide them."""
        resource: Any = DescribeConfigsRequest.DescribeConfigsResource(
            resource_type=_GROUP_RESOURCE, resource_name=group, configuration_keys=None
        )
        response = self._ask(DescribeConfigsRequest(resources=[resource], include_synonyms=False))
        [result] = response.results
        error = for_code(result.error_code)
        if error in _NOT_ALLOWED:
            return {}
        self._check(error)
        return {each.name: (each.value, each.config_source) for each in result.configs}

    def _set(self, group: str, configs: Mapping[str, str]) -> dict[str, str]:
        """Set configs, and return those that Kafka accepted. Raises `_NOT_ALLOWED`."""
        try:
            self._alter(group, configs)
        except InvalidConfigurationError as error:
            if len(configs) > 1:  # refused are all of them: set those that are valid
                return {
                    name: value for each in configs.items() for name, value in self._set(group, dict([each])).items()
                }
            _log.warning("Kafka rejected a setting of the share group %s: %s", group, error.args[0])
            return {}
        return dict(configs)

    def _alter(self, group: str, configs: Mapping[str, str]) -> None:
        if not configs:
            return
        new_resource: Any = IncrementalAlterConfigsRequest.AlterConfigsResource
        changes = [
            new_resource.AlterableConfig(name=name, config_operation=_SET_OPERATION, value=value)
            for name, value in configs.items()
        ]
        resource = new_resource(resource_type=_GROUP_RESOURCE, resource_name=group, configs=changes)
        response = self._ask(IncrementalAlterConfigsRequest(resources=[resource], validate_only=False))
        [result] = response.responses
        error = for_code(result.error_code)
        if error in (*_NOT_ALLOWED, InvalidConfigurationError):
            raise error(result.error_message)
        self._check(error)

    def _ask(self, request: Any) -> Any:
        new_fetch: Any = ShareFetchRequest

        async def ask(manager: KafkaConnectionManager) -> Any:
            response = await ask_any(manager, request)
            for connection in manager._conns.values():
                try:
                    connection.broker_version_data.api_version(new_fetch())
                except IncompatibleBrokerVersion:
                    raise QueuesUnsupported from None
            return response

        return self._connections.run(ask)

    def _check(self, error: type[KafkaError]) -> None:
        if error is not NoError:
            raise translate(error, servers=self._connections.servers)


def _settings(values: Mapping[str, str], *, refused: bool = False) -> ShareGroupSettings:
    known = {**_DEFAULTS, **values}
    return ShareGroupSettings(int(known[_ATTEMPTS]), int(known[_LOCK]) / 1000, int(known[_WINDOW]), refused)
