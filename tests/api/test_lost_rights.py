"""Streams, uploads and waiting reads whose principal loses its right, or whose credentials end, while they are open."""

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.errors import Unavailable
from kafka_http.security.access import NameFilter, Rights
from kafka_http.security.principal import Credentials, Principal
from tests.api.conftest import ClientFactory
from tests.api.test_streams import EVENTS, NDJSON, Open, put
from tests.api.test_uploads import lines_of, upload
from tests.support.fake_broker import FakeBroker
from tests.support.named_principals import NamedPrincipals, key_of
from tests.support.polling import scaled

ALICE = Rights(publish=NameFilter((("t",),)), read=NameFilter((("t",),)), consumer=NameFilter((("me",),)))
OTHER = Rights(read=NameFilter((("three",),)))
LOG = "kafka_http.security.refusal_log"


class Principals(NamedPrincipals):
    """Principals whose credentials may expire, with rules that may be unknown for a while."""

    expires = math.inf
    end_at_expiry = True
    are_rules_known = True

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Principal | None:
        principal = super().authenticate(credentials, blocking=blocking)
        return None if principal is None else Principal(principal.name, "key", expires=self.expires)

    def is_current(self, principal: Principal) -> bool:
        return super().is_current(principal) and (principal.expires > time.time() or not self.end_at_expiry)

    def rights_of(self, principal: Principal, address: str) -> Rights:
        if not self.are_rules_known:
            raise Unavailable("The rules are not known yet.")
        return super().rights_of(principal, address)


@pytest.fixture
def principals() -> Principals:
    return Principals({"alice": ALICE, "bob": ALICE})


@pytest.fixture
def client(make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch, principals: Principals) -> FlaskClient:
    principals.use(monkeypatch)
    return make_client(stream_keepalive=0.2)


def reload(client: FlaskClient) -> None:
    client.application.extensions["kafka_http"].reload()


def stream(client: FlaskClient, accept: str = EVENTS) -> Open:
    return Open(client, "/messages/t/me/earliest", accept, **{"X-Api-Key": "kh_alice"})


def error_of(opened: Open) -> Any:
    """Read to the end, which must come within 5 s, and return the error there."""
    began = time.monotonic()
    *_, last = opened.rest()
    assert time.monotonic() - began < scaled(5)
    return last.json


def test_stream_of_revoked_key_ends_with_401_and_its_position(
    client: FlaskClient, broker: FakeBroker, principals: Principals, caplog: pytest.LogCaptureFixture
) -> None:
    put(broker, "t", b"1", b"2")
    caplog.set_level("INFO", LOG)
    opened = stream(client)
    opened.events(2)
    del principals.rights["alice"]
    reload(client)
    put(broker, "t", b"3")
    assert error_of(opened) == {
        "error": {"code": 40101, "message": "The credentials of this request are no longer valid."},
        "next": "0:2,*:earliest",
    }
    (line,) = (each.getMessage() for each in caplog.records if each.name == LOG)
    assert "principal alice" in line
    assert "40101" in line


def test_stream_drops_what_it_has_read_when_the_key_was_revoked_meanwhile(
    client: FlaskClient, broker: FakeBroker, principals: Principals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read can take long while brokers are slow. The position is that before the messages that were not sent."""
    put(broker, "t", b"1")
    opened = stream(client)
    opened.events(1)
    fetch: Callable[..., Any] = broker.fetch

    def revoke(*arguments: Any, **options: Any) -> Any:
        principals.rights.pop("alice", None)
        reload(client)
        put(broker, "t", b"planted")
        return fetch(*arguments, **options)

    monkeypatch.setattr(broker, "fetch", revoke)
    assert error_of(opened)["next"] == "0:1,*:earliest"
    assert b"planted" not in opened.bytes


def test_stream_of_principal_that_lost_its_right_ends_with_403_and_its_position(
    client: FlaskClient, broker: FakeBroker, principals: Principals
) -> None:
    """Not with 404, after which the position would be the start of another topic of this name."""
    put(broker, "t", b"1")
    opened = stream(client)
    opened.events(1)
    principals.rights["alice"] = OTHER
    reload(client)
    ended = error_of(opened)
    assert ended["error"]["code"] == 40302
    assert ended["error"]["message"] == "alice does not have the right read on topic t."
    assert ended["next"] == "0:1,*:earliest"


def test_lines_of_revoked_key_end_with_the_error(
    client: FlaskClient, broker: FakeBroker, principals: Principals
) -> None:
    put(broker, "t", b"1")
    opened = stream(client, NDJSON)
    del principals.rights["alice"]
    reload(client)
    while opened.read():
        pass
    assert json.loads(opened.bytes.splitlines()[-1])["error"]["code"] == 40101


def test_stream_ends_when_its_token_expires(client: FlaskClient, principals: Principals) -> None:
    principals.expires = time.time() + 1
    ended = error_of(stream(client))
    assert ended["error"]["code"] == 40101
    assert time.time() >= principals.expires


def test_stream_continues_after_the_expiry_of_a_verified_password(
    client: FlaskClient, broker: FakeBroker, principals: Principals
) -> None:
    """It says when the password must be verified again, for which a stream has no credentials any more."""
    principals.expires, principals.end_at_expiry = time.time() - 1, False
    opened = stream(client)
    for number in range(3):
        put(broker, "t", b"%d" % number)
        assert opened.values(1) == [number]
    del principals.rights["alice"]  # its password has changed
    reload(client)
    assert error_of(opened)["error"]["code"] == 40101


def test_streams_of_others_continue_after_a_reload(
    client: FlaskClient, broker: FakeBroker, principals: Principals
) -> None:
    opened = stream(client)
    del principals.rights["bob"]
    for number in range(3):
        reload(client)
        put(broker, "t", b"%d" % number)
        assert opened.values(1) == [number]
    opened.close()


def test_stream_continues_while_new_rules_are_not_known_for_a_moment(
    client: FlaskClient, broker: FakeBroker, principals: Principals
) -> None:
    opened = stream(client)
    principals.are_rules_known = False
    reload(client)
    put(broker, "t", b"1")
    assert opened.values(1) == [1]
    assert error_of(opened)["error"]["code"] == 503


def test_open_stream_ends_when_authentication_is_turned_on(
    make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch, principals: Principals
) -> None:
    client = make_client(stream_keepalive=0.2)
    opened = Open(client, "/messages/t/me/earliest")
    check_point = client.application.extensions["kafka_http"].security.check_point
    before = check_point._load  # the settings have no authentication
    monkeypatch.setattr(check_point, "_load", lambda: before()._replace(authenticators=[principals], rules=principals))
    reload(client)
    assert error_of(opened)["error"]["code"] == 40101


def test_stream_without_authentication_survives_reloads(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(stream_keepalive=0.2)
    opened = Open(client, "/messages/t/me/earliest")
    for number in range(3):
        reload(client)
        put(broker, "t", b"%d" % number)
        assert opened.values(1) == [number]
    opened.close()


def test_upload_of_revoked_key_ends_and_reports_what_was_written(
    client: FlaskClient, broker: FakeBroker, principals: Principals
) -> None:
    def revoke() -> bytes:
        del principals.rights["alice"]
        reload(client)
        return b"2\n"

    *_, last = lines_of(upload(client, [b"1\n", revoke, b"3\n"], X_Api_Key="kh_alice"))
    assert last["error"]["code"] == 40101
    written = [each.value for each in broker.records("t")]
    assert last["records"] == len(written)
    assert b"3" not in written


def test_waiting_read_of_revoked_key_returns_no_messages(
    client: FlaskClient, broker: FakeBroker, principals: Principals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read waits for up to a minute, and what arrives then belongs to those who may read it then."""
    fetch: Callable[..., Any] = broker.fetch

    def revoke(*arguments: Any, **options: Any) -> Any:
        principals.rights.pop("alice", None)
        reload(client)
        put(broker, "t", b"secret")
        return fetch(*arguments, **options)

    monkeypatch.setattr(broker, "fetch", revoke)
    response = client.get("/messages/t/me/earliest", headers=key_of("alice"))
    assert response.status_code == 401
    assert "secret" not in response.text
