"""Requests that the server's main loop admits before their body: the view must not trust that it saw the same path."""

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from kafka_http.environ import ADMISSION
from kafka_http.server.app_interface import Client, Decision
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.key_file import KeyFile


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.toml", ["writer", "other"])


@pytest.fixture
def client(make_client: ClientFactory, keys: KeyFile) -> FlaskClient:
    return make_client(auth={"keys": str(keys.path)}, access={"writer": {"publish": ["t*"]}})


@pytest.fixture
def headers(keys: KeyFile) -> dict[str, str]:
    return {"host": "localhost", "x-api-key": keys.headers("writer")["X-Api-Key"]}


def admit(client: FlaskClient, target: str, headers: dict[str, str]) -> Decision:
    """Return the decision before the body."""
    hooks = client.application.extensions["kafka_http"]
    decision: Decision = hooks.request_policy.admit("PUT", target, headers, Client("127.0.0.1"), 5)
    return decision


OTHER_FORMS = (
    "http://h/messages/hidden",
    "HTTP://h/messages/hidden?key=1",
    "/messages/hidden#t",
    "//messages/hidden",
)


@pytest.mark.parametrize("target", OTHER_FORMS)
def test_target_in_another_form_is_refused_before_the_body(
    client: FlaskClient, headers: dict[str, str], target: str
) -> None:
    decision = admit(client, target, headers)
    assert decision.is_refused
    assert decision.value.code == 40401


def test_view_checks_the_rights_of_its_own_path_after_an_early_admission(
    client: FlaskClient, headers: dict[str, str], broker: FakeBroker
) -> None:
    """A server that sees another path before the body than the view would otherwise let everything pass."""
    broker.create_topic("hidden")
    for target in ("/elsewhere/messages/hidden", "/messages/t", "/messages"):
        admission = admit(client, target, headers).value
        response = client.put("/messages/hidden", data=b"x", environ_overrides={ADMISSION: admission})
        assert (response.status_code, response.json["error"]["code"]) == (404, 40401), target  # type: ignore[index]
    assert not broker.records("hidden")


def test_rights_lost_while_the_body_arrives_refuse_the_request(
    client: FlaskClient, headers: dict[str, str], broker: FakeBroker, keys: KeyFile
) -> None:
    admission = admit(client, "/messages/t", headers).value
    overrides = {ADMISSION: admission}
    assert client.put("/messages/t", data=b"x", environ_overrides=overrides).status_code == 200
    keys.revoke("writer")
    client.application.extensions["kafka_http"].reload()
    response = client.put("/messages/t", data=b"x", environ_overrides=overrides, headers=headers)
    assert response.status_code == 401
    assert len(broker.records("t")) == 1


def test_prepared_publish_is_not_current_after_a_reload(
    client: FlaskClient, headers: dict[str, str], keys: KeyFile
) -> None:
    """The body of a publish on the fast path may arrive long after its head: the main loop asks again then."""
    hooks = client.application.extensions["kafka_http"]
    prepared = hooks.fast_path.prepare("PUT", "/messages/t", headers, Client("127.0.0.1"))
    assert prepared.is_current
    keys.revoke("writer")
    hooks.reload()
    assert not prepared.is_current
