"""GET /consumers, GET and DELETE /consumers/<group>: the consumer groups of the cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kafka_http.records import CommittedOffset, NewRecord, TopicPartition
from tests.api.conftest import ClientFactory, changed_environ
from tests.support.fake_broker import FakeBroker
from tests.support.key_file import KeyFile


@pytest.fixture
def broker(broker: FakeBroker) -> FakeBroker:
    """Five messages in t and in each partition of three; a group of each type."""
    for topic, partition in (("t", 0), ("three", 0), ("three", 1), ("three", 2)):
        broker.publish(topic, [NewRecord(b"x", partition=partition)] * 5, 1).result()
    broker.commit("billing", "t", {0: 2})
    broker.commit("billing", "three", {0: 5, 2: 1})
    broker.join("mail", "three", "mailer", group_type="consumer", instance_id="one")
    broker.commit_offsets_of_members("mail", {TopicPartition("three", 1): CommittedOffset(4)})
    broker.add_share_group("work", {TopicPartition("t", 0): 3})
    broker.join("work", "t", "worker", host="10.0.0.7")
    return broker


def offset(committed: int, partition: int = 0, end: int = 5) -> dict[str, int]:
    return {"partition": partition, "committed": committed, "end": end, "lag": end - committed}


def error(response: TestResponse) -> tuple[int, int]:
    return response.status_code, response.json["error_code"]


def test_groups_lists_all_groups_with_type_state_and_members(client: FlaskClient) -> None:
    response = client.get("/consumers")
    assert response.headers["Content-Type"] == "application/vnd.kafka.v2+json"
    assert response.json == {
        "groups": [
            {"group": "billing", "type": "classic", "state": "Empty", "members": 0},
            {"group": "mail", "type": "consumer", "state": "Stable", "members": 1},
            {"group": "work", "type": "share", "state": "Stable", "members": 1},
        ]
    }


def test_groups_of_a_topic_have_their_offsets(client: FlaskClient) -> None:
    assert client.get("/consumers?topic=three").json["groups"] == [
        {"group": "billing", "type": "classic", "state": "Empty", "members": 0, "offsets": [offset(5), offset(1, 2)]},
        {"group": "mail", "type": "consumer", "state": "Stable", "members": 1, "offsets": [offset(4, 1)]},
    ]
    [_, work] = client.get("/consumers?topic=t").json["groups"]
    assert work["offsets"] == [{"partition": 0, "start": 3, "end": 5, "lag": 2}]


def test_group_shows_its_other_topics_while_one_is_deleted(
    client: FlaskClient, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic was there when its partitions were listed, and gone when Kafka was asked for their ends: a 404."""
    offsets = broker.offsets

    def delete_first(topic: str, *arguments: Any) -> dict[int, int]:
        if topic == "t" and "t" in broker.topics():
            broker.delete_topic("t")
        return offsets(topic, *arguments)

    monkeypatch.setattr(broker, "offsets", delete_first)
    response = client.get("/consumers/billing")
    assert response.status_code == 200
    assert {each["topic"] for each in response.json["offsets"]} == {"three"}


def test_groups_of_a_topic_without_any_are_empty(client: FlaskClient, broker: FakeBroker) -> None:
    broker.create_topic("new")
    assert client.get("/consumers?topic=new").json == {"groups": []}
    broker.delete_group("billing")
    broker.leave("mail")
    broker.leave("work")
    broker.delete_group("mail")
    broker.delete_group("work")
    assert client.get("/consumers").json == {"groups": []}


def test_groups_of_a_missing_topic_return_404(client: FlaskClient) -> None:
    assert error(client.get("/consumers?topic=nope")) == (404, 40401)
    assert error(client.get("/consumers?topic=no!")) == (400, 400)
    assert error(client.get("/consumers?topics=t")) == (400, 400)


def test_group_has_members_and_offsets_by_topic(client: FlaskClient) -> None:
    assert client.get("/consumers/mail").json == {
        "group": "mail",
        "type": "consumer",
        "state": "Stable",
        "assignor": "uniform",
        "members": [
            {
                "member": "mailer-0",
                "client": "mailer",
                "host": "127.0.0.1",
                "instance": "one",
                "partitions": [{"topic": "three", "partition": each} for each in range(3)],
            }
        ],
        "offsets": [{"topic": "three", **offset(4, 1)}],
    }
    billing = client.get("/consumers/billing").json
    assert (billing["type"], billing["assignor"], billing["members"]) == ("classic", "", [])
    assert [(each["topic"], each["partition"]) for each in billing["offsets"]] == [("t", 0), ("three", 0), ("three", 2)]


def test_share_group_has_starts_in_place_of_committed_offsets(client: FlaskClient) -> None:
    work = client.get("/consumers/work").json
    assert (work["type"], work["members"][0]["instance"]) == ("share", None)
    assert work["offsets"] == [{"topic": "t", "partition": 0, "start": 3, "end": 5, "lag": 2}]


def test_lag_counts_only_offsets_that_the_log_has(client: FlaskClient, broker: FakeBroker) -> None:
    broker.delete_before("t", 0, 4)  # the committed offset is 2
    [of_t, *_] = client.get("/consumers/billing").json["offsets"]
    assert of_t == {"topic": "t", "partition": 0, "committed": 2, "end": 5, "lag": 1}
    assert client.get("/messages/t/billing").json["partitions"][0]["lag"] == 1


def test_offset_after_the_end_has_no_lag(client: FlaskClient, broker: FakeBroker) -> None:
    """The topic was created again."""
    broker.commit("billing", "t", {0: 100})
    assert client.get("/consumers/billing").json["offsets"][0]["lag"] == 0


def test_offsets_of_partitions_and_topics_that_are_gone_are_left_out(client: FlaskClient, broker: FakeBroker) -> None:
    broker.delete_topic("three")
    broker.create_topic("three", partitions=1)
    assert [each["partition"] for each in client.get("/consumers/billing").json["offsets"]] == [0, 0]
    broker.delete_topic("t")
    assert [each["topic"] for each in client.get("/consumers/billing").json["offsets"]] == ["three"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_group_returns_404(client: FlaskClient, method: str) -> None:
    response = client.open("/consumers/nobody", method=method)
    assert error(response) == (404, 40406)
    assert response.json["message"] == "There is no consumer group nobody. GET /consumers lists all groups."


def test_delete_group_removes_it_and_its_offsets(client: FlaskClient, broker: FakeBroker) -> None:
    response = client.delete("/consumers/billing")
    assert (response.status_code, response.data) == (204, b"")
    assert broker.committed("billing", "t", [0]) == {}
    assert client.get("/consumers/billing").status_code == client.delete("/consumers/billing").status_code == 404


def test_delete_group_with_members_returns_409_with_them(client: FlaskClient, broker: FakeBroker) -> None:
    response = client.delete("/consumers/work")
    assert error(response) == (409, 409)
    assert "worker" in response.json["message"]
    assert response.json["members"] == [{"client_id": "worker", "host": "10.0.0.7"}]
    broker.leave("work")
    assert client.delete("/consumers/work").status_code == 204


@pytest.mark.parametrize("path", ["/consumers/billing/", "/consumers//billing", "//consumers/billing"])
def test_delete_group_needs_the_exact_path(client: FlaskClient, broker: FakeBroker, path: str) -> None:
    with changed_environ(client, PATH_INFO=path, RAW_URI=path):
        assert client.delete("/consumers/billing").status_code == 404
    assert broker.committed("billing", "t", [0]) == {0: 2}


def test_group_names_are_decoded_and_checked(client: FlaskClient, broker: FakeBroker) -> None:
    broker.commit("a b/é", "t", {0: 1})
    path = "/consumers/a%20b%2F%C3%A9"
    with changed_environ(client, RAW_URI=path):
        assert client.get("/consumers/a%20b%2F%C3%A9").json["group"] == "a b/é"
    assert error(client.get(f"/consumers/{'x' * 250}")) == (422, 422)
    assert error(client.get("/consumers/billing?topic=t")) == (400, 400)


def test_groups_answer_in_the_media_type_that_the_client_accepts(client: FlaskClient) -> None:
    for path in ("/consumers", "/consumers/billing", "/consumers/nobody"):
        for accept in ("application/json", "application/vnd.kafka.v2+json"):
            assert client.get(path, headers={"Accept": accept}).headers["Content-Type"] == accept
        assert error(client.get(path, headers={"Accept": "text/html"})) == (406, 406)


def test_groups_while_kafka_is_down_return_503(client: FlaskClient, broker: FakeBroker) -> None:
    broker.down = True
    for method, path in (
        ("GET", "/consumers"),
        ("GET", "/consumers?topic=t"),
        ("GET", "/consumers/billing"),
        ("DELETE", "/consumers/billing"),
    ):
        response = client.open(path, method=method)
        assert error(response) == (503, 50302)
        assert "Retry-After" in response.headers


# Rights


@pytest.fixture
def get(make_client: ClientFactory, tmp_path: Path) -> Callable[..., TestResponse]:
    """`get(path)` as a principal that may use billing and mail, and read t."""
    keys = KeyFile(tmp_path / "keys.toml", ("clerk",))
    access = {"clerk": {"read": ["t"], "consumer": ["billing", "mail"]}}
    client = make_client(auth={"keys": str(keys.path)}, access=access)
    return lambda path, method="GET": client.open(path, method=method, headers=keys.headers("clerk"))


def test_groups_shows_only_those_that_the_principal_may_use(get: Callable[..., TestResponse]) -> None:
    assert [each["group"] for each in get("/consumers").json["groups"]] == ["billing", "mail"]
    assert [each["group"] for each in get("/consumers?topic=t").json["groups"]] == ["billing"]
    assert get("/consumers/work").status_code == get("/consumers/work", "DELETE").status_code == 403


def test_group_shows_only_topics_that_may_be_described(get: Callable[..., TestResponse]) -> None:
    assert [each["topic"] for each in get("/consumers/billing").json["offsets"]] == ["t"]
    mail = get("/consumers/mail").json
    assert (mail["offsets"], mail["members"][0]["partitions"]) == ([], [])
    assert error(get("/consumers?topic=three")) == (404, 40401)
