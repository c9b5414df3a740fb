"""Users and keys from files, in front of the views and of the fast path."""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import bcrypt
import pytest
from flask.testing import FlaskClient

from kafka_http.security.api_keys import new_key
from tests.api.conftest import ClientFactory
from tests.support.fast_path_app import FastPathMiddleware

KEY, SENDER = new_key(), new_key()


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def client(make_client: ClientFactory, tmp_path: Path) -> FlaskClient:
    users, keys = tmp_path / "users.htpasswd", tmp_path / "keys.toml"
    users.write_text(f"ann:{bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}\n")
    keys.write_text(
        f'[web-1]\nsha256 = "{sha256(KEY.encode()).hexdigest()}"\n'
        f'[page]\nsha256 = "{sha256(SENDER.encode()).hexdigest()}"\npublish_only = true\ntopics = ["t"]\n'
    )
    return make_client(auth={"basic": str(users), "keys": str(keys)})


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


def taken(client: FlaskClient) -> int:
    """How many requests the fast path has answered."""
    wsgi = client.application.wsgi_app
    return wsgi.taken if isinstance(wsgi, FastPathMiddleware) else 0


@pytest.mark.parametrize("headers", [{"X-Api-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, basic("ann", "secret")])
def test_publish_with_credentials_succeeds(client: FlaskClient, headers: dict[str, str], is_fast_path: bool) -> None:
    for _ in range(3):
        assert client.put("/messages/t", data=b"x", headers=headers).status_code == 200
        assert client.get("/messages/t/me/earliest", headers=headers).status_code == 200
    first_is_for_a_thread = headers.get("Authorization", "").startswith("Basic")
    assert taken(client) == is_fast_path * (3 - first_is_for_a_thread)


@pytest.mark.parametrize(
    "headers",
    [
        *({}, {"X-Api-Key": "kh_other"}, {"X-Api-Key": ""}, {"Authorization": ""}, {"Authorization": "Bearer"}),
        *({"Authorization": "Basic"}, {"Authorization": "Basic !"}, {"Authorization": "Digest username=ann"}),
        *({"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}, {"Authorization": f"Basic {KEY}"}),
        *(
            basic("ann", "wrong"),
            basic("web-1", KEY),
            {"X-Api-Key": SENDER + "\x00"},
            {"X-Api-Key": f"kh_{'x' * 8000}"},
        ),
        {"Authorization": f"Bearer {KEY}, Bearer {KEY}"},
        {**basic("ann", "wrong"), "X-Api-Key": KEY},
    ],
    ids=range(16),
)
def test_request_with_wrong_credentials_returns_401_with_both_challenges(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    for method, path in (("PUT", "/messages/t"), ("GET", "/messages/t/me/earliest"), ("POST", "/topics/t")):
        answer = client.open(path, method=method, data=b'{"records":[{"value":1}]}', headers=headers)
        assert answer.status_code == 401
        assert (
            answer.headers["WWW-Authenticate"] == 'Basic realm="kafka_http", charset="UTF-8", Bearer realm="kafka_http"'
        )
        assert KEY not in answer.text
    page = client.get("/messages/t/me/earliest", headers={"X-Api-Key": KEY})
    assert page.json is not None
    assert page.json["records"] == []


def test_key_for_publishing_can_only_publish_to_its_topics(client: FlaskClient) -> None:
    assert client.put(f"/messages/t?access_key={SENDER}", data=b"x").status_code == 200
    assert client.put("/messages/t", data=b"x", headers={"X-Api-Key": SENDER}).status_code == 200
    assert client.put(f"/messages/three?access_key={SENDER}", data=b"x").status_code == 404
    assert client.get(f"/messages/t/me/earliest?access_key={SENDER}").status_code == 403
    assert client.put(f"/messages/t?access_key={KEY}", data=b"x").status_code == 401
    assert client.put(f"/messages/t?access_key={SENDER}&access_key={KEY}", data=b"x").status_code == 401


def test_failed_logins_of_an_address_return_429_with_retry_after(client: FlaskClient) -> None:
    known = {"headers": basic("ann", "secret"), "data": b"x"}
    assert client.put("/messages/t", **known).status_code == 200
    codes = [client.put("/messages/t", data=b"x", headers=basic("ann", f"{n}")).status_code for n in range(12)]
    assert codes == [401] * 10 + [429] * 2

    refused = client.get("/messages", headers=basic("eve", "x"))

    assert refused.json is not None
    assert refused.json["error"]["code"] == 42902
    assert 1 <= int(refused.headers["Retry-After"]) <= 6
    assert client.put("/messages/t", **known).status_code == 200
    assert client.put("/messages/t", data=b"x", headers={"X-Api-Key": KEY}).status_code == 200


def test_reload_forgets_a_removed_key_and_user(client: FlaskClient, tmp_path: Path) -> None:
    kinds = [{"X-Api-Key": KEY}, basic("ann", "secret")]
    for headers in kinds * 2:
        assert client.put("/messages/t", data=b"x", headers=headers).status_code == 200
    (tmp_path / "users.htpasswd").write_text("")
    (tmp_path / "keys.toml").write_text("")

    client.application.extensions["kafka_http"].reload()

    for headers in kinds * 2:
        assert client.put("/messages/t", data=b"x", headers=headers).status_code == 401
