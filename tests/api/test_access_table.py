"""Who may do what: the table of principals, calls and results, over all routes and both paths.

A route or a method that is not in `TABLE` or `OPEN` fails `test_table_has_each_route_and_method`.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kafka_http.errors import KafkaHttpError
from kafka_http.records import NewRecord
from kafka_http.server.app_interface import Client
from tests.api.conftest import ClientFactory
from tests.support.access_table import (
    INSTANCE,
    NAMES,
    OWNED_ROWS,
    PRINCIPALS,
    ROWS,
    V2,
    Call,
    Row,
    name_of,
    result_of,
    rows,
)
from tests.support.fake_broker import FakeBroker
from tests.support.fast_path_app import FastPathMiddleware
from tests.support.key_file import KeyFile

Send = Callable[[str, Call], TestResponse]
EVERYTHING = {"publish": ["*"], "read": ["*"], "consumer": ["*"], "admin": True}
ACCESS: Mapping[str, Mapping[str, Any]] = {
    "publisher": {"publish": ["t"]},
    "reader": {"read": ["t"]},
    "consumer": {"consumer": ["g"]},
    "member": {"publish": ["own"]},
    "[mt][ew]*": {"read": ["t"], "consumer": ["g"]},
    "admin": {"admin": True},
    "all": EVERYTHING,
}
# Keys of `all` that are narrowed, and requests without credentials that may publish to t and read it.
NARROWED = """
call                                    publish_only topic_t anonymous
GET     /messages                            ok        ok       ok
GET     /messages/t                          ok        ok       ok
GET     /messages/three                      ok        404      401
PUT     /messages/t                          ok        ok       ok
PUT     /messages/three                      ok        404      401
POST    /topics/three                        ok        404      401
upload  /messages/t                          ok        ok       ok
GET     /messages/t/g/earliest               403       ok       ok
stream  /messages/t/g/earliest               403       ok       ok
GET     /messages/t/g                        403       ok       401
GET     /messages/t/g/0?ack=previous         403       ok       401
DELETE  /messages/t/g/0                      403       ok       401
PUT     /messages/t/g/0                      403       ok       401
DELETE  /messages/t/g                        403       ok       401
GET     /tasks                               403       ok       401
GET     /instances                           403       ok       401
GET     /access                              ok        ok       ok
POST    /consumers/g                         403       ok       401
"""
OPEN = "/ /health /ready /docs /docs/read /openapi.json /docs/api /docs/api/viewer.js /console /console/console.js"


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.toml", NAMES)


@pytest.fixture
def client(make_client: ClientFactory, broker: FakeBroker, keys: KeyFile) -> FlaskClient:
    broker.create_topic("own")
    broker.publish("t", [NewRecord(b"1", partition=0)], 1).result()
    return make_client(console=True, auth={"keys": str(keys.path)}, access=ACCESS)


@pytest.fixture
def send(client: FlaskClient, keys: KeyFile) -> Send:
    """Send a call of a principal."""
    return partial(send_with, client, keys)


def send_with(client: FlaskClient, keys: KeyFile, principal: str, call: Call) -> TestResponse:
    headers = call.headers | keys.headers(principal)
    return client.open(call.path, method=call.method, data=call.body, headers=headers)


def result(response: TestResponse, *, may_be_missing: bool = False) -> str:
    with response:  # a stream is not read
        body = response.data if response.status_code >= 300 else b""
        return result_of(response.status_code, response.headers, body, may_be_missing=may_be_missing)


def state_of(broker: FakeBroker) -> Any:
    """Return what a request could change in Kafka."""
    topics = broker.topics()
    records = {topic: len(broker.records(topic)) for topic in topics}
    committed = {group: broker.committed(group, "t", [0]) for group in ("g", "other")}
    return records, committed


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_each_principal_gets_the_result_of_the_table(
    client: FlaskClient, send: Send, broker: FakeBroker, row: Row
) -> None:
    refused = [each for each in PRINCIPALS if row.results[each] != "ok"]
    before = state_of(broker)
    results = {each: result(send(each, row.call)) for each in refused}
    assert state_of(broker) == before
    results |= {each: result(send(each, row.call)) for each in PRINCIPALS if each not in refused}
    assert results == row.results
    taken = getattr(client.application.wsgi_app, "taken", 0)
    expected = len(PRINCIPALS) - len(refused) - row.call.is_acquire
    assert taken == (expected if is_taken(client, row.call) else 0)


def is_taken(client: FlaskClient, call: Call) -> bool:
    """Whether the fast path answers this publish."""
    return isinstance(client.application.wsgi_app, FastPathMiddleware) and call.is_on_fast_path


@pytest.mark.parametrize("row", ROWS, ids=name_of)
@pytest.mark.parametrize("is_fast_path", [False])
def test_refusals_come_before_the_body(client: FlaskClient, keys: KeyFile, row: Row) -> None:
    results = {each: early_result(client.application, row.call, keys.headers(each)) for each in PRINCIPALS}
    assert results == row.results


def early_result(app: Flask, call: Call, credentials: Mapping[str, str]) -> str:
    """Return `ok` or the status that the server's main loop would send before the body."""
    headers = {name.lower(): value for name, value in {**call.headers, **credentials, "Host": "h"}.items()}
    policy = app.extensions["kafka_http"].request_policy
    decision = policy.admit(call.method, call.path, headers, Client("127.0.0.1"), 5)
    if not decision.is_refused:
        return "ok"
    assert isinstance(decision.value, KafkaHttpError)
    return str(decision.value.status)


def test_open_routes_need_no_credentials(client: FlaskClient, keys: KeyFile) -> None:
    for path in OPEN.split():
        for headers in ({}, keys.headers("stranger"), {"X-Api-Key": "kh_unknown"}):
            assert client.get(path, headers=headers).status_code == 200, path


def test_table_has_each_route_and_method(client: FlaskClient) -> None:
    app = client.application
    adapter = app.url_map.bind("localhost")
    calls = [(each.call.method, each.call.path.partition("?")[0]) for each in (*ROWS, *OWNED_ROWS)]
    covered = {(method, adapter.match(path, method, return_rule=True)[0].rule) for method, path in calls}
    covered |= {("GET", adapter.match(path, "GET", return_rule=True)[0].rule) for path in OPEN.split()}
    automatic = {"HEAD", "OPTIONS"}
    assert covered == {(method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods - automatic}


def test_head_and_options_need_what_the_route_needs(client: FlaskClient, keys: KeyFile, broker: FakeBroker) -> None:
    for group in ("g", "other"):
        broker.commit(group, "t", {0: 1})
    for row in ROWS:
        if row.call.kind != "GET":
            continue
        for principal in PRINCIPALS:
            for method in ("HEAD", "OPTIONS"):
                status = client.open(row.call.path, method=method, headers=keys.headers(principal)).status_code
                if status != 405:
                    is_ordinary = method == "HEAD" and row.call.path.endswith("/queue")  # the groups are no queues
                    expected = row.results[principal].replace("ok", "409" if is_ordinary else "200")
                    assert status == int(expected), (method, *row.call, principal)


def test_hidden_topic_looks_like_a_missing_one(send: Send) -> None:
    for call in (each.call for each in ROWS):
        if "/three" in call.path and call.body is None:
            absent = call._replace(path=call.path.replace("three", "none"))
            hidden, missing, really_missing = send("member", call), send("member", absent), send("all", absent)
            assert hidden.status_code == missing.status_code == really_missing.status_code == 404
            assert hidden.text.replace("three", "none") == missing.text, call
            # A hint for the client follows
            start = really_missing.text.partition("GET /messages lists the topics.")[0]
            assert missing.text.startswith(start), call


def test_unknown_path_and_method_need_credentials(client: FlaskClient, keys: KeyFile) -> None:
    for method, path in (
        ("GET", "/nothing"),
        ("PATCH", "/messages/t/g"),
        ("POST", "/health"),
        ("GET", "/messages//t//"),
    ):
        assert client.open(path, method=method).status_code == 401, path
        assert client.open(path, method=method, headers=keys.headers("stranger")).status_code in {404, 405}, path


@pytest.mark.parametrize("row", rows(NARROWED), ids=name_of)
def test_narrowed_keys_and_requests_without_credentials(
    make_client: ClientFactory, tmp_path: Path, broker: FakeBroker, row: Row
) -> None:
    narrowed = {"publish_only": "publish_only = true", "topic_t": 'topics = ["t", "u*"]'}
    keys = KeyFile(tmp_path / "keys.toml", narrowed, narrowed)
    anonymous = {"publish": ["t"], "read": ["t"], "consumer": ["g"], "admin": True}
    access = {"publish_only": EVERYTHING, "topic_t": EVERYTHING, "anonymous": anonymous}
    client = make_client(auth={"keys": str(keys.path), "anonymous": ["publish", "read"]}, access=access)
    broker.publish("t", [NewRecord(b"1", partition=0)], 1).result()
    senders = {each: "nobody" if each == "anonymous" else each for each in row.results}
    results = {each: result(send_with(client, keys, sender, row.call)) for each, sender in senders.items()}
    assert results == row.results
    assert client.put("/messages/t", headers={"X-Api-Key": "kh_unknown"}).status_code == 401


# What belongs to a principal


@pytest.mark.parametrize("row", OWNED_ROWS, ids=name_of)
@pytest.mark.parametrize("is_fast_path", [False])
def test_tasks_and_instances_of_others_are_not_found(
    client: FlaskClient, send: Send, keys: KeyFile, broker: FakeBroker, row: Row
) -> None:
    results = {}
    for principal in row.results:
        path = row.call.path
        if "/tasks" in path:
            broker.down = True  # the task stays pending
            path = new_task(client, keys)
        else:
            create_instance(client, keys, is_assigned="subscription" not in path)
        results[principal] = result(send(principal, row.call._replace(path=path)), may_be_missing=True)
    assert results == row.results


def new_task(client: FlaskClient, keys: KeyFile) -> str:
    """Let `member` publish later. Return the path of its task."""
    headers = {"Prefer": "respond-async"} | keys.headers("member")
    return str(client.put("/messages/own", data=b"1", headers=headers).headers["Location"])


def create_instance(client: FlaskClient, keys: KeyFile, *, is_assigned: bool) -> None:
    """Create the instance i again, as `member`."""
    client.delete(INSTANCE, headers=V2 | keys.headers("all"))
    body = json.dumps({"name": "i", "format": "json", "auto.offset.reset": "earliest"})
    assert client.post("/consumers/g", data=body, headers=V2 | keys.headers("member")).status_code == 200
    if is_assigned:
        assert send_with(client, keys, "member", Call("POST", f"{INSTANCE}/assignments")).status_code == 204


LISTS = {
    "/messages": lambda body: body["topics"],
    "/topics": lambda body: body,
    "/tasks": lambda body: [each["topic"] for each in body["tasks"]],
    "/instances": lambda body: [each["name"] for each in body["instances"]],
}
SEEN = """
principal  /messages        /topics          /tasks /instances
stranger   -                -                -      -
publisher  t                t                -      -
reader     t                t                -      -
consumer   -                -                -      -
member     own,t            own,t            own    i
twin       t                t                -      -
admin      own,t,three      own,t,three      own    i
all        own,t,three      own,t,three      own    i
"""


@pytest.mark.parametrize("is_fast_path", [False])
def test_lists_show_what_the_principal_may_see(client: FlaskClient, keys: KeyFile) -> None:
    create_instance(client, keys, is_assigned=True)
    new_task(client, keys)
    head, *lines = (line.split() for line in SEEN.strip().splitlines())
    for principal, *names in lines:
        for path, expected in zip(head[1:], names, strict=True):
            listed = LISTS[path](client.get(path, headers=keys.headers(principal)).json)
            assert (",".join(sorted(listed)) or "-") == expected, (principal, path)
