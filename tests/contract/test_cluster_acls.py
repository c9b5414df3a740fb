"""The ACLs of the cluster: the same tests for the fake and for Kafka."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import pytest

from kafka_http.acls import CLUSTER_NAME, Acl
from kafka_http.broker import KafkaBroker
from kafka_http.broker_protocols import Acls, Broker
from kafka_http.errors import BrokerUnavailable, NotAuthorized
from tests.contract.conftest import Cluster
from tests.support.acl_kafka import SERVER, AclKafka, acl_kafka
from tests.support.fake_broker import FakeBroker
from tests.support.polling import wait_for


class AclCluster(Protocol):
    """A cluster with an authorizer."""

    def acls_as(self, user: str) -> Acls:
        """Return the ACLs as a user sees them: `server` may do everything, `alice` what ACLs allow."""

    def replace_acls(self, acls: Iterable[Acl]) -> None: ...


class FakeAclCluster:
    def __init__(self) -> None:
        self._broker = FakeBroker()

    def acls_as(self, user: str) -> Acls:
        describe = Acl(f"User:{user}", "describe", "cluster", CLUSTER_NAME)
        self._broker.hides_acls = user != SERVER and describe not in (self._broker.acl_entries or ())
        return self._broker

    def replace_acls(self, acls: Iterable[Acl]) -> None:
        self._broker.acl_entries = list(acls)


class RealAclCluster:
    def __init__(self, kafka: AclKafka) -> None:
        self.replace_acls = kafka.replace_acls
        self._brokers = {user: KafkaBroker(kafka.config(user)) for user in (SERVER, "alice")}

    def acls_as(self, user: str) -> Acls:
        return self._brokers[user].acls

    def close(self) -> None:
        for each in self._brokers.values():
            each.close(1)


@pytest.fixture(params=["fake", "kafka"])
def acl_cluster(request: pytest.FixtureRequest) -> Iterator[AclCluster]:
    if request.param == "fake":
        yield FakeAclCluster()
        return
    cluster = RealAclCluster(request.getfixturevalue("authorizing_kafka"))
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def authorizing_kafka(kafka_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AclKafka]:
    with acl_kafka(tmp_path_factory.mktemp("acls"), ["alice"]) as kafka:
        yield kafka


def test_acls_of_a_cluster_without_authorizer_are_none(broker: Broker) -> None:
    assert broker.acls.describe_acls() is None


def test_acls_of_an_unreachable_cluster_raise_broker_unavailable(cluster: Cluster) -> None:
    broker = cluster.unreachable()
    with pytest.raises(BrokerUnavailable):
        broker.acls.describe_acls()
    broker.close(0)


def test_acls_have_all_kinds_of_resources_names_and_hosts(acl_cluster: AclCluster) -> None:
    wanted = {
        Acl("User:alice", "read", "topic", "orders"),
        Acl("User:alice", "write", "topic", "orders.", is_prefix=True, host="10.0.0.1"),
        Acl("User:*", "all", "group", "*", is_denied=True),
        Acl("User:Zoë, of *", "describe_configs", "topic", "*"),
        Acl("User:alice", "alter", "cluster", CLUSTER_NAME),
    }
    acl_cluster.replace_acls(wanted)
    acls = acl_cluster.acls_as(SERVER)
    wait_for(lambda: set(acls.describe_acls() or ()) == wanted)
    acl_cluster.replace_acls([])
    wait_for(lambda: acls.describe_acls() == [])


def test_describe_acls_needs_describe_on_the_cluster(acl_cluster: AclCluster) -> None:
    acl_cluster.replace_acls([])
    with pytest.raises(NotAuthorized):
        acl_cluster.acls_as("alice").describe_acls()
    allowed = Acl("User:alice", "describe", "cluster", CLUSTER_NAME)
    acl_cluster.replace_acls([allowed])

    def described() -> list[Acl] | None:
        try:
            return acl_cluster.acls_as("alice").describe_acls()
        except NotAuthorized:
            return None

    assert wait_for(described) == [allowed]
