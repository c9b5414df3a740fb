"""Two nodes with authentication, access rules and TLS in both directions: forwarded calls keep their principal."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import ExitStack, closing
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.node.store import StoredNodes, open_database
from kafka_http.security.forwarded_calls import NODE_HEADER, PRINCIPAL_HEADER
from tests.conftest import TopicFactory
from tests.integration.conftest import running
from tests.support.certificates import Authority
from tests.support.planted_secrets import plant
from tests.support.polling import wait_for
from tests.support.postgresql import PostgreSQL
from tests.support.server_process import Service
from tests.support.v2_client import JSON_TYPE

KEYS = {name: f"kh_{name}_{uuid4().hex}" for name in ("alice", "bob", "root")}
V2 = {"Content-Type": JSON_TYPE, "Accept": JSON_TYPE}


class TlsNode(Service):
    """A node that serves HTTPS only, to clients with a certificate. `call` sends a request with a principal's key."""

    def __init__(self, directory: Path, bootstrap_servers: str, authority: Authority, **settings: Any) -> None:
        directory.mkdir()
        trusted = dict.fromkeys(("tls_client_ca", "node_tls_ca"), str(authority.file))
        given = {**trusted, "tls_client_required": True, **settings}
        super().__init__(directory, bootstrap_servers, authority, authority.client("client"), **given)
        self._environment["KAFKA_HTTP_NODE_URL"] = self.url

    def call(self, who: str | None, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        key = {"X-Api-Key": KEYS[who]} if who else {}
        data = body if isinstance(body, bytes | None) else json.dumps(body)
        return self.request(method, path, data=data, headers={**V2, **key, **headers})


Nodes = tuple[TlsNode, TlsNode]


@pytest.fixture
def store_url(postgresql: PostgreSQL) -> str:
    return postgresql.database(f"secured_{uuid4().hex}")


@pytest.fixture
def topics(topic: TopicFactory) -> tuple[str, str]:
    """A topic that alice may read, and one that only root may."""
    return topic(), topic()


@pytest.fixture
def nodes(kafka: EmbeddedKafka, store_url: str, topics: tuple[str, str], tmp_path: Path) -> Iterator[Nodes]:
    keys, config = tmp_path / "keys.toml", tmp_path / "kafka_http.toml"
    keys.write_text("".join(f'[{name}]\nsha256 = "{sha256(key.encode()).hexdigest()}"\n' for name, key in KEYS.items()))
    rights = f'publish = ["{topics[0]}"]\nread = ["{topics[0]}"]\nconsumer = ["*"]\n'
    config.write_text(
        f'[auth]\nkeys = "{keys}"\n[access.alice]\n{rights}[access.bob]\n{rights}'
        '[access.root]\npublish = ["*"]\nread = ["*"]\nconsumer = ["*"]\nadmin = true\n'
    )
    authority = Authority(tmp_path)
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(
                running(
                    TlsNode(
                        *(tmp_path / f"node-{number}", kafka.bootstrap_servers, authority),
                        config=config,
                        store_url=store_url,
                    )
                )
            )
            for number in range(2)
        )
        yield first, second


def test_instance_of_a_principal_is_reached_through_each_node_by_nobody_else(
    nodes: Nodes, topics: tuple[str, str], store_url: str, tmp_path: Path
) -> None:
    home, away = nodes
    path = f"/consumers/g-{uuid4().hex[:8]}"
    instance = f"{path}/instances/i"
    assert home.call("alice", "POST", path, {"name": "i", "format": "json"}).status_code == 200

    for node in nodes:
        assert node.call("bob", "GET", f"{instance}/subscription").status_code == 404
        assert node.call(None, "GET", f"{instance}/subscription").status_code == 401
        assert node.call("alice", "POST", f"{instance}/subscription", {"topics": [topics[1]]}).status_code == 404
        assert node.call("bob", "GET", "/instances", Accept="*/*").json() == {"instances": []}
        (listed,) = node.call("alice", "GET", "/instances", Accept="*/*").json()["instances"]
        assert (listed["name"], listed["owner"]) == ("i", "alice")

    # A pattern finds only what the principal may read, also when another node holds the instance
    assert away.call("alice", "POST", f"{instance}/subscription", {"topic_pattern": ".*"}).status_code == 204
    for each in topics:
        answer = home.call("root", "POST", f"/topics/{each}", {"records": [{"value": each}]})
        assert answer.status_code == 200, answer.text

    def page() -> list[str]:
        answer = away.call("alice", "GET", f"{instance}/records?timeout=2000")
        assert answer.status_code == 200, answer.text
        return [each["value"] for each in answer.json()]

    assert wait_for(page, 20) == [topics[0]]
    assert away.call("root", "GET", f"{instance}/subscription").json() == {"topics": [topics[0]]}

    forged = {PRINCIPAL_HEADER: urlsafe_b64encode(b'{"name":"root","scheme":"key"}').decode()}
    with closing(open_database(tmp_path, store_url)) as database:
        secret = plant(StoredNodes(database, "test", "").secret())
    for each in ("", "1", secret[:-1]):
        refused = home.call(None, "GET", f"{instance}/subscription", **forged, **{NODE_HEADER: each})
        assert refused.status_code == 401
    accepted = home.call(None, "GET", f"{instance}/subscription", **forged, **{NODE_HEADER: secret})
    assert accepted.status_code == 200
    assert away.call("alice", "DELETE", instance).status_code == 204


@pytest.mark.slow
def test_tasks_and_keys_of_a_principal_are_the_same_on_each_node(nodes: Nodes, topics: tuple[str, str]) -> None:
    home, away = nodes
    publish = f"/messages/{topics[0]}"
    accepted = home.call("alice", "PUT", publish, b"1", Prefer="respond-async", Accept="*/*")
    task = accepted.headers["Location"]
    for node in nodes:
        assert node.call("bob", "GET", f"{task}?wait=10", Accept="*/*").status_code == 404
        found = node.call("alice", "GET", f"{task}?wait=10", Accept="*/*").json()["task"]
        assert (found["status"], found["owner"]) == ("delivered", "alice")

    def keyed(node: TlsNode, who: str) -> tuple[int, bool]:
        answer = node.call(who, "PUT", publish, b"2", Accept="*/*", **{"Idempotency-Key": "k"})
        assert answer.status_code == 200, answer.text
        return answer.json()["records"][0]["offset"], "Idempotency-Replayed" in answer.headers

    assert [keyed(home, "alice"), keyed(away, "alice"), keyed(away, "bob"), keyed(home, "bob")] == [
        (1, False),
        (1, True),
        (2, False),
        (2, True),
    ]
