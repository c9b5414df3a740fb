"""A Kafka with an authorizer, users with SASL/PLAIN, and ACLs that tests replace."""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)

from kafka_http.acls import Acl
from kafka_http.config import Config
from kafka_http.demo.broker_properties import BrokerNode
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.local_resources import free_ports

SERVER = "server"
"""A user who may do everything, for the server under test. Users without ACLs may do nothing."""
_EVERY_ACL = ACLFilter(
    None,
    None,
    ACLOperation.ANY,
    ACLPermissionType.ANY,
    ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY),
)


class AclKafka(EmbeddedKafka):
    """A broker on which ACLs apply to `SERVER` and `users`. The listener without a login may do everything."""

    def __init__(self, directory: Path, users: Iterable[str]) -> None:
        ports = free_ports(3)
        node = BrokerNode(
            directory / "kafka",
            ports[0],
            ports[1],
            sasl_port=ports[2],
            users={name: password_of(name) for name in (SERVER, *users)},
            authorizes=True,
            properties={"super.users": f"User:ANONYMOUS;User:{SERVER}"},
        )
        super().__init__(node)

    def replace_acls(self, acls: Iterable[Acl]) -> None:
        """Replace all ACLs by these."""
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)) as admin:
            admin.delete_acls([_EVERY_ACL])
            created = admin.create_acls([_binding(each) for each in acls])
            assert not created["failed"], created

    def login(self, user: str) -> dict[str, str]:
        """Return kafka-python's settings for a user."""
        return {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": user,
            "sasl_plain_password": password_of(user),
        }

    def config(self, user: str = SERVER) -> Config:
        """Return the settings of a server that logs in as a user."""
        return Config(bootstrap_servers=(self.sasl_bootstrap_servers,), kafka=self.login(user))

    def service_settings(self, user: str = SERVER) -> dict[str, Any]:
        """Return the settings of a server that logs in as a user, as `Service` takes them."""
        return {f"kafka__{name}": value for name, value in self.login(user).items()}


def password_of(user: str) -> str:
    return f"{user}secret1"


def _binding(acl: Acl) -> ACL:
    kind = ACLResourcePatternType.PREFIXED if acl.is_prefix else ACLResourcePatternType.LITERAL
    return ACL(
        acl.principal,
        acl.host,
        ACLOperation[acl.operation.upper()],
        ACLPermissionType.DENY if acl.is_denied else ACLPermissionType.ALLOW,
        ResourcePattern(ResourceType[acl.resource.upper()], acl.name, kind),
    )


@contextmanager
def acl_kafka(directory: Path, users: Iterable[str]) -> Iterator[AclKafka]:
    """Run an `AclKafka`."""
    kafka = AclKafka(directory, users)
    kafka.start()
    try:
        yield kafka
    finally:
        kafka.stop()
