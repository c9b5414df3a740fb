"""Principals in the access log and in the lines about refusals. No line has a credential."""

from collections.abc import Mapping

import pytest
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder
from werkzeug.wsgi import ClosingIterator

from kafka_http.environ import PRINCIPAL, split_access_key, without_access_key
from kafka_http.errors import Unauthenticated
from kafka_http.logs import word_text
from kafka_http.security.access import NameFilter, Rights
from kafka_http.security.refusal_log import MAX_LINES, RefusalLog
from tests.api.conftest import ClientFactory
from tests.support.named_principals import NamedPrincipals, key_of

LOG = "kafka_http.security.refusal_log"
RIGHTS = {"alice": Rights(publish=NameFilter((("t",),))), "Bob B": Rights(read=NameFilter((("t",),)))}


@pytest.fixture
def client(make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    NamedPrincipals(RIGHTS).use(monkeypatch)
    return make_client()


class Refusals:
    """The lines about refusals."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", LOG)
        self._caplog = caplog

    @property
    def lines(self) -> list[str]:
        return [each.getMessage() for each in self._caplog.records if each.name == LOG]


@pytest.fixture
def refusals(caplog: pytest.LogCaptureFixture) -> Refusals:
    return Refusals(caplog)


def principal_of(client: FlaskClient, method: str, path: str, headers: Mapping[str, str]) -> str:
    """Return what the access log of a server with this application would have."""
    environ = EnvironBuilder(path, method=method, data=b"x", headers=headers).get_environ()
    ClosingIterator(client.application.wsgi_app(environ, lambda *_: bytes)).close()
    return str(environ.get(PRINCIPAL, "-"))


def test_environ_has_the_principal_for_the_access_log(client: FlaskClient) -> None:
    assert principal_of(client, "PUT", "/messages/t", key_of("alice")) == "alice"
    assert principal_of(client, "PUT", "/messages/t", key_of("Bob B")) == "Bob%20B", "also for a 403"
    assert principal_of(client, "PUT", "/messages/hidden", key_of("alice")) == "alice", "also for a 404"
    assert principal_of(client, "PUT", "/messages/t", key_of("mallory")) == "-"
    assert principal_of(client, "PUT", "/messages/t", {}) == "-"
    assert principal_of(client, "GET", "/health", {}) == "-"


def test_principal_is_absent_while_authentication_is_off(make_client: ClientFactory) -> None:
    assert principal_of(make_client(), "PUT", "/messages/t", key_of("alice")) == "-"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "-"),
        ("-", "%2D"),
        ("alice@example.org", "alice@example.org"),
        ('a "GET /" 200', "a%20%22GET%20/%22%20200"),
        ("50%", "50%25"),
        ("Jürgen", "Jürgen"),
        ("a\u00a0b", "a%C2%A0b"),
    ],
)
def test_principal_in_a_log_line_is_one_word(name: str, text: str) -> None:
    assert word_text(name) == text


@pytest.mark.parametrize(
    ("path", "principal", "logged"),
    [
        ("/messages/t", "Bob B", "principal Bob%20B, client 127.0.0.1: 40302 Bob B does not have the right publish"),
        ("/messages/hidden", "alice", "principal alice, client 127.0.0.1: 40401 Topic not found"),
        ("/messages/t", "mallory", "principal -, client 127.0.0.1: 40101 Unknown key"),
    ],
)
def test_refusal_is_logged_with_its_principal_and_address(
    client: FlaskClient, refusals: Refusals, path: str, principal: str, logged: str
) -> None:
    client.put(f"{path}?access_key=kh_planted", data=b"x", headers=key_of(principal))
    (line,) = refusals.lines
    assert line.startswith(f"Refused PUT {path}, {logged}")
    assert "planted" not in line


def test_refused_path_is_one_word_and_malformed_address_is_ignored(client: FlaskClient, refusals: Refusals) -> None:
    """A client must not add a principal to the line."""
    headers = key_of("alice") | {"X-Forwarded-For": "192.0.2.9, principal root"}
    client.put("/messages/hidden,%20principal%20root", data=b"x", headers=headers)
    (line,) = refusals.lines
    assert line.startswith("Refused PUT /messages/hidden,%20principal%20root, principal alice, client 127.0.0.1:")


def test_refusals_of_one_address_have_one_line_in_a_second(monkeypatch: pytest.MonkeyPatch, refusals: Refusals) -> None:
    now = 100.5
    monkeypatch.setattr("kafka_http.security.refusal_log.time.monotonic", lambda: now)
    log, error = RefusalLog(), Unauthenticated("Unknown key.")
    for _ in range(5):
        log.log(error, "PUT /messages/t", "", "192.0.2.1")
    log.log(error, "PUT /messages/t", "", "192.0.2.2")
    now = 101.5
    log.log(error, "PUT /messages/t", "", "192.0.2.1")
    first, second, third = refusals.lines
    assert "192.0.2.1" in first
    assert second == "Refused PUT /messages/t, principal -, client 192.0.2.2: 40101 Unknown key. " + (
        "(4 more refusals were not logged)"
    )
    assert "192.0.2.1" in third


def test_refusals_of_many_addresses_have_a_limited_number_of_lines(refusals: Refusals) -> None:
    log = RefusalLog()
    for number in range(20 * MAX_LINES):
        log.log(Unauthenticated("Unknown key."), "GET /", "", f"192.0.2.{number}")
    assert len(refusals.lines) <= 2 * MAX_LINES  # two seconds may have begun


@pytest.mark.parametrize(
    ("query", "rest", "key"),
    [
        ("", "", None),
        ("key=a&b", "key=a&b", None),
        ("access_key=kh_1", "", "kh_1"),
        ("key=a&access_key=kh_1&b=%20", "key=a&b=%20", "kh_1"),
        ("acc%65ss_key=kh%5F1", "", "kh_1"),
        ("access_key=kh_1&access_key=kh_2", "", "kh_2"),
    ],
)
def test_access_key_is_split_off_the_query(query: str, rest: str, key: str | None) -> None:
    assert split_access_key(query) == (rest, key)
    target = f"/messages/t?{query}#end"
    expected = target if key is None else f"/messages/t{'?' if rest else ''}{rest}#end"
    assert without_access_key(target) == expected
