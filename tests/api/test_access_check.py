"""The check point in front of the views and the fast path: who gets in, and what is refused before anything is done."""

from collections.abc import Callable

import pytest
from flask.testing import FlaskClient

from kafka_http.config import Config
from kafka_http.errors import Unauthenticated
from kafka_http.security import security_state
from kafka_http.security.access import NameFilter, Rights
from kafka_http.security.acl_cache import AclCache
from kafka_http.security.check_point import SecurityState
from kafka_http.security.principal import Credentials, Principal
from kafka_http.security.shared_counters import SharedCounters
from tests.support.fake_broker import FakeBroker
from tests.support.fast_path_app import FastPathMiddleware

KEYS = {"kh_writer": "writer", "kh_reader": "reader"}
RIGHTS = {
    "writer": Rights(publish=NameFilter((("t*",),))),
    "reader": Rights(read=NameFilter((("t",),)), consumer=NameFilter((("r",),))),
}


class FixedKeys:
    """An `Authenticator` with two keys."""

    scheme = "key"
    challenge = 'Bearer realm="kafka_http"'

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Principal | None:
        sent = credentials.headers.get("x-api-key", credentials.access_key)
        if sent is None:
            return None
        if sent not in KEYS:
            raise Unauthenticated("Unknown key.")
        return Principal(KEYS[sent], "key")

    def is_current(self, principal: Principal) -> bool:
        return True


class FixedRules:
    def rights_of(self, principal: Principal, address: str) -> Rights:
        return RIGHTS[principal.name]


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def client(make_client: Callable[..., FlaskClient], monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    before = security_state.load_security

    def load(config: Config, shared: SharedCounters, acls: AclCache) -> SecurityState:
        return before(config, shared, acls)._replace(authenticators=[FixedKeys()], rules=FixedRules())

    monkeypatch.setattr("kafka_http.app.load_security", load)
    return make_client()


def test_request_without_credentials_returns_401_with_challenge(client: FlaskClient, broker: FakeBroker) -> None:
    for method, path in (("PUT", "/messages/t"), ("GET", "/messages"), ("POST", "/topics/t"), ("GET", "/nothing")):
        answer = client.open(path, method=method, data=b"x")
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="kafka_http"'
    assert client.get("/health").status_code == 200


def test_publish_with_the_right_succeeds_and_without_it_is_refused(client: FlaskClient, is_fast_path: bool) -> None:
    assert client.put("/messages/t", data=b"x", headers={"X-Api-Key": "kh_writer"}).status_code == 200
    assert client.put("/messages/t", data=b"x", headers={"X-Api-Key": "kh_reader"}).status_code == 403
    refused = client.put("/messages/three", data=b"x", headers={"X-Api-Key": "kh_reader"})
    assert (refused.status_code, refused.json["error"]["code"]) == (404, 40401)  # type: ignore[index]
    assert client.put("/messages/t", data=b"x", headers={"X-Api-Key": "kh_other"}).status_code == 401
    page = client.get("/messages/t/r/earliest", headers={"X-Api-Key": "kh_reader"})
    assert len(page.json["records"]) == 1  # type: ignore[index]
    wsgi = client.application.wsgi_app
    assert not is_fast_path or (isinstance(wsgi, FastPathMiddleware) and wsgi.taken == 1)


def test_access_key_in_the_query_is_removed_before_the_query_is_parsed(client: FlaskClient) -> None:
    assert client.put("/messages/t?access_key=kh_writer&timeout=5", data=b"x").status_code == 200
    assert client.put("/messages/t?acc%65ss_key=kh_writer", data=b"x").status_code == 200
    assert client.put("/messages/t?access_key=kh_wrong", data=b"x").status_code == 401


def test_get_access_shows_the_principal_and_its_rights(client: FlaskClient) -> None:
    refused = client.get("/access")
    assert refused.status_code == 401
    answer = client.get("/access", headers={"X-Api-Key": "kh_reader"})
    nothing = {"include": [[]], "exclude": []}
    assert answer.json == {
        "access": {
            "principal": "reader",
            "scheme": "key",
            "groups": [],
            "rights": {
                "publish": nothing,
                "read": {"include": [["t"]], "exclude": []},
                "consumer": {"include": [["r"]], "exclude": []},
                "describe": nothing,
                "admin": False,
                "topic_admin": False,
            },
        },
        "formats": ["binary", "json", "text"],
    }


def test_get_access_without_authentication_shows_all_rights(make_client: Callable[..., FlaskClient]) -> None:
    every = {"include": [["*"]], "exclude": []}
    rights = {"publish": every, "read": every, "consumer": every, "describe": every, "admin": True}
    for is_on in (False, True):
        shown = make_client(topic_admin=is_on).get("/access").json
        assert shown == {
            "access": {
                "principal": None,
                "scheme": "off",
                "groups": [],
                "rights": {**rights, "topic_admin": is_on},
            },
            "formats": ["binary", "json", "text"],
        }
