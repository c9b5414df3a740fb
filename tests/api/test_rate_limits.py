"""Limits of principals and addresses, on the fast path and in the views."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kafka_http.config import ConfigError
from kafka_http.environ import CONNECTION
from kafka_http.errors import Unauthenticated
from kafka_http.security import security_state
from kafka_http.security.check_point import SecurityState
from kafka_http.security.principal import Credentials, Principal
from kafka_http.server.app_interface import Client, RequestPolicy
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.key_file import KeyFile

NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
UPLOAD = {"Content-Type": NDJSON, "Accept": NDJSON}
SLOW = {"requests": 0.001, "burst": 3000}
"""Three requests, and the next after a quarter of an hour."""
MANY_BYTES = {"bytes": 1024, "burst": 1000}


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class NameKeys:
    """An `Authenticator` whose keys are the names of the principals; `wrong` is not one."""

    scheme = "key"
    challenge = "Bearer"

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Principal | None:
        name = credentials.headers.get("x-api-key")
        if name == "wrong":
            raise Unauthenticated("Unknown key.")
        return None if name is None else Principal(name, "key")

    def is_current(self, principal: Principal) -> bool:
        return True


@pytest.fixture
def with_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Authenticate with `NameKeys`, and allow requests without a key."""
    before = security_state.load_security

    def load(*given: Any) -> SecurityState:
        return before(*given)._replace(authenticators=[NameKeys()], anonymous=frozenset(["publish", "read"]))

    monkeypatch.setattr("kafka_http.app.load_security", load)


def put(
    client: FlaskClient,
    body: bytes = b"x",
    path: str = "/messages/t",
    key: str = "",
    address: str = "",
    *,
    connection: Any = None,
    **headers: str,
) -> TestResponse:
    headers |= {"X-Api-Key": key} if key else {}
    environ = {"REMOTE_ADDR": address} if address else {}
    return client.put(path, data=body, headers=headers, environ_overrides={**environ, CONNECTION: connection})


def statuses(responses: Iterable[TestResponse]) -> list[int]:
    return [each.status_code for each in responses]


def limit_headers(response: TestResponse) -> tuple[str | None, ...]:
    return tuple(response.headers.get(f"RateLimit-{name}") for name in ("Limit", "Remaining", "Reset"))


def test_requests_over_the_limit_return_429_with_nothing_done(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(limits={"*": SLOW})

    answers = [put(client) for _ in range(5)]

    assert statuses(answers) == [200, 200, 200, 429, 429]
    assert [limit_headers(each)[:2] for each in answers[:3]] == [("3", "2"), ("3", "1"), ("3", "0")]
    assert 2900 < int(answers[2].headers["RateLimit-Reset"]) <= 3000
    refused = answers[3]
    assert refused.json is not None
    assert refused.json["error"]["code"] == 42902
    assert "The address 127.0.0.1 may send 0.001 requests per second" in refused.json["error"]["message"]
    assert 900 < int(refused.headers["Retry-After"]) <= 1000
    assert limit_headers(refused)[:2] == ("3", "0")
    assert len(broker.records("t")) == 3


def test_limit_refills_with_time(make_client: ClientFactory) -> None:
    client = make_client(limits={"*": {"requests": 10, "burst": 0.1}})
    assert put(client).status_code == 200
    refused = put(client)
    while refused.status_code == 429:  # at most a tenth of a second
        assert refused.headers["Retry-After"] == "1"
        refused = put(client)
    assert refused.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/messages", 200),
        ("GET", "/messages/missing", 404),
        ("PUT", "/messages/t?nonsense=1", 400),
        ("GET", "/nothing", 404),
        ("POST", "/topics/t", 400),
        ("GET", "/topics", 200),
    ],
)
def test_limit_headers_are_on_all_answers(make_client: ClientFactory, method: str, path: str, status: int) -> None:
    client = make_client(limits={"*": SLOW})
    answer = client.open(path, method=method)
    assert (answer.status_code, limit_headers(answer)) == (status, ("3", "2", "1000"))
    assert statuses(client.open(path, method=method) for _ in range(3)) == [status, status, 429]


def test_invalid_publish_counts_once(make_client: ClientFactory) -> None:
    """The fast path has counted it when it finds that a view must respond."""
    client = make_client(limits={"*": SLOW | {"bytes": 1024}})
    answers = [client.post("/topics/t", data=b"{", content_type="application/vnd.kafka.json.v2+json") for _ in range(4)]
    assert statuses(answers) == [400, 400, 400, 429]
    assert [limit_headers(each)[1] for each in answers] == ["2", "1", "0", "0"]


def test_answers_without_a_limit_have_no_limit_headers(make_client: ClientFactory) -> None:
    for limits in ({}, {"alice": SLOW}, {"*": {"streams": 1}}):
        answer = put(make_client(limits=limits))
        assert (answer.status_code, limit_headers(answer)) == (200, (None, None, None))


def test_health_is_not_limited(make_client: ClientFactory) -> None:
    client = make_client(limits={"*": SLOW})
    assert statuses(client.get("/health") for _ in range(9)) == [200] * 9


def test_body_over_the_limit_passes_once_and_delays_the_next(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(limits={"*": MANY_BYTES})
    answer = put(client, b"x" * 512_000)
    assert (answer.status_code, limit_headers(answer)) == (200, ("1024000", "512000", "500"))
    refused = put(client, b"x" * 600_000)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 86
    assert put(client, b"x" * 512_000).status_code == 200
    other = make_client(limits={"*": {"bytes": 1024, "burst": 2}})
    assert put(other, b"x" * 100_000).status_code == 200
    refused = put(other)
    assert refused.status_code == 429
    assert 60 < int(refused.headers["Retry-After"]) < 98
    assert len(broker.records("t")) == 3


def test_requests_and_bytes_are_counted_together_or_not_at_all(make_client: ClientFactory) -> None:
    client = make_client(limits={"*": SLOW | {"bytes": 1024}})
    assert limit_headers(put(client, b"x" * 500_000))[1] == "2"
    assert put(client, b"x" * (3000 << 10)).status_code == 429
    assert limit_headers(put(client))[1] == "1"


def test_addresses_have_limits_of_their_own(make_client: ClientFactory) -> None:
    client = make_client(limits={"*": SLOW})
    for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
        assert statuses(put(client, address=address) for _ in range(4)) == [200, 200, 200, 429]
    assert put(client, address="2001:db8::2").status_code == 429
    assert put(client, address="2001:db8:0:1::1").status_code == 200


@pytest.mark.usefixtures("with_keys")
def test_principal_has_the_limits_of_its_exact_entry_or_else_of_the_first_that_matches(
    make_client: ClientFactory,
) -> None:
    entries = {"web-*": {"requests": 0.001, "burst": 2000}, "*": {"requests": 0.001, "burst": 1000}, "web-1": SLOW}
    client = make_client(limits=entries)
    passed = {
        name: statuses(put(client, key=name) for _ in range(4)).count(200) for name in ("web-1", "web-2", "x", "")
    }
    assert passed == {"web-1": 3, "web-2": 2, "x": 1, "": 1}
    assert put(client, key="web-3", address="192.0.2.1").status_code == 200
    assert put(client, key="web-1", address="192.0.2.1").status_code == 429
    assert put(client, address="192.0.2.1").status_code == 200


@pytest.mark.usefixtures("with_keys")
def test_principal_without_an_entry_has_no_limit(make_client: ClientFactory) -> None:
    client = make_client(limits={"anonymous": SLOW})
    assert statuses(put(client, key="alice") for _ in range(9)) == [200] * 9
    assert statuses(put(client) for _ in range(4)) == [200, 200, 200, 429]


@pytest.mark.usefixtures("with_keys")
def test_wrong_credentials_are_limited_by_address_and_right_ones_still_pass(make_client: ClientFactory) -> None:
    client = make_client(limits={"*": SLOW})
    answers = [put(client, key="wrong") for _ in range(4)]
    assert statuses(answers) == [401, 401, 401, 429]
    assert (answers[0].headers["WWW-Authenticate"], limit_headers(answers[0])[1]) == ("Bearer", "2")
    assert put(client, key="alice").status_code == 200
    assert put(client, key="wrong", address="192.0.2.1").status_code == 401


def test_chunked_body_counts_when_it_was_read(make_client: ClientFactory) -> None:
    client = make_client(limits={"*": {"bytes": 1024}})
    chunked = {"headers": {"Transfer-Encoding": "chunked"}, "environ_overrides": {"wsgi.input_terminated": True}}
    assert client.put("/messages/t", data=b"x" * 100_000, **chunked).status_code == 200  # type: ignore[arg-type]
    assert put(client).status_code == 429


def test_streaming_upload_counts_its_bytes_as_they_arrive(make_client: ClientFactory) -> None:
    client = make_client(limits={"*": {"bytes": 1024}})
    upload = client.post("/messages/t", data=b"1\n" * 50_000, headers=UPLOAD, buffered=True)
    assert b'"done":true' in upload.data
    assert limit_headers(upload)[:2] == ("2048", "2048"), "the headers were sent before the body had arrived"
    assert put(client).status_code == 429
    assert client.post("/messages/t", data=b"1\n", headers=UPLOAD).status_code == 429


def test_streams_over_the_limit_return_429_until_one_is_closed(make_client: ClientFactory) -> None:
    client = make_client(limits={"*": {"streams": 2}})

    def stream(accept: str = EVENTS) -> TestResponse:
        return client.get("/messages/t/me/earliest", headers={"Accept": accept})

    first, second = stream(), stream(NDJSON)
    refused = stream()
    assert statuses([first, second, refused]) == [200, 200, 429]
    assert refused.headers["Retry-After"] == "5"
    assert "The address 127.0.0.1 may have 2 open streams" in refused.text
    assert (
        client.post("/messages/t", data=b"1\n", headers={"Content-Type": NDJSON, "Accept": NDJSON}).status_code == 429
    )
    assert client.get("/messages/t/me/earliest").status_code == 200, "a page is not a stream"
    first.close()
    third = stream()
    assert statuses([third, stream()]) == [200, 429]
    second.close()
    third.close()


def test_stream_that_fails_does_not_count(make_client: ClientFactory) -> None:
    client = make_client(limits={"*": {"streams": 1}})
    headers = {"Accept": EVENTS}
    for path, status in (("/messages/missing/me/earliest", 404), ("/messages/t/me/earliest?x=1", 400)):
        assert statuses(client.get(path, headers=headers) for _ in range(2)) == [status] * 2
    ended = client.get("/messages/t/me/earliest", headers=headers | {"Last-Event-ID": "0:0;end"})
    assert ended.status_code == 204
    with client.get("/messages/t/me/earliest", headers=headers) as stream:
        assert stream.status_code == 200


def test_request_over_the_limit_is_refused_before_its_body(make_client: ClientFactory) -> None:
    client = make_client(limits={"*": MANY_BYTES})
    hooks = client.application.extensions["kafka_http"]
    prepared = hooks.fast_path.prepare("PUT", "/messages/t", {"host": "localhost"}, Client("127.0.0.1"))
    assert [prepared.has_room(size) for size in (1_024_000, 9_000_000)] == [True, True]
    assert put(client, b"x" * 512_000).status_code == 200
    assert [prepared.has_room(size) for size in (512_000, 900_000)] == [True, False]
    policy: RequestPolicy = hooks.request_policy
    sizes = (900_000, 9_000_000, 512_000)
    decisions = [policy.admit("PUT", "/messages/t", {"host": "localhost"}, Client("127.0.0.1"), each) for each in sizes]
    assert [each and each.is_refused for each in decisions] == [True, True, False]
    assert not prepared.has_room(512_000), "the last one counts"


def test_connections_over_the_limit_of_an_address_are_not_admitted(make_client: ClientFactory) -> None:
    policy = make_client(limits={"*": {"connections": 2}}).application.extensions["kafka_http"].request_policy
    held = [policy.admit_connection("192.0.2.1") for _ in range(3)]
    assert [each is None for each in held] == [False, False, True]
    assert policy.admit_connection("192.0.2.2") is not None
    held[0].close()
    held[0].close()
    assert [policy.admit_connection("192.0.2.1") is None for _ in range(2)] == [False, True]
    assert None not in [policy.admit_connection("127.0.0.1") for _ in range(9)], "a trusted proxy"


def connect(client: FlaskClient, count: int, address: str = "127.0.0.1") -> list[Any]:
    """Open connections, as the server does."""
    policy = client.application.extensions["kafka_http"].request_policy
    return [policy.admit_connection(address) for _ in range(count)]


@pytest.mark.usefixtures("with_keys")
def test_connections_over_the_limit_of_a_principal_return_429_with_nothing_done(
    make_client: ClientFactory, broker: FakeBroker
) -> None:
    client = make_client(limits={"web-*": {"connections": 2}})
    connections = connect(client, 3)

    answers = [put(client, key="web-1", connection=each) for _ in range(2) for each in connections]

    assert statuses(answers) == [200, 200, 429] * 2
    assert [each.is_refused for each in connections] == [False, False, True]
    assert len(broker.records("t")) == 4
    refused = answers[2]
    assert refused.headers["Retry-After"] == "5"
    assert refused.get_json()["error"]["code"] == 42902
    assert "The principal web-1 may have 2 open connections" in refused.text
    assert put(client, key="other", connection=connections[2]).status_code == 200, "has no limit"
    connections[0].close()
    connections[0].close()
    assert statuses(put(client, key="web-1", connection=each) for each in connect(client, 2)) == [200, 429]


@pytest.mark.usefixtures("with_keys")
def test_connection_with_several_principals_counts_once_for_each(make_client: ClientFactory) -> None:
    client = make_client(limits={"web-*": {"connections": 1}})
    shared, other = connect(client, 2)
    principals = ["web-1", "web-2", "web-1", "web-2"]

    assert statuses(put(client, key=each, connection=shared) for each in principals) == [200] * 4
    assert statuses(put(client, key=each, connection=other) for each in principals) == [429] * 4
    shared.close()
    assert statuses(put(client, key=each, connection=other) for each in principals) == [200] * 4


def test_connection_without_an_admitted_request_does_not_count_for_a_principal(
    make_client: ClientFactory, tmp_path: Path
) -> None:
    keys = KeyFile(tmp_path / "keys.toml", ["web-1"])
    settings = {"access": {"*": {"publish": ["t"]}}, "limits": {"web-*": {"connections": 1}}}
    client = make_client(auth={"keys": str(keys.path)}, **settings)
    first, second, third = connect(client, 3)
    key = keys.headers("web-1")["X-Api-Key"]
    assert put(client, key="kh_wrong", connection=first).status_code == 401
    assert put(client, path="/messages/three", key=key, connection=first).status_code == 404
    health = client.get("/health", headers={"X-Api-Key": key}, environ_overrides={CONNECTION: second})
    assert health.status_code == 200
    assert put(client, key=key, connection=third).status_code == 200
    assert put(client, key=key, connection=first).status_code == 429


@pytest.mark.usefixtures("with_keys")
def test_reload_counts_open_connections_once(make_client: ClientFactory) -> None:
    client = make_client(limits={"web-*": {"connections": 1}})
    first, second = connect(client, 2)
    for _ in range(2):
        assert statuses(put(client, key="web-1", connection=each) for each in (first, second)) == [200, 429]
        client.application.extensions["kafka_http"].reload()
    first.close()
    assert put(client, key="web-1", connection=second).status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_connections_from_a_trusted_proxy_count_unless_they_carry_requests_of_others(
    make_client: ClientFactory, header: str
) -> None:
    client = make_client(limits={"*": {"connections": 2}})
    forwarded = {header: "192.0.2.1" if header.startswith("X") else "for=192.0.2.1"}
    assert statuses(put(client, connection=each, **forwarded) for each in connect(client, 5)) == [200] * 5
    assert statuses(put(client, connection=each) for each in connect(client, 3)) == [200, 200, 429]
    others = connect(client, 2, "192.0.2.9")
    assert connect(client, 1, "192.0.2.9") == [None], "counted when it is accepted"
    assert statuses(put(client, address="192.0.2.9", connection=each) for each in others) == [200, 200]


@pytest.mark.usefixtures("with_keys")
def test_connection_over_the_limit_is_refused_before_the_body(make_client: ClientFactory) -> None:
    client = make_client(limits={"web-*": {"connections": 1}})
    hooks = client.application.extensions["kafka_http"]
    first, second = connect(client, 2)
    headers = {"host": "localhost", "x-api-key": "web-1"}
    prepared = hooks.fast_path.prepare("PUT", "/messages/t", headers, Client("127.0.0.1", connection=first))
    assert [prepared.has_room(1, each) for each in (first, second)] == [True, False]
    decisions = [
        hooks.request_policy.admit("PUT", "/messages/t", headers, Client("127.0.0.1", connection=each), 1)
        for each in (first, second)
    ]
    assert [each.is_refused for each in decisions] == [False, True]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"*": {"request": 1}}, "limits.*.request"),
        ({"*": {"requests": 0}}, "limits.*.requests"),
        ({"*": {"bytes": "many"}}, "limits.*.bytes"),
        ({"*": {"burst": 0}}, "limits.*.burst"),
        ({"*": {"streams": -1}}, "limits.*.streams"),
        ({"web-*": {"connections": 0}}, "limits.web-*.connections"),
        ({"*": {"requests": 1}, "web-*": {"requests": 9}}, "limits.web-* has no effect: limits.* comes first"),
    ],
)
def test_faulty_limits_stop_the_start_with_the_name_of_the_setting(
    make_client: ClientFactory, limits: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_client(limits=limits)
    assert message in str(caught.value)


def test_reload_changes_the_limits_of_clients_that_are_known(make_client: ClientFactory, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[limits."*"]\nrequests = 0.001\nburst = 2000\n')
    client = make_client(config=str(file))
    assert statuses(put(client) for _ in range(3)) == [200, 200, 429]
    for text, passed in (('[limits."*"]\nrequests = 0.001\nburst = 3000\n', 3), ("", 9)):
        file.write_text(text)
        client.application.extensions["kafka_http"].reload()
        assert statuses(put(client) for _ in range(9)).count(200) == passed
    file.write_text('[limits."*"]\nrequests = 0\n')
    with pytest.raises(ConfigError):
        client.application.extensions["kafka_http"].reload()
    assert put(client).status_code == 200
