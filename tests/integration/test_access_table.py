"""The table of who may do what, with a real server and the ACLs of a real Kafka as its rules."""

import json
from collections.abc import Iterator

import pytest

from kafka_http.acls import CLUSTER_NAME, Acl
from kafka_http.demo.embedded_kafka import create_topics
from tests.integration.conftest import running
from tests.support.access_table import INSTANCE, NAMES, OWNED_ROWS, PRINCIPALS, ROWS, V2, Call, name_of, result_of
from tests.support.acl_kafka import acl_kafka
from tests.support.key_file import KeyFile
from tests.support.polling import wait_for
from tests.support.server_process import Service

pytestmark = pytest.mark.slow
ACLS = [
    Acl("User:publisher", "write", "topic", "t"),
    Acl("User:reader", "read", "topic", "t"),
    Acl("User:consumer", "read", "group", "g"),
    *(Acl(f"User:{name}", "read", "topic", "t") for name in ("member", "twin")),
    *(Acl(f"User:{name}", "read", "group", "g") for name in ("member", "twin")),
    Acl("User:member", "write", "topic", "ow", is_prefix=True),
    Acl("User:admin", "alter", "cluster", CLUSTER_NAME),
    Acl("User:all", "all", "topic", "*"),
    Acl("User:all", "all", "group", "*"),
    Acl("User:all", "alter", "cluster", CLUSTER_NAME),
    # Without effect: another host
    Acl("User:reader", "read", "topic", "t", host="10.9.9.9", is_denied=True),
    Acl("User:stranger", "read", "topic", "t", host="10.9.9.9"),
    # What is denied is not allowed
    Acl("User:stranger", "all", "topic", "t"),
    Acl("User:*", "describe", "topic", "hidden", is_denied=True),
    *(Acl("User:stranger", each, "topic", "t", is_denied=True) for each in ("write", "read", "describe")),
]


@pytest.fixture(scope="module")
def served(kafka_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, KeyFile]]:
    """A server with a key for each principal, in front of a Kafka with the ACLs of the table."""
    directory = tmp_path_factory.mktemp("access")
    keys = KeyFile(directory / "keys.toml", NAMES)
    with acl_kafka(directory, ()) as kafka:
        kafka.replace_acls(ACLS)
        create_topics(kafka.bootstrap_servers, {"t": 1, "three": 3, "own": 1, "hidden": 1})
        settings = {"auth__keys": str(keys.path), "access_rules": "kafka", **kafka.service_settings()}
        with running(Service(directory, kafka.sasl_bootstrap_servers, **settings)) as service:
            wait_for(lambda: send(service, keys, "all", Call("PUT", "/messages/t")) == "ok", 20)
            yield service, keys


def send(service: Service, keys: KeyFile, principal: str, call: Call, *, may_be_missing: bool = False) -> str:
    headers = call.headers | keys.headers(principal)
    response = service.request(call.method, call.path, data=call.body, headers=headers, stream=call.kind == "stream")
    with response:
        body = response.content if response.status_code >= 300 else b""
        return result_of(response.status_code, response.headers, body, may_be_missing=may_be_missing)


def test_acls_of_kafka_give_the_results_of_the_table(served: tuple[Service, KeyFile]) -> None:
    expected = {name_of(row): row.results for row in ROWS}
    results = {name_of(row): {each: send(*served, each, row.call) for each in PRINCIPALS} for row in ROWS}
    assert results == expected


def test_tasks_and_instances_of_others_are_not_found(served: tuple[Service, KeyFile]) -> None:
    service, keys = served
    for row in OWNED_ROWS:
        for principal, expected in row.results.items():
            call = row.call
            if "/tasks" in call.path:
                if call.method == "DELETE" and expected == "ok":
                    continue  # Kafka may have it before it is canceled
                call = call._replace(path=new_task(service, keys))
            else:
                create_instance(service, keys, is_assigned="subscription" not in call.path)
            assert send(service, keys, principal, call, may_be_missing=True) == expected, (principal, *row.call)


def new_task(service: Service, keys: KeyFile) -> str:
    """Let `member` publish later. Return the path of its task."""
    response = service.put("/messages/own", b"1", headers={"Prefer": "respond-async", **keys.headers("member")})
    return response.headers["Location"].removeprefix(service.url)


def create_instance(service: Service, keys: KeyFile, *, is_assigned: bool) -> None:
    """Create the instance i again, as `member`."""
    service.delete(INSTANCE, headers=V2 | keys.headers("all"))
    body = json.dumps({"name": "i", "format": "json", "auto.offset.reset": "earliest"})
    assert service.post("/consumers/g", body, headers=V2 | keys.headers("member")).status_code == 200
    if is_assigned:
        assert send(service, keys, "member", Call("POST", f"{INSTANCE}/assignments")) == "ok"
