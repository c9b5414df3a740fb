"""The ACLs of the cluster: the same tests for the fake and for Kafka."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Protocol

import pytest

from kafka_http.acls import CLUSTER_NAME, Acl
from kafka_http.administration import TopicChange, TopicSettings
from kafka_http.broker import KafkaBroker
from kafka_http.broker_protocols import Acls, Broker
from kafka_http.errors import BrokerUnavailable, NotAuthorized, TopicExists, TopicNotFound
from kafka_http.records import PartitionInfo
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


# What Kafka's ACLs do not allow this server


@pytest.fixture
def alice(authorizing_kafka: AclKafka) -> Iterator[Broker]:
    """A server that logs in as alice. She may describe the topic `seen` and the group `clerks`, and read `clerks`."""
    alice, server = KafkaBroker(authorizing_kafka.config("alice")), KafkaBroker(authorizing_kafka.config())
    authorizing_kafka.replace_acls(
        [Acl("User:alice", "describe", "topic", "seen"), Acl("User:alice", "read", "group", "clerks")]
    )
    with suppress(TopicExists):
        server.topic_admin.create("seen", TopicSettings(config={"retention.ms": "1"}))
    for group in ("clerks", "others"):
        server.groups.commit(group, "seen", {0: 0})
    wait_for(lambda: partitions_or_none(alice, "seen"))
    yield alice
    for each in (alice, server):
        each.close(1)


def partitions_or_none(broker: Broker, topic: str) -> list[PartitionInfo] | None:
    try:
        return broker.log.partitions(topic)
    except (NotAuthorized, TopicNotFound):
        return None


def test_administration_that_acls_do_not_allow_raises_not_authorized(alice: Broker) -> None:
    admin = alice.topic_admin
    for call in (
        lambda: admin.create("new", TopicSettings()),
        lambda: admin.change("seen", TopicChange(3)),
        lambda: admin.change("seen", TopicChange(config={"retention.ms": None})),
        lambda: admin.change("seen", TopicChange(delete_before={0: 0})),
        lambda: admin.delete("seen"),
        lambda: alice.groups.describe_groups(["others"]),
        lambda: alice.groups.delete_group("clerks"),
    ):
        with pytest.raises(NotAuthorized, match="AuthorizationFailed"):
            call()


def test_settings_that_acls_hide_are_none(alice: Broker) -> None:
    assert alice.log.own_config("seen") is None
    assert alice.log.configs("seen") == {}


def test_groups_that_acls_hide_are_not_listed(alice: Broker) -> None:
    wait_for(lambda: [each.group for each in alice.groups.list_groups()] == ["clerks"])
    assert [each.group for each in alice.groups.describe_groups(["clerks"])] == ["clerks"]
