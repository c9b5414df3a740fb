"""DELETE and PUT of positions, and the progress of a consumer."""

from collections.abc import Collection
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.records import NewRecord, TopicPartition
from tests.support.fake_broker import FakeBroker


@pytest.fixture(autouse=True)
def records(broker: FakeBroker) -> None:
    """Offsets 0 to 9 in `t`, and 0 to 4 in each partition of `three`."""
    broker.producer.publish("t", [NewRecord(b"x")] * 10, 1).result()
    for partition in range(3):
        broker.producer.publish("three", [NewRecord(b"x", partition=partition)] * 5, 1).result()


def committed(client: FlaskClient, topic: str = "t", consumer: str = "c") -> list[int | None]:
    response = client.get(f"/messages/{topic}/{consumer}")
    assert response.status_code == 200
    return [partition["committed"] for partition in response.json["partitions"]]


@pytest.mark.parametrize(
    ("path", "topic", "expected"),
    [
        ("t/c/4", "t", [5]),
        ("t/c/4?partition=0", "t", [5]),
        ("t/c/0:4", "t", [5]),
        ("t/c/9", "t", [10]),
        ("three/c/0:1,2:4", "three", [2, None, 5]),
        ("three/c/1?partition=1", "three", [None, 2, None]),
    ],
)
def test_ack_commits_the_offset_after_the_message(
    client: FlaskClient, path: str, topic: str, expected: list[int | None]
) -> None:
    for _ in range(2):
        response = client.delete(f"/messages/{path}")
        assert (response.status_code, response.data) == (204, b"")
        assert committed(client, topic) == expected


def test_ack_of_an_earlier_offset_does_not_move_back(client: FlaskClient) -> None:
    client.delete("/messages/t/c/6")
    assert client.delete("/messages/t/c/3").status_code == 204
    assert committed(client) == [7]


def test_ack_moves_only_the_named_partitions(client: FlaskClient) -> None:
    client.delete("/messages/three/c/0:3,1:1")
    client.delete("/messages/three/c/0:1,1:3")
    assert committed(client, "three") == [4, 4, None]


def test_ack_of_an_offset_without_its_partition_returns_400(client: FlaskClient) -> None:
    response = client.delete("/messages/three/c/3")
    assert (response.status_code, response.json["error"]["field"]) == (400, "partition")
    assert "0:42" in response.json["error"]["message"]


@pytest.mark.parametrize("offset", ["earliest", "committed", "-3", "@5", "0:latest", "*:earliest", "0:1,*:latest"])
def test_ack_of_a_position_that_is_not_an_offset_returns_400(client: FlaskClient, offset: str) -> None:
    response = client.delete(f"/messages/t/c/{offset}")
    assert (response.status_code, response.json["error"]["field"]) == (400, "offset")


def test_ack_of_the_end_offset_says_why_it_is_out_of_range(client: FlaskClient) -> None:
    """The message was "partition 0 has 0 to 10, not 10", which contradicts itself."""
    message = client.delete("/messages/t/c/10").json["error"]["message"]
    assert message == (
        "Offset out of range in t: partition 0 has 0 to 10, not 10. "
        "The last of these offsets has no message yet, so it cannot be acknowledged."
    )


@pytest.mark.parametrize(
    ("path", "status"), [("t/c/10", 416), ("three/c/0:1,1:5", 416), ("t/c/0:1,1:1", 404), ("nope/c/1", 404)]
)
def test_ack_of_an_invalid_offset_returns_an_error_and_commits_nothing(
    client: FlaskClient, path: str, status: int
) -> None:
    assert client.delete(f"/messages/{path}").status_code == status
    assert committed(client) == [None]
    assert committed(client, "three") == [None, None, None]


def test_commits_for_a_group_with_members_return_409(client: FlaskClient, broker: FakeBroker) -> None:
    client.delete("/messages/t/c/1")
    broker.join("c", "t", "classic-client")
    for response in (client.delete("/messages/t/c/5"), client.put("/messages/t/c/0"), client.delete("/messages/t/c")):
        assert (response.status_code, response.json["error"]["code"]) == (409, 409)
        assert "classic-client" in response.text
    assert committed(client) == [2]


def test_progress_shows_committed_position_and_lag(client: FlaskClient, broker: FakeBroker) -> None:
    client.delete("/messages/three/c/1:2")
    broker.delete_before("three", 2, 3)
    response = client.get("/messages/three/c")
    assert response.json == {
        "topic": "three",
        "consumer": "c",
        "partitions": [
            {"partition": 0, "committed": None, "earliest": 0, "latest": 5, "lag": 5},
            {"partition": 1, "committed": 3, "earliest": 0, "latest": 5, "lag": 2},
            {"partition": 2, "committed": None, "earliest": 3, "latest": 5, "lag": 2},
        ],
    }


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ("3", [3, 3, 3]),
        ("0:1,2:5", [1, 2, 5]),
        ("earliest", [0, 0, 0]),
        ("latest?partition=1", [2, 5, 2]),
        ("-1", [4, 4, 4]),
        ("0:latest,*:earliest", [5, 0, 0]),
        ("committed", [2, 2, 2]),
    ],
)
def test_put_of_a_position_commits_it(client: FlaskClient, offset: str, expected: list[int]) -> None:
    client.delete("/messages/three/c/0:1,1:1,2:1")
    response = client.put(f"/messages/three/c/{offset}")
    assert response.status_code == 200, response.text
    assert [each["committed"] for each in response.json["partitions"]] == expected
    assert committed(client, "three") == expected


@pytest.mark.parametrize(("offset", "status"), [("6", 416), ("0:6", 416), ("3:0", 404), ("x", 400)])
def test_put_of_an_invalid_position_returns_an_error_and_commits_nothing(
    client: FlaskClient, offset: str, status: int
) -> None:
    assert client.put(f"/messages/three/c/{offset}").status_code == status
    assert committed(client, "three") == [None, None, None]


def test_delete_of_a_consumer_deletes_its_offsets(client: FlaskClient) -> None:
    client.delete("/messages/t/c/1")
    client.delete("/messages/three/c/0:1")
    for _ in range(2):
        assert client.delete("/messages/t/c").status_code == 204
        assert committed(client) == [None]
    assert committed(client, "three") == [2, None, None]


def test_delete_of_a_consumer_on_an_unknown_topic_returns_404(client: FlaskClient) -> None:
    assert client.delete("/messages/nope/c").status_code == 404


def beyond_the_end(broker: FakeBroker) -> None:
    """Commit 42 for `c` on `t`, whose log ends at 10: the topic was recreated, or its log was truncated."""
    broker.commit("c", "t", {0: 42})


def test_progress_with_committed_offset_beyond_the_end_shows_none(client: FlaskClient, broker: FakeBroker) -> None:
    beyond_the_end(broker)
    assert client.get("/messages/t/c").json["partitions"] == [
        {"partition": 0, "committed": None, "earliest": 0, "latest": 10, "lag": 10}
    ]


def test_ack_with_committed_offset_beyond_the_end_commits(client: FlaskClient, broker: FakeBroker) -> None:
    """Each acknowledgment returned 204, and the same records came forever, with a lag of 0."""
    beyond_the_end(broker)
    page = client.get("/messages/t/c/committed?limit=4").json
    assert [each["offset"] for each in page["records"]] == [0, 1, 2, 3]
    assert client.delete(f"/messages/t/c/{page['ack']}").status_code == 204
    assert broker.committed("c", "t", [0]) == {0: 4}
    assert client.get("/messages/t/c/committed").json["records"][0]["offset"] == 4
    assert client.delete("/messages/t/c/0:1").status_code == 204
    assert committed(client) == [4], "and it does not move back from there"


def test_ack_previous_with_committed_offset_beyond_the_end_commits(client: FlaskClient, broker: FakeBroker) -> None:
    beyond_the_end(broker)
    assert client.get("/messages/t/c/0:6,*:earliest?ack=previous").status_code == 200
    assert committed(client) == [6]


@pytest.mark.parametrize(("reset", "expected"), [("", 0), ("?reset=latest", 10)])
def test_read_from_committed_offset_beyond_the_end_follows_reset(
    client: FlaskClient, broker: FakeBroker, reset: str, expected: int
) -> None:
    beyond_the_end(broker)
    response = client.put(f"/messages/t/c/committed{reset}")
    assert [each["committed"] for each in response.json["partitions"]] == [expected]


@pytest.mark.parametrize("call", ["ack", "previous", "progress"])
def test_committed_offset_of_a_concurrent_reader_is_kept(client: FlaskClient, broker: FakeBroker, call: str) -> None:
    """A committed offset is compared with the end of the log as it is afterwards, not before."""
    look = broker.committed_offsets

    def grow_and_look(group: str, partitions: Collection[TopicPartition]) -> Any:
        broker.publish("t", [NewRecord(b"x")], 1).result()
        broker.commit("c", "t", {0: broker.offsets("t", {0: "latest"})[0]})
        return look(group, partitions)

    broker.committed_offsets = grow_and_look  # type: ignore[method-assign]
    if call == "ack":
        assert client.delete("/messages/t/c/0:3").status_code == 204
    elif call == "previous":
        assert client.get("/messages/t/c/0:3?ack=previous").status_code == 200
    assert client.get("/messages/t/c").json["partitions"][0]["lag"] == 0
    broker.committed_offsets = look  # type: ignore[method-assign]
    assert committed(client) == [11 if call == "progress" else 12]


def test_ack_of_the_last_record_skips_offsets_without_records(client: FlaskClient, broker: FakeBroker) -> None:
    """Control records and compacted records left a lag forever."""
    broker.pass_over("t", count=3)
    client.delete("/messages/t/c/0:8")
    assert client.get("/messages/t/c").json["partitions"][0]["lag"] == 4
    for _ in range(2):
        assert client.delete("/messages/t/c/0:9").status_code == 204
        assert committed(client) == [13]
        assert client.get("/messages/t/c").json["partitions"][0]["lag"] == 0


def test_second_ack_skips_offsets_without_records_added_since(client: FlaskClient, broker: FakeBroker) -> None:
    client.delete("/messages/t/c/0:9")
    broker.pass_over("t")
    client.delete("/messages/t/c/0:9")
    assert committed(client) == [11]


@pytest.mark.parametrize(("reset", "expected"), [("earliest", 4), ("latest", 10)])
@pytest.mark.parametrize("offset", ["1", "0:1", "0:11", "11"])
def test_put_of_a_position_outside_the_log_uses_reset(
    client: FlaskClient, broker: FakeBroker, offset: str, reset: str, expected: int
) -> None:
    broker.delete_before("t", 0, 4)
    assert client.put(f"/messages/t/c/{offset}").status_code == 416
    response = client.put(f"/messages/t/c/{offset}?reset={reset}")
    assert [each["committed"] for each in response.json["partitions"]] == [expected]
