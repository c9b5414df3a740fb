"""Paths and queries: names with slashes, invalid UTF-8, empty segments."""

from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from flask.testing import FlaskClient

from tests.support.fake_broker import FakeBroker
from tests.support.v2_consumer import Consumer


def as_sent(path: str) -> dict[str, str]:
    """Return the environ that a server makes of a path. The test client would normalize the path."""
    return {"PATH_INFO": unquote_to_bytes(path).decode("latin-1"), "RAW_URI": path, "REQUEST_URI": path}


@pytest.fixture
def filled(client: FlaskClient) -> FlaskClient:
    for value in (b"1", b"2", b"3"):
        assert client.put("/messages/t", data=value).status_code == 200
    return client


def committed(client: FlaskClient, consumer: str) -> int | None:
    response = client.get(f"/messages/t/{consumer}")
    assert response.status_code == 200, response.text
    return response.json["partitions"][0]["committed"]


@pytest.mark.parametrize(
    ("encoded", "name"),
    [
        ("a%2Fb", "a/b"),
        ("%2Flead", "/lead"),
        ("trail%2F", "trail/"),
        ("a%2F%2fb", "a//b"),
        ("%2F", "/"),
        ("a%252Fb", "a%2Fb"),
        ("100%25", "100%"),
        ("%E2%82%AC%2Fx", "€/x"),
    ],
)
def test_consumer_name_with_an_encoded_slash_is_kept(filled: FlaskClient, encoded: str, name: str) -> None:
    page = filled.get(f"/messages/t/{encoded}/committed?limit=1")
    assert (page.status_code, page.json["consumer"]) == (200, name)
    link = page.headers["Link"].partition(">")[0].removeprefix("<http://localhost")
    assert filled.get(link).json["consumer"] == name
    assert filled.delete(f"/messages/t/{encoded}/0:1").status_code == 204
    assert committed(filled, encoded) == 2
    for other in ("lead", "trail", "a", "b", "a-b"):
        assert committed(filled, other) is None
    assert filled.delete(f"/messages/t/{encoded}").status_code == 204
    assert committed(filled, encoded) is None


@pytest.mark.parametrize(
    "target",
    ["http://localhost/messages/t/a%2Fb/earliest?limit=1", "/messages//t/a%2Fb/earliest", "/messages/t/a%2Fb/0#x"],
)
def test_absolute_and_unusual_targets_are_decoded(filled: FlaskClient, target: str) -> None:
    path = target.removeprefix("http://localhost").partition("?")[0].partition("#")[0]
    overrides = {"PATH_INFO": path.replace("%2F", "/"), "RAW_URI": target}
    assert filled.get("/", environ_overrides=overrides).json["consumer"] == "a/b"


def test_group_name_with_an_encoded_slash_keeps_the_slash(filled: FlaskClient) -> None:
    response = filled.post("/consumers/a%2Fb", json={"name": "c", "format": "json"})
    assert response.json["base_uri"] == "http://localhost/consumers/a%2Fb/instances/c"
    path = response.json["base_uri"].removeprefix("http://localhost")
    body = {"partitions": [{"topic": "t", "partition": 0}]}
    assert filled.post(f"{path}/assignments", json=body).status_code == 204
    assert filled.get("/consumers/b/instances/c/assignments").status_code == 404
    assert filled.delete(path).status_code == 204


def test_error_names_a_topic_with_a_slash(client: FlaskClient) -> None:
    response = client.put("/messages/a%2Fb", data=b"x")
    assert (response.status_code, response.json["error"]["topic"]) == (400, "a/b")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "/messages/t/a%FF",
        "/messages/t/a%FE/0:0",
        "/messages/%C3",
        "/topics/%ED%A0%80",
        "/consumers/%FF/instances/x",
        "/%ff",
    ],
)
def test_path_that_is_not_utf8_returns_400(client: FlaskClient, method: str, path: str) -> None:
    response = client.open("/", method=method, environ_overrides=as_sent(path))
    assert response.status_code == 400
    assert "UTF-8" in response.text


@pytest.mark.parametrize("is_fast_path", [False, True])
def test_key_in_the_query_that_is_not_utf8_returns_400(client: FlaskClient, is_fast_path: bool) -> None:
    response = client.put("/messages/t?key=%FF", data=b"x")
    assert response.status_code == 400
    assert "Kafka-Key-Base64" in response.json["error"]["message"]
    assert client.get("/messages/t/c/earliest").json["records"] == []
    assert client.put("/messages/t?key=%E2%82%AC", data=b"x").status_code == 200
    assert client.get("/messages/t/c/earliest").json["records"][0]["key"] == "€"


@pytest.mark.parametrize("query", ["partition=%FF", "%FF=1", "ack=previous&x=%C3%28"])
def test_query_that_is_not_utf8_returns_400(client: FlaskClient, query: str) -> None:
    response = client.get(f"/messages/t/c/earliest?{query}")
    assert response.status_code == 400
    assert "UTF-8" in response.text
    assert client.get(f"/topics?{query}").json["error_code"] == 400


def test_path_without_raw_target_is_decoded_as_a_whole(filled: FlaskClient) -> None:
    """Other servers do not pass on the request target."""

    def get(path: str) -> Any:
        overrides = {"PATH_INFO": path, "RAW_URI": "", "REQUEST_URI": ""}
        return filled.get("/", environ_overrides=overrides)

    assert get("/messages/t/100%/earliest").json["consumer"] == "100%"
    assert get("/messages/t/a%2Fb/earliest").json["consumer"] == "a%2Fb"
    assert get("/messages/t/a/b/earliest").status_code == 404
    assert get("/messages/t/\xff/earliest").status_code == 400


# empty segments


@pytest.mark.parametrize(
    "path",
    [
        "/messages/t//",
        "/messages/t/me/",
        "/messages/t//0:1",
        "/messages//t/me",
        "/messages/t/me//",
        "/messages/t/me/0:1/",
        "//messages/t/me",
    ],
)
def test_delete_with_an_empty_segment_deletes_nothing(filled: FlaskClient, path: str) -> None:
    """`DELETE /messages/$TOPIC/$CONSUMER/$OFFSET` with empty variables."""
    for consumer in ("me", "0:1"):
        assert filled.put(f"/messages/t/{consumer}/1").status_code == 200
    response = filled.delete("/", environ_overrides=as_sent(path))
    assert (response.status_code, response.json["error"]["code"]) == (404, 404)
    assert path in response.json["error"]["message"]
    assert (committed(filled, "me"), committed(filled, "0:1")) == (1, 1)


@pytest.mark.parametrize("path", ["/tasks/1/", "/tasks//1", "//tasks/1"])
def test_delete_of_a_task_with_an_empty_segment_returns_404(client: FlaskClient, path: str) -> None:
    response = client.delete("/", environ_overrides=as_sent(path))
    assert (response.status_code, response.json["error"]["code"]) == (404, 404)
    assert path in response.json["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/consumers/g/instances//subscription"),
        ("POST", "/consumers/g/instances//subscription"),
        ("DELETE", "/consumers/g//instances/subscription"),
    ],
)
def test_delete_of_an_instance_without_its_name_returns_404(client: FlaskClient, method: str, path: str) -> None:
    consumer = Consumer(client, name="subscription").assigned()
    response = client.open("/", method=method, environ_overrides=as_sent(path))
    assert (response.status_code, response.json["error_code"]) == (404, 404)
    assert path in response.json["message"]
    assert consumer.call("GET", "/assignments").status_code == 200


def test_v2_delete_with_leading_or_trailing_slash_is_accepted(client: FlaskClient) -> None:
    """Some v2 clients use a base URL that ends with a slash. It cannot be an empty variable."""
    consumer = Consumer(client)
    for path in (f"/{consumer.path}/subscription/", f"/{consumer.path}/"):
        assert client.delete("/", environ_overrides=as_sent(path)).status_code == 204


def test_put_with_two_empty_segments_publishes_nothing(client: FlaskClient, broker: FakeBroker) -> None:
    """`PUT /messages/$TOPIC/$CONSUMER/$OFFSET` with empty variables, which would set a position."""
    assert client.put("/", environ_overrides=as_sent("/messages/t//")).status_code == 404
    assert client.get("/messages/t/c/earliest").json["records"] == []
