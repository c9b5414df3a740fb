"""The cluster's ACLs as access rules, with a real broker that has an authorizer."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.errors import AuthorizationError

from kafka_http.acls import CLUSTER_NAME, Acl
from kafka_http.broker import KafkaBroker
from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from kafka_http.demo.local_resources import free_ports
from kafka_http.security.access import Rights
from kafka_http.security.acl_cache import REFRESH_SECONDS
from kafka_http.security.api_keys import new_key
from kafka_http.security.kafka_acls import AclRules
from kafka_http.security.principal import Principal
from tests.integration.conftest import ServiceFactory
from tests.support.acl_kafka import AclKafka, acl_kafka, password_of
from tests.support.polling import wait_for
from tests.support.server_process import Service

ORACLE_USERS = [f"user{number}" for number in range(12)]
KEYS = {"user0": new_key(), "user1": new_key()}
NAMES = ["a", "ab", "abb", "aba", "b", "ba", "bab", "c"]


@pytest.fixture(scope="module")
def authorizing(kafka_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AclKafka]:
    with acl_kafka(tmp_path_factory.mktemp("acls"), ORACLE_USERS) as kafka:
        create_topics(kafka.bootstrap_servers, dict.fromkeys(NAMES, 1))
        yield kafka


@pytest.fixture(scope="module")
def broker(authorizing: AclKafka) -> Iterator[KafkaBroker]:
    """The cluster as the server sees it, with a group of each name."""
    broker = KafkaBroker(authorizing.config())
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


def decisions_of_kafka(authorizing: AclKafka, user: str) -> dict[str, Any]:
    """Ask the broker, as this user, which operations it may do."""
    with closing(
        KafkaAdminClient(bootstrap_servers=authorizing.sasl_bootstrap_servers, **authorizing.login(user))
    ) as admin:
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
def test_random_acls_are_evaluated_as_the_broker_does(authorizing: AclKafka, broker: KafkaBroker, seed: int) -> None:
    """The broker tells each user what it may do (KIP-430)."""
    random = Random(seed)
    acls = [random_acl(random, f"User:{user}") for user in ORACLE_USERS for _ in range(6)]
    acls += [random_acl(random, "User:*") for _ in range(2)]
    authorizing.replace_acls(acls)
    wait_for(lambda: set(broker.acls.describe_acls() or ()) == set(acls))
    rules = AclRules(broker.acls.describe_acls() or ())
    allowed = 0
    for user in ORACLE_USERS:
        ours, kafkas = (
            decisions_of(rules.rights_of(Principal(user, "key"), "127.0.0.1")),
            decisions_of_kafka(authorizing, user),
        )
        if ours["describe"] is None:  # admin may describe every topic here
            ours["describe"] = kafkas["describe"]
        mine = [each for each in acls if each.principal in (f"User:{user}", "User:*")]
        assert ours == kafkas, (user, mine)
        allowed += sum(len(each) for each in kafkas.values() if isinstance(each, list))
    assert allowed > 20


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """The settings for a server with the keys of user0 and user1, and whose rules are the ACLs."""
    file = tmp_path / "keys.toml"
    file.write_text("".join(f'[{name}]\nsha256 = "{sha256(key.encode()).hexdigest()}"\n' for name, key in KEYS.items()))
    return {"auth__keys": str(file), "access_rules": "kafka"}


def send(service: Service, topic: str, user: str) -> int:
    return service.put(f"/messages/{topic}", b"x", headers={"X-Api-Key": KEYS[user]}).status_code


def test_server_decides_by_acls_from_its_first_request_on(
    authorizing: AclKafka, start_service: ServiceFactory, keys: dict[str, str]
) -> None:
    authorizing.replace_acls(
        [
            Acl("User:user0", "write", "topic", "a", is_prefix=True),
            Acl("User:*", "write", "topic", "abb", is_denied=True),
            Acl("User:user1", "read", "topic", "a", host="127.0.0.1"),
            Acl("User:user1", "read", "topic", "b", host="10.9.9.9"),
        ]
    )
    service = start_service(authorizing.sasl_bootstrap_servers, **authorizing.service_settings(), **keys)
    assert [send(service, name, "user0") for name in ("a", "ab", "abb", "b")] == [200, 200, 403, 404]
    assert [send(service, name, "user1") for name in ("a", "b")] == [403, 404]
    headers = {"X-Api-Key": KEYS["user1"]}
    assert service.get("/messages/a/c/earliest", headers=headers).json()["records"][0]["value"] == "x"
    assert service.get("/messages/b/c/earliest", headers=headers).status_code == 404
    assert service.put("/messages/a", b"x").status_code == 401


@pytest.mark.slow
def test_changed_acls_take_effect_at_the_next_refresh(
    authorizing: AclKafka, start_service: ServiceFactory, keys: dict[str, str]
) -> None:
    authorizing.replace_acls([Acl("User:user0", "write", "topic", "a")])
    assert REFRESH_SECONDS == 30
    constants = {"kafka_http.security.acl_cache.REFRESH_SECONDS": 3.0}
    settings = {**authorizing.service_settings(), **keys, "workers": 1, "constants": constants}
    service = start_service(authorizing.sasl_bootstrap_servers, **settings)
    assert [send(service, name, "user0") for name in ("a", "b")] == [200, 404]
    authorizing.replace_acls([Acl("User:user0", "write", "topic", "b")])
    wait_for(lambda: [send(service, name, "user0") for name in ("a", "b")] == [404, 200], 20)


def serve_with(bootstrap_servers: str, tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a server that should not start."""
    given = {"bootstrap_servers": bootstrap_servers, "bind": "127.0.0.1:0", "data_dir": str(tmp_path), **settings}
    environment = os.environ | {f"KAFKA_HTTP_{name.upper()}": value for name, value in given.items()}
    command = [sys.executable, "-m", "kafka_http", "serve"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_server_that_may_not_describe_acls_does_not_start(
    authorizing: AclKafka, tmp_path: Path, keys: dict[str, str]
) -> None:
    login = authorizing.service_settings("user0")
    ended = serve_with(authorizing.sasl_bootstrap_servers, tmp_path, **login, **keys)
    assert ended.returncode == 2
    assert "allow this server's principal Describe on the cluster" in ended.stderr
    assert password_of("user0") not in ended.stderr


def test_cluster_without_authorizer_stops_the_start(kafka: EmbeddedKafka, tmp_path: Path, keys: dict[str, str]) -> None:
    ended = serve_with(kafka.bootstrap_servers, tmp_path, **keys)
    assert ended.returncode == 2
    assert 'access_rules = "kafka" needs a cluster with an authorizer' in ended.stderr


def test_server_starts_without_kafka_and_returns_503_until_the_acls_are_known(
    tmp_path: Path, start_service: ServiceFactory, keys: dict[str, str]
) -> None:
    service = start_service(f"127.0.0.1:{free_ports(1)[0]}", **keys)
    assert "The cluster's ACLs cannot be read" in service.log
    answer = service.put("/messages/a", b"x", headers={"X-Api-Key": KEYS["user0"]})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert service.put("/messages/a", b"x").status_code == 401
