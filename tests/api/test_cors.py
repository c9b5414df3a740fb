"""Cross-origin resource sharing: which pages may read the responses, on both paths, on errors and on streams."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.config import ConfigError
from kafka_http.errors import Unauthenticated
from kafka_http.security import security_state
from kafka_http.security.principal import Credentials, KeyRestriction, Principal
from tests.api.conftest import ClientFactory

APP = "https://app.example.org"
OTHER = "https://other.example"
LISTED = ["https://app.example.org", "http://*.dev.test:3000"]
EXPOSED = "Kafka-Next, Kafka-Ack, Kafka-Lease, Link, Location, Retry-After, X-Request-Id, Idempotency-Replayed"
PREFLIGHT = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type,kafka-key"}


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def sharing(response: Any) -> dict[str, str]:
    """The CORS headers of a response, without their prefix."""
    prefix = "Access-Control-"
    return {name.removeprefix(prefix): value for name, value in response.headers.items() if name.startswith(prefix)}


def varies_by_origin(response: Any) -> bool:
    return "Origin" in response.headers.get("Vary", "").split(", ")


ALLOWED = {"Allow-Origin": APP, "Expose-Headers": EXPOSED}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/messages", 200),
        ("PUT", "/messages/t", 200),
        ("POST", "/topics/t", 200),
        ("PUT", "/messages/t?unknown=1", 400),
        ("GET", "/messages/missing/c/earliest", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", "/messages", 405),
        ("GET", "/health", 200),
        ("GET", "/docs", 200),
        ("OPTIONS", "/messages/t", 200),
    ],
)
def test_response_to_a_listed_origin_can_be_read_by_its_page(
    make_client: ClientFactory, method: str, path: str, status: int
) -> None:
    client = make_client(cors_origins=LISTED)
    for origin in (APP, "http://a.b.dev.test:3000"):
        response = client.open(path, method=method, json={"records": [{"value": 1}]}, headers={"Origin": origin})
        assert response.status_code == status
        assert sharing(response) == {**ALLOWED, "Allow-Origin": origin}
        assert response.headers.getlist("Access-Control-Allow-Origin") == [origin]
        assert varies_by_origin(response)


@pytest.mark.parametrize("origin", [OTHER, "null", f"{APP}.evil.example", "http://app.example.org", "*"])
def test_response_to_another_origin_has_no_cors_headers(make_client: ClientFactory, origin: str) -> None:
    client = make_client(cors_origins=LISTED)
    for method, path in (("GET", "/messages"), ("PUT", "/messages/t"), ("GET", "/nowhere")):
        response = client.open(path, method=method, data=b"x", headers={"Origin": origin})
        assert sharing(response) == {}
        assert varies_by_origin(response), "a cache must not give it to a page of a listed origin"


def test_response_without_origin_header_varies_by_origin(make_client: ClientFactory) -> None:
    client = make_client(cors_origins=LISTED)
    for response in (client.get("/messages"), client.put("/messages/t", data=b"x")):
        assert (response.status_code, sharing(response), varies_by_origin(response)) == (200, {}, True)


def test_nothing_is_added_without_cors_origins(client: FlaskClient) -> None:
    for response in (
        client.get("/messages", headers={"Origin": APP}),
        client.put("/messages/t", data=b"x", headers={"Origin": "http://localhost"}),
    ):
        assert response.status_code == 200
        assert sharing(response) == {}
        assert not varies_by_origin(response)


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_stream_can_be_read_by_a_page_of_a_listed_origin(make_client: ClientFactory, accept: str) -> None:
    client = make_client(cors_origins=LISTED)
    assert client.put("/messages/t", data=b"x").status_code == 200
    headers = {"Origin": APP, "Accept": accept}
    with client.get("/messages/t/c/earliest?limit=1", headers=headers) as response:
        assert response.status_code == 200
        assert response.content_type.startswith(accept)
        assert sharing(response) == ALLOWED


def test_streaming_upload_can_be_read_by_a_page_of_a_listed_origin(make_client: ClientFactory) -> None:
    headers = {"Origin": APP, "Accept": "application/x-ndjson", "Content-Type": "application/x-ndjson"}
    client = make_client(cors_origins=LISTED)
    with client.post("/messages/t", data=b"1\n2\n", headers=headers) as response:
        assert response.status_code == 200
        assert sharing(response) == ALLOWED


@pytest.mark.usefixtures("is_fast_path")
def test_page_of_a_listed_origin_publishes_on_the_fast_path(make_client: ClientFactory, is_fast_path: bool) -> None:
    client = make_client(cors_origins=LISTED)
    for _ in range(2):
        response = client.put("/messages/t", data=b"x", headers={"Origin": APP, "Sec-Fetch-Site": "cross-site"})
        assert (response.status_code, sharing(response)) == (200, ALLOWED)
    wsgi: Any = client.application.wsgi_app
    assert not is_fast_path or wsgi.taken == 2


# Preflight requests


def preflight(client: FlaskClient, origin: str = APP, path: str = "/messages/t", **headers: str) -> Any:
    return client.options(path, headers={"Origin": origin, **PREFLIGHT, **headers})


@pytest.mark.parametrize("path", ["/messages/t", "/topics/t", "/consumers/g/instances/i/records", "/nowhere"])
def test_preflight_of_a_listed_origin_is_allowed(make_client: ClientFactory, path: str) -> None:
    response = preflight(make_client(cors_origins=LISTED), path=path)
    assert (response.status_code, response.data) == (204, b"")
    assert sharing(response) == {
        **ALLOWED,
        "Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
        "Allow-Headers": "content-type, kafka-key",
        "Max-Age": "600",
    }
    assert varies_by_origin(response)
    assert "Access-Control-Request-Headers" in response.headers["Vary"]


def test_preflight_allows_all_headers_that_are_tokens(make_client: ClientFactory) -> None:
    client = make_client(cors_origins=LISTED, cors_max_age=5)
    names = "authorization, kafka-header-x, kafka-header-base64-y, idempotency-key, x-api-key"
    response = preflight(client, **{"Access-Control-Request-Headers": names})
    assert sharing(response)["Allow-Headers"] == names
    assert sharing(response)["Max-Age"] == "5"
    response = preflight(client, **{"Access-Control-Request-Headers": f"a b,<c>, ,{'x' * 300},good"})
    assert sharing(response)["Allow-Headers"] == "good"
    response = preflight(client, **{"Access-Control-Request-Headers": ",".join(f"h{each}" for each in range(1000))})
    assert len(sharing(response)["Allow-Headers"]) < 1000


@pytest.mark.parametrize("origin", [OTHER, "null"])
def test_preflight_of_another_origin_returns_403(make_client: ClientFactory, origin: str) -> None:
    for settings in ({"cors_origins": LISTED}, {}):
        response = preflight(make_client(**settings), origin)
        assert (response.status_code, response.json["error"]["code"]) == (403, 40302)
        assert "cors_origins" in response.json["error"]["message"]
        assert sharing(response) == {}


@pytest.mark.parametrize(("origin", "is_allowed"), [(APP, True), (OTHER, False)])
def test_preflight_allows_the_private_network_to_listed_origins(
    make_client: ClientFactory, origin: str, is_allowed: bool
) -> None:
    client = make_client(cors_origins=[*LISTED, "*"])
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Private-Network": "true"}
    response = client.options("/messages", headers={"Origin": origin, **asked})
    assert response.status_code == 204
    assert sharing(response).get("Allow-Private-Network") == ("true" if is_allowed else None)
    assert "Allow-Private-Network" not in sharing(preflight(client))


# Every origin may read


def test_star_lets_pages_of_all_origins_read_only(make_client: ClientFactory) -> None:
    client = make_client(cors_origins=["*"])
    response = client.get("/messages", headers={"Origin": OTHER})
    assert sharing(response) == {"Allow-Origin": "*", "Expose-Headers": EXPOSED}
    assert varies_by_origin(response)
    for method, path in (
        ("PUT", "/messages/t"),
        ("POST", "/topics/t"),
        ("GET", "/messages/t/c/0:1?ack=previous"),
        ("GET", "/consumers/g/instances/i/records"),
    ):
        refused = client.open(path, method=method, data=b"x", headers={"Origin": OTHER})
        assert refused.status_code == 403, path
    assert client.get("/messages/t/c/earliest").json["records"] == []


def test_star_allows_preflights_of_reads_without_credentials(make_client: ClientFactory) -> None:
    client = make_client(cors_origins=["*"])
    assert preflight(client, OTHER).status_code == 403
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "accept,authorization,x-api-key"}
    response = preflight(client, OTHER, **asked)
    assert (response.status_code, sharing(response)["Allow-Headers"]) == (204, "accept")
    assert sharing(response)["Allow-Methods"] == "GET, HEAD"
    assert sharing(response)["Allow-Origin"] == "*"


def test_listed_origin_beside_star_may_write(make_client: ClientFactory) -> None:
    client = make_client(cors_origins=["*", APP])
    response = client.put("/messages/t", data=b"x", headers={"Origin": APP})
    assert (response.status_code, sharing(response)) == (200, ALLOWED)


# Credentials


def test_cors_credentials_lets_listed_origins_send_credentials(make_client: ClientFactory) -> None:
    client = make_client(cors_origins=LISTED, cors_credentials=True)
    for response in (
        client.get("/messages", headers={"Origin": APP}),
        client.put("/messages/t", data=b"x", headers={"Origin": APP}),
        preflight(client),
    ):
        assert sharing(response)["Allow-Credentials"] == "true"
    assert sharing(client.get("/messages", headers={"Origin": OTHER})) == {}


@pytest.mark.parametrize("origins", [["*"], ["*", APP]])
def test_cors_credentials_with_star_is_rejected_at_start(make_client: ClientFactory, origins: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"cors_credentials.*cors_origins"):
        make_client(cors_origins=origins, cors_credentials=True)


KEYS = {
    "kh_any": KeyRestriction(),
    "kh_app": KeyRestriction(origins=(APP, "https://*.example.net")),
    "kh_none": KeyRestriction(origins=()),
    "kh_few": KeyRestriction(),
    "kh_few_of_app": KeyRestriction(origins=(APP,)),
}


class Keys:
    """An `Authenticator` with a key for each restriction to origins."""

    scheme = "key"
    challenge = 'Bearer realm="kafka_http"'

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Principal | None:
        sent = credentials.headers.get("x-api-key", credentials.access_key)
        if sent not in KEYS:
            raise Unauthenticated("Unknown key.")
        return Principal(sent.removeprefix("kh_"), "key", restriction=KEYS[sent])

    def is_current(self, principal: Principal) -> bool:
        return True


@pytest.fixture
def guarded(make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """A client of a server that needs keys. A key `kh_few…` is for one request in 100 seconds."""
    before = security_state.load_security

    def load(*args: Any) -> Any:
        return before(*args)._replace(authenticators=[Keys()])

    monkeypatch.setattr("kafka_http.app.load_security", load)
    return make_client(cors_origins=LISTED, limits={"few*": {"requests": 0.01, "burst": 100}})


def test_preflight_needs_no_credentials(guarded: FlaskClient) -> None:
    assert preflight(guarded).status_code == 204
    assert preflight(guarded, OTHER).status_code == 403
    assert guarded.options("/messages/t", headers={"Origin": APP}).status_code == 401, "not a preflight request"


def test_refusal_can_be_read_by_a_page_of_a_listed_origin(guarded: FlaskClient) -> None:
    refused = guarded.put("/messages/t", data=b"x", headers={"Origin": APP, "X-Api-Key": "kh_wrong"})
    assert (refused.status_code, sharing(refused)) == (401, ALLOWED)
    assert refused.headers["WWW-Authenticate"]


def test_responses_of_a_limited_key_have_the_headers_of_both(guarded: FlaskClient) -> None:
    sent = {"Origin": APP, "X-Api-Key": "kh_few"}
    for expected in (200, 429, 429):
        response = guarded.put("/messages/t", data=b"x", headers=sent)
        assert (response.status_code, "RateLimit-Limit" in response.headers) == (expected, True)
        assert sharing(response) == ALLOWED
        assert varies_by_origin(response)
    assert response.headers["Retry-After"]
    assert sharing(guarded.get("/messages", headers=sent)) == ALLOWED


def test_refusal_of_a_page_of_another_origin_counts_for_its_key(guarded: FlaskClient) -> None:
    sent = {"X-Api-Key": "kh_few_of_app", "Origin": "http://localhost"}
    assert [guarded.put("/messages/t", data=b"x", headers=sent).status_code for _ in range(2)] == [403, 429]


@pytest.mark.parametrize(
    ("key", "origin", "status"),
    [
        ("kh_app", APP, 200),
        ("kh_app", "http://localhost", 403),
        ("kh_app", "http://a.dev.test:3000", 403),
        ("kh_app", OTHER, 403),
        ("kh_app", "null", 403),
        ("kh_app", None, 403),
        ("kh_none", APP, 403),
        ("kh_any", None, 200),
        ("kh_any", APP, 200),
        ("kh_any", "http://localhost", 200),
    ],
)
def test_key_with_origins_is_accepted_from_pages_of_these_origins_only(
    guarded: FlaskClient, key: str, origin: str | None, status: int
) -> None:
    headers = {"X-Api-Key": key} | ({} if origin is None else {"Origin": origin})
    for _ in range(2):
        assert guarded.put("/messages/t", data=b"x", headers=headers).status_code == status
    read = guarded.get("/messages", headers=headers)
    assert read.status_code == status
    if status == 403 and origin in (None, "http://localhost"):
        assert read.json["error"]["code"] == 40302
        assert key.removeprefix("kh_") in read.json["error"]["message"]


def test_beacon_with_a_key_in_the_query_publishes(guarded: FlaskClient) -> None:
    """`navigator.sendBeacon` sends a POST of text/plain, and no header of its own."""
    sent = {"Content-Type": "text/plain;charset=UTF-8", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    url = "/messages/t?access_key="
    assert guarded.post(f"{url}kh_app", data="x", headers={**sent, "Origin": APP}).status_code == 200
    assert guarded.post(f"{url}kh_app", data="x", headers={**sent, "Origin": OTHER}).status_code == 403
    assert guarded.post(f"{url}kh_wrong", data="x", headers={**sent, "Origin": APP}).status_code == 401


# Reload


def test_reload_replaces_the_origins(make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that the fast path remembers have the headers of the origins before."""
    from kafka_http.security.origins import Origins

    client = make_client(cors_origins=LISTED)
    check_point = client.application.extensions["kafka_http"].security.check_point
    before = security_state.load_security

    def publish(origin: str) -> tuple[int, dict[str, str]]:
        response = client.put("/messages/t", data=b"x", headers={"Origin": origin})
        return response.status_code, sharing(response)

    assert publish(APP) == (200, ALLOWED)
    assert publish(OTHER) == (403, {})
    changed = Origins([OTHER])
    monkeypatch.setattr("kafka_http.app.load_security", lambda *args: before(*args)._replace(origins=changed))
    check_point.reload()
    assert publish(APP) == (403, {})
    assert publish(OTHER) == (200, {**ALLOWED, "Allow-Origin": OTHER})
    assert preflight(client).status_code == 403
    assert preflight(client, OTHER).status_code == 204


# The Host header


@pytest.mark.parametrize(
    ("anonymous", "schemes", "is_checked"),
    [((), ["key"], False), (("read",), ["key"], True), ((), ["key", "proxy"], True), ((), [], True)],
)
def test_host_is_checked_if_requests_without_a_secret_are_accepted(
    make_client: ClientFactory,
    monkeypatch: pytest.MonkeyPatch,
    anonymous: tuple[str, ...],
    schemes: list[str],
    is_checked: bool,
) -> None:
    """DNS rebinding gives a page this server's origin, but no secret."""
    before = security_state.load_security
    states = [schemes]

    def load(*args: Any) -> Any:
        kinds = [Keys() for _ in states[-1]]
        for kind, scheme in zip(kinds, states[-1], strict=True):
            kind.scheme = scheme
        return before(*args)._replace(authenticators=kinds, anonymous=frozenset(anonymous))

    monkeypatch.setattr("kafka_http.app.load_security", load)
    client = make_client()
    headers = {"X-Api-Key": "kh_any", "Host": "kafka.example.org"}
    expected = 421 if is_checked else 200
    for _ in range(2):
        assert client.get("/messages", headers=headers).status_code == expected
        assert client.put("/messages/t", data=b"x", headers=headers).status_code == expected
    states.append([])
    client.application.extensions["kafka_http"].security.check_point.reload()
    assert client.get("/messages", headers=headers).status_code == 421, "what was accepted before is checked again"
    assert client.put("/messages/t", data=b"x", headers=headers).status_code == 421
