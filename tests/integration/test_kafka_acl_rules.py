"""The cluster's ACLs as access rules, with a real broker that has an authorizer."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from random import Random
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.errors import AuthorizationError

from kafka_http.acls import CLUSTER_NAME, Acl
from kafka_http.broker import KafkaBroker
from kafka_http.demo.embedded_kafka import create_topics
from kafka_http.security.access import Rights
from kafka_http.security.kafka_acls import AclRules
from kafka_http.security.principal import Principal
from tests.support.acl_kafka import AclKafka, acl_kafka
from tests.support.polling import wait_for

ORACLE_USERS = [f"user{number}" for number in range(12)]
NAMES = ["a", "ab", "abb", "aba", "b", "ba", "bab", "c"]


@pytest.fixture(scope="module")
def kafka(kafka_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AclKafka]:
    with acl_kafka(tmp_path_factory.mktemp("acls"), ORACLE_USERS) as kafka:
        create_topics(kafka.bootstrap_servers, dict.fromkeys(NAMES, 1))
        yield kafka


@pytest.fixture(scope="module")
def broker(kafka: AclKafka) -> Iterator[KafkaBroker]:
    """The cluster as the server sees it, with a group of each name."""
    broker = KafkaBroker(kafka.config())
    for group in NAMES:
        broker.groups.commit(group, "a", {0: 0})
    yield broker
    broker.close(1)


def random_acl(random: Random, user: str) -> Acl:
    resource = random.choices(("topic", "group", "cluster"), (5, 3, 1))[0]
    operations = {
        "topic": ("read", "write", "describe", "all", "delete", "alter", "create", "describe_configs"),
        "group": ("read", "describe", "all", "delete"),
        "cluster": ("alter", "all", "describe", "create"),
    }
    name = CLUSTER_NAME if resource == "cluster" else random.choice([*NAMES, "*"])
    is_prefix = resource != "cluster" and name != "*" and random.random() < 0.4
    host = random.choices(("*", "127.0.0.1", "10.9.9.9"), (6, 2, 2))[0]
    return Acl(user, random.choice(operations[resource]), resource, name, is_prefix, host, random.random() < 0.25)  # type: ignore[arg-type]


def decisions_of_kafka(kafka: AclKafka, user: str) -> dict[str, Any]:
    """Ask the broker, as this user, which operations it may do."""
    with closing(KafkaAdminClient(bootstrap_servers=kafka.sasl_bootstrap_servers, **kafka.login(user))) as admin:
        topics = {each["name"]: each.get("authorized_operations") or () for each in admin.describe_topics(NAMES)}
        groups = {name: _group_operations(admin, name) for name in NAMES}
        cluster = admin.describe_cluster()["authorized_operations"]
    return {
        "publish": [each for each in NAMES if {"WRITE", "DESCRIBE"} <= set(topics[each])],
        "read": [each for each in NAMES if {"READ", "DESCRIBE"} <= set(topics[each])],
        "describe": [each for each in NAMES if "DESCRIBE" in topics[each]],
        "consumer": [each for each in NAMES if {"READ", "DESCRIBE"} <= set(groups[each])],
        "admin": "ALTER" in cluster,
    }


def _group_operations(admin: KafkaAdminClient, group: str) -> list[str]:
    try:
        described: Mapping[str, Any] = admin.describe_groups([group])[group]
    except AuthorizationError:
        return []
    return list(described["authorized_operations"])


def decisions_of(rights: Rights) -> dict[str, Any]:
    return {
        "publish": [each for each in NAMES if rights.allows("publish", each)],
        "read": [each for each in NAMES if rights.allows("read", each)],
        "describe": [each for each in NAMES if rights.may_describe(each)] if not rights.admin else None,
        "consumer": [each for each in NAMES if rights.allows("consumer", each)],
        "admin": rights.admin,
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_random_acls_are_evaluated_as_the_broker_does(kafka: AclKafka, broker: KafkaBroker, seed: int) -> None:
    """The broker tells each user what it may do (KIP-430)."""
    random = Random(seed)
    acls = [random_acl(random, f"User:{user}") for user in ORACLE_USERS for _ in range(6)]
    acls += [random_acl(random, "User:*") for _ in range(2)]
    kafka.replace_acls(acls)
    wait_for(lambda: set(broker.acls.describe_acls() or ()) == set(acls))
    rules = AclRules(broker.acls.describe_acls() or ())
    allowed = 0
    for user in ORACLE_USERS:
        ours, kafkas = (
            decisions_of(rules.rights_of(Principal(user, "key"), "127.0.0.1")),
            decisions_of_kafka(kafka, user),
        )
        if ours["describe"] is None:  # admin may describe every topic here
            ours["describe"] = kafkas["describe"]
        mine = [each for each in acls if each.principal in (f"User:{user}", "User:*")]
        assert ours == kafkas, (user, mine)
        allowed += sum(len(each) for each in kafkas.values() if isinstance(each, list))
    assert allowed > 20
