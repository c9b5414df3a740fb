"""Reads the ACLs of the cluster."""

from typing import Any

from kafka.admin import ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourceType
from kafka.errors import NoError, SecurityDisabledError, for_code
from kafka.protocol.admin import DescribeAclsRequest

from kafka_http.acls import Acl, AclResource
from kafka_http.broker.connections import ConnectionPool, ask_any
from kafka_http.broker.error_map import translate

_RESOURCES: dict[int, AclResource] = {
    ResourceType.TOPIC: "topic",
    ResourceType.GROUP: "group",
    ResourceType.CLUSTER: "cluster",
}
_OPERATIONS = {int(each): each.name.lower() for each in ACLOperation}
_PATTERN_TYPES = (ACLResourcePatternType.LITERAL, ACLResourcePatternType.PREFIXED)


class KafkaAcls:
    """The `Acls` of a Kafka cluster."""

    def __init__(self, connections: ConnectionPool) -> None:
        self._connections = connections

    def describe_acls(self) -> list[Acl] | None:
        # kafka-python's admin client fails on operations that are newer than itself
        request = DescribeAclsRequest(
            min_version=1,  # the first version with prefixes
            resource_type_filter=ResourceType.ANY,
            resource_name_filter=None,
            pattern_type_filter=ACLResourcePatternType.ANY,
            principal_filter=None,
            host_filter=None,
            operation=ACLOperation.ANY,
            permission_type=ACLPermissionType.ANY,
        )
        response = self._connections.run(lambda manager: ask_any(manager, request))
        error = for_code(response.error_code)
        if error is SecurityDisabledError:
            return None
        if error is not NoError:
            raise translate(error, servers=self._connections.servers)
        return [
            _acl(described, each) for described in response.resources if _is_known(described) for each in described.acls
        ]

    def close(self) -> None:
        self._connections.close()


def _is_known(described: Any) -> bool:
    return described.resource_type in _RESOURCES and described.pattern_type in _PATTERN_TYPES


def _acl(described: Any, entry: Any) -> Acl:
    return Acl(
        entry.principal,
        _OPERATIONS.get(entry.operation, "unknown"),
        _RESOURCES[described.resource_type],
        described.resource_name,
        described.pattern_type == ACLResourcePatternType.PREFIXED,
        entry.host,
        entry.permission_type != ACLPermissionType.ALLOW,
    )
