"""Access rules in front of the views and the fast path: [access], and the ACLs of the cluster."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.acls import Acl
from kafka_http.security import acl_cache
from kafka_http.security.api_keys import new_key
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.polling import wait_for

ALICE, BOB = new_key(), new_key()


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def auth(tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "keys.toml"
    entries = (("alice", ALICE, ""), ("bob", BOB, 'topics = ["three"]'))
    file.write_text("".join(f'[{name}]\nsha256 = "{_digest(key)}"\n{rest}\n' for name, key, rest in entries))
    return {"keys": str(file)}


def _digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def publish(client: FlaskClient, topic: str = "t", key: str | None = ALICE) -> int:
    headers = {} if key is None else {"X-Api-Key": key}
    return client.put(f"/messages/{topic}", data=b"x", headers=headers).status_code


def read(client: FlaskClient, topic: str = "t", key: str = ALICE, query: str = "") -> int:
    return client.get(f"/messages/{topic}/c/earliest{query}", headers={"X-Api-Key": key}).status_code


def test_rules_in_the_settings_decide(make_client: ClientFactory, auth: dict[str, Any], broker: FakeBroker) -> None:
    rules = {"alice": {"publish": ["t"]}, "*": {"read": ["t*"], "consumer": ["d"]}}
    client = make_client(auth=auth, access=rules)
    assert [publish(client), publish(client, "three"), publish(client, "none")] == [200, 403, 404]
    assert [publish(client, key=BOB), publish(client, "three", BOB)] == [404, 403]
    assert [read(client), read(client, "three"), read(client, "none"), read(client, "t", BOB)] == [200, 200, 404, 404]
    assert read(client, query="?ack=previous") == 403
    assert publish(client, key=None) == 401
    assert len(broker.records("t")) == 1
    refused = client.put("/messages/three", data=b"x", headers={"X-Api-Key": ALICE})
    assert refused.json == {
        "error": {
            "code": 40302,
            "message": "alice does not have the right publish on topic three. Nothing was done.",
            "right": "publish",
            "topic": "three",
        }
    }


def test_anonymous_rights_are_those_of_its_own_entry(make_client: ClientFactory, auth: dict[str, Any]) -> None:
    auth["anonymous"] = ["publish"]
    rules = {"anonymous": {"publish": ["t"], "read": ["t"]}, "*": {"publish": ["three"]}}
    client = make_client(auth=auth, access=rules)
    assert [publish(client, key=None), publish(client, "three", None)] == [200, 401]
    assert client.get("/messages/t/c/earliest").status_code == 401
    assert make_client(auth=auth).put("/messages/three", data=b"x").status_code == 200


def test_get_access_shows_rules_narrowed_by_the_key(make_client: ClientFactory, auth: dict[str, Any]) -> None:
    client = make_client(auth=auth, access={"bob": {"publish": ["t*"], "admin": True}})
    shown = client.get("/access", headers={"X-Api-Key": BOB}).json["access"]  # type: ignore[index]
    assert (shown["principal"], shown["scheme"]) == ("bob", "key")
    assert shown["rights"]["publish"] == {"include": [["t*"], ["three"]], "exclude": []}
    assert shown["rights"]["admin"] is False


@pytest.fixture
def acls(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    """A cluster whose ACLs are read every 10 ms."""
    monkeypatch.setattr(acl_cache, "REFRESH_SECONDS", 0.01)
    broker.acl_entries = []
    return broker


def acl(operation: str, name: str = "t", **more: Any) -> Acl:
    return Acl("User:alice", operation, "topic", name, **more)


def replaced(client: FlaskClient, broker: FakeBroker, entries: Iterable[Acl], expected: int) -> None:
    """Replace the ACLs and wait until a publish has the expected status."""
    broker.acl_entries = list(entries)
    wait_for(lambda: publish(client) == expected)


def test_acls_of_the_cluster_decide_and_their_changes_take_effect(
    make_client: ClientFactory, auth: dict[str, Any], acls: FakeBroker
) -> None:
    client = make_client(auth=auth, access_rules="kafka")
    wait_for(lambda: publish(client) == 404)
    replaced(client, acls, [acl("write")], 200)
    for _ in range(3):
        assert publish(client) == 200
    assert [read(client), publish(client, "three"), publish(client, key=BOB)] == [403, 404, 404]
    replaced(client, acls, [acl("read"), Acl("User:*", "read", "group", "c")], 403)
    assert [read(client), read(client, query="?ack=previous"), read(client, key=BOB)] == [200, 200, 404]
    replaced(client, acls, [acl("all"), acl("write", is_denied=True)], 403)
    replaced(client, acls, [acl("write", host="10.1.1.1")], 404)
    assert client.get("/messages", headers={"X-Api-Key": ALICE}).status_code == 200
    assert publish(client, key=None) == 401


def test_requests_get_503_until_the_acls_are_known(
    make_client: ClientFactory, auth: dict[str, Any], acls: FakeBroker
) -> None:
    acls.acl_entries, acls.down = [acl("write")], True
    client = make_client(auth=auth, access_rules="kafka")
    answer = client.put("/messages/t", data=b"x", headers={"X-Api-Key": ALICE})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "The cluster's ACLs are not known" in answer.text
    assert publish(client, key=None) == 401
    assert client.get("/health").status_code == 200
    acls.down = False
    wait_for(lambda: publish(client) == 200)
    acls.hides_acls = True
    wait_for(lambda: publish(client) == 503)


def test_rules_without_effect_are_logged_at_the_start_and_at_a_reload_of_the_arbiter(
    make_client: ClientFactory, auth: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    warning = "read of [access.\"alice\"]: no topic can have a name that matches 'a/b'."
    client = make_client(auth=auth, access={"alice": {"read": ["a/b"]}})
    hooks = client.application.extensions["kafka_http"]
    hooks.check_before_fork()
    assert caplog.messages == [warning]
    hooks.reload()
    assert caplog.messages == [warning, warning]
    client.get("/health")  # from now on, this is a worker
    hooks.reload()
    assert caplog.messages == [warning, warning]
