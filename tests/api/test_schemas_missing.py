"""Formats with schemas if their packages or the registry are missing."""

import sys

import pytest
from flask.testing import FlaskClient

from tests.api.conftest import ClientFactory
from tests.support.v2_consumer import error

FORMATS = ("avro", "protobuf", "jsonschema")
BODY = b'{"records": [{"value": 1}]}'


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate that the extra is not installed."""
    ours = tuple(f"kafka_http.schemas.{format_}" for format_ in FORMATS)
    packages = ("fastavro", "google.protobuf", "jsonschema_rs")
    for name in list(sys.modules):
        if name.startswith(ours):
            monkeypatch.delitem(sys.modules, name)
    for name in (*packages, *(each for each in sys.modules if each.startswith(packages))):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def client(without_packages: None, make_client: ClientFactory) -> FlaskClient:
    return make_client(schema_registry={"url": "http://127.0.0.1:1"})


@pytest.mark.parametrize("format_", FORMATS)
def test_missing_extra_is_named_in_both_dialects(client: FlaskClient, format_: str) -> None:
    media_type = f"application/vnd.kafka.{format_}.v2+json"
    says = "pip install '.[schemas]'"

    status, code, message = error(client.post("/topics/t", data=BODY, content_type=media_type))
    assert (status, code) == (415, 415)
    assert says in message
    for response in (
        client.post("/messages/t", data=BODY, content_type=media_type),
        client.post(f"/messages/t?format={format_}", data=b"[1]", content_type="application/json"),
        client.get(f"/messages/t/me/earliest?format={format_}"),
    ):
        assert response.status_code == 415
        assert says in response.json["error"]["message"]
        assert response.json["error"]["formats"] == ["binary", "json", "text"]
    status, code, message = error(client.post("/consumers/g", json={"format": format_}))
    assert (status, code) == (422, 42204)
    assert says in message


def test_other_formats_work_without_the_extra(client: FlaskClient) -> None:
    assert client.post("/topics/t", data=BODY).status_code == 200
    assert client.post("/messages/t", json={"records": [{"value": "x", "format": "text"}]}).status_code == 200
    page = client.get("/messages/t/me/earliest").json
    assert [each["value"] for each in page["records"]] == [1, "x"]


@pytest.mark.parametrize("format_", FORMATS)
def test_missing_registry_setting_is_named(make_client: ClientFactory, format_: str) -> None:
    media_type = f"application/vnd.kafka.{format_}.v2+json"

    status, code, message = error(make_client().post("/topics/t", data=BODY, content_type=media_type))

    assert (status, code) == (415, 415)
    assert f"{format_!r} needs a schema registry: set schema_registry.url" in message
