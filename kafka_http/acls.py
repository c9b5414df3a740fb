"""The ACLs of a Kafka cluster."""

from typing import Literal, NamedTuple

AclResource = Literal["topic", "group", "cluster"]

CLUSTER_NAME = "kafka-cluster"
"""The name of the only resource of the kind `cluster`."""


class Acl(NamedTuple):
    """An ACL: it allows or denies one operation of one principal, from one host or all, on some resources of a kind.

    `principal` has its type: `User:alice`, or `User:*` for all users. `host` is an address, or `*`. `operation` is
    Kafka's name in lower case, such as `read`, `describe_configs` or `all`. `name` is that of the resource, `*` for all
    resources; with `is_prefix`, the beginning of their names.
    """

    principal: str
    operation: str
    resource: AclResource
    name: str
    is_prefix: bool = False
    host: str = "*"
    is_denied: bool = False
