"""Queues on a Kafka with ACLs: what happens without each of the permissions that the manual names."""

from collections.abc import Collection, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import requests
from kafka import KafkaProducer

from kafka_http.acls import Acl
from kafka_http.demo.embedded_kafka import create_topics
from kafka_http.security.api_keys import new_key
from tests.integration.conftest import running
from tests.support.acl_kafka import AclKafka, acl_kafka
from tests.support.queue_load import Queue
from tests.support.server_process import Service

LOGIN = "gateway"
"""The Kafka user that the server of most tests logs in as."""
CLIENTS = {name: new_key() for name in ("worker", "reader", "joiner")}
PERMISSIONS = {
    "topic": ("read", "topic", "jobs"),
    "group": ("read", "group", ""),
    "configs": ("alter_configs", "group", ""),
    "deletion": ("delete", "group", ""),
    "dead letters": ("write", "topic", "dead"),
}
"""Those of the manual: operation, kind of resource, and its name; of the group it is that of the case."""


def acls_without(missing: Collection[str], case: str) -> list[Acl]:
    """Return the ACLs of a queue whose group and topics begin with `case`, but for some permissions."""
    return [
        Acl(f"User:{LOGIN}", operation, resource, f"{case}-{name}".rstrip("-"))  # type: ignore[arg-type]
        for permission, (operation, resource, name) in PERMISSIONS.items()
        if permission not in missing
    ]


CASES = {
    "all": [],
    "no-topic": ["topic"],
    "look": ["topic"],
    "no-group": ["group", "deletion"],
    "no-configs": ["configs"],
    "no-delete": ["deletion"],
    "no-dead": ["dead letters"],
}
"""The missing permissions of each case. Delete includes Describe."""


@pytest.fixture(scope="module")
def kafka_with_acls(kafka_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AclKafka]:
    with acl_kafka(tmp_path_factory.mktemp("acls"), [LOGIN]) as kafka:
        topics = [f"{case}-{name}" for case in CASES for name in ("jobs", "dead")]
        create_topics(kafka.bootstrap_servers, dict.fromkeys([*topics, "a", "dead"], 1))
        acls = [acl for case, missing in CASES.items() for acl in acls_without(missing, case)]
        acls += [Acl(f"User:{LOGIN}", "describe", "topic", each) for each in ("look-jobs", "no-dead-dead")]
        acls += [
            Acl("User:worker", "read", "topic", "a"),
            Acl("User:worker", "read", "group", "workers"),
            Acl("User:reader", "read", "topic", "a"),
            Acl("User:joiner", "read", "group", "workers"),
        ]
        kafka.replace_acls(acls)
        yield kafka


@pytest.fixture(scope="module")
def server(kafka_with_acls: AclKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server with the permissions of `LOGIN`."""
    settings = kafka_with_acls.service_settings(LOGIN)
    directory = tmp_path_factory.mktemp("server")
    with running(Service(directory, kafka_with_acls.sasl_bootstrap_servers, workers=1, **settings)) as service:
        yield service


def queue_of(server: Service, case: str) -> Queue:
    return Queue(server, f"{case}-jobs", case)


def publish(kafka: AclKafka, topic: str, count: int) -> None:
    """Publish as a user who may."""
    with closing(KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)) as producer:
        for each in range(count):
            producer.send(topic, b"%d" % each)


def refused(answer: requests.Response) -> str:
    """Return the message of a response that Kafka's ACLs have caused."""
    assert answer.status_code == 403, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == 40301
    return str(error["message"])


def acquire(queue: Queue, dead: str = "") -> dict[str, Any]:
    query = {"wait": 20, "lock": 600, **({"dead": dead} if dead else {})}
    answer = queue.server.post(queue.path, params=query, timeout=90)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def test_named_permissions_suffice_for_all_calls(kafka_with_acls: AclKafka, server: Service) -> None:
    queue = queue_of(server, "all")
    publish(kafka_with_acls, queue.topic, 2)
    pages = [acquire(queue, "all-dead") for _ in range(2)]
    assert not any("warnings" in each for each in pages)
    [first], [second] = (each["records"] for each in pages)
    assert queue.acknowledge(first).status_code == 200
    assert queue.settle("DELETE", [second], "?reject=true").status_code == 200
    assert queue.state()["attempts"] == 5
    assert server.delete(queue.path).status_code == 204


@pytest.mark.parametrize("case", ["no-topic", "look"])
def test_queue_of_a_topic_that_must_not_be_read_is_a_403(server: Service, case: str) -> None:
    """The server may describe one of the topics."""
    queue = queue_of(server, case)
    assert "permission" in refused(queue.post(wait=1))
    assert "topic" in refused(queue.post(wait=1))


def test_queue_whose_group_must_not_be_read_is_a_403(server: Service) -> None:
    queue = queue_of(server, "no-group")
    for answer in (queue.post(wait=1), server.get(queue.path)):
        assert "consumer group" in refused(answer)


def test_queue_whose_settings_must_not_be_changed_warns_and_starts_at_the_end(
    kafka_with_acls: AclKafka, server: Service
) -> None:
    queue = queue_of(server, "no-configs")
    publish(kafka_with_acls, queue.topic, 1)
    page = queue.post(wait=0).json()
    assert page["records"] == []
    assert "ALTER_CONFIGS" in page["warnings"][0]
    publish(kafka_with_acls, queue.topic, 1)
    [record] = acquire(queue)["records"]
    assert record["offset"] == 1
    assert queue.acknowledge(record).status_code == 200
    assert queue.state()["attempts"] == 4


def test_queue_whose_group_must_not_be_deleted_stays(kafka_with_acls: AclKafka, server: Service) -> None:
    queue = queue_of(server, "no-delete")
    publish(kafka_with_acls, queue.topic, 2)
    [record] = acquire(queue)["records"]
    assert queue.acknowledge(record).status_code == 200
    assert "consumer group" in refused(server.delete(queue.path))
    [record] = acquire(queue)["records"]
    assert record["offset"] == 1


def test_message_stays_locked_while_its_dead_letter_is_forbidden(kafka_with_acls: AclKafka, server: Service) -> None:
    queue = queue_of(server, "no-dead")
    publish(kafka_with_acls, queue.topic, 1)
    [record] = acquire(queue, "no-dead-dead")["records"]
    answer = queue.settle("DELETE", [record], "?reject=true")
    [entry] = answer.json()["leases"]
    assert answer.status_code == 503
    assert "no-dead-dead" in entry["error"]["message"]
    assert "permission" in entry["error"]["message"]
    assert queue.state()["partitions"][0]["lag"] == 1


# The ACLs as the rules for clients of a server that may do everything


@pytest.fixture(scope="module")
def server_with_rules(kafka_with_acls: AclKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory: Path = tmp_path_factory.mktemp("rules")
    keys = directory / "keys.toml"
    lines = (f'[{name}]\nsha256 = "{sha256(key.encode()).hexdigest()}"\n' for name, key in CLIENTS.items())
    keys.write_text("".join(lines))
    settings = {**kafka_with_acls.service_settings(), "auth__keys": str(keys), "access_rules": "kafka", "workers": 1}
    with running(Service(directory, kafka_with_acls.sasl_bootstrap_servers, **settings)) as service:
        yield service


def test_clients_need_the_acls_to_read_the_topic_and_the_group(
    kafka_with_acls: AclKafka, server_with_rules: Service
) -> None:
    publish(kafka_with_acls, "a", 1)
    path = "/messages/a/workers/queue"

    def call(client: str, method: str, path: str) -> requests.Response:
        return server_with_rules.request(method, path, headers={"X-Api-Key": CLIENTS[client]}, timeout=90)

    [record] = call("worker", "POST", f"{path}?wait=20&lock=600").json()["records"]
    lease = f"{path}/{record['lease']}"
    calls = [("POST", path), ("GET", path), ("DELETE", lease), ("PUT", f"{lease}?lock=0"), ("DELETE", path)]
    for method, each in calls:
        answer = call("reader", method, each)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, 40302), answer.text
        assert "workers" in answer.json()["error"]["message"]
        assert call("joiner", method, each).status_code == 404, "a topic that a client must not see does not exist"
    forbidden = call("worker", "POST", f"{path}?dead=dead")
    assert forbidden.status_code == 404, forbidden.text
    assert call("worker", "DELETE", lease).status_code == 200
    assert call("worker", "GET", path).json()["partitions"][0]["lag"] == 0
    assert call("worker", "DELETE", path).status_code == 204
