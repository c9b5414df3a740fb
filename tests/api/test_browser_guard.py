"""Protection against web pages of other origins: no writes, and on loopback no reads by DNS rebinding."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.api.conftest import ClientFactory, changed_environ
from tests.support.v2_consumer import Consumer

FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "https://localhost"},
    {"Origin": "http://localhost:8083"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost, http://evil.example"},
]
OWN = [
    {},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://other.example"},
    {"Origin": "http://localhost"},
    {"Origin": "http://localhost:80"},
    {"Origin": "HTTP://LOCALHOST"},
]
WRITES = [
    ("POST", "/messages/t"),
    ("PUT", "/messages/t"),
    ("PUT", "/messages/t/c/earliest"),
    ("DELETE", "/messages/t/c/0:0"),
    ("DELETE", "/messages/t/c"),
    ("GET", "/messages/t/c/0:1?ack=previous"),
    ("GET", "/messages/t/c/0:1?%61ck=previous"),
    ("POST", "/topics/t"),
    ("POST", "/consumers/g"),
    ("DELETE", "/consumers/g/instances/c"),
    ("GET", "/consumers/g/instances/c/records"),
    ("GET", "//consumers/g/instances/c//records/"),
    ("DELETE", "/tasks/1"),
    ("PATCH", "/nowhere"),
]


def refusal(response: Any) -> tuple[int, int]:
    return response.status_code, response.json.get("error_code") or response.json["error"]["code"]


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("is_fast_path", [False])
def test_cross_site_write_returns_403(client: FlaskClient, headers: dict[str, str]) -> None:
    for method, target in WRITES:
        path, _, query = target.partition("?")
        overrides = {"PATH_INFO": path}
        response = client.open("/", method=method, query_string=query, headers=headers, environ_overrides=overrides)
        assert refusal(response) == (403, 40302), (method, target)


@pytest.mark.parametrize("path", ["/messages/t", "/topics/t"])
def test_cross_site_publish_writes_nothing(client: FlaskClient, path: str) -> None:
    for headers in FOREIGN:
        response = client.post(path, json={"records": [{"value": 1}]}, headers=headers)
        assert refusal(response) == (403, 40302), headers
    assert client.get("/messages/t/c/earliest").json["records"] == []


@pytest.mark.parametrize("path", ["/messages/t", "/topics/t"])
def test_publish_from_own_origin_or_without_origin_is_accepted(client: FlaskClient, path: str) -> None:
    for headers in OWN:
        assert client.post(path, json={"records": [{"value": 1}]}, headers=headers).status_code == 200, headers


@pytest.mark.parametrize("is_fast_path", [False])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/messages/t/c/earliest"),
        ("GET", "/topics"),
        ("HEAD", "/messages"),
        ("OPTIONS", "/messages/t"),
        ("GET", "/console"),
    ],
)
def test_cross_site_read_is_allowed(make_client: ClientFactory, method: str, path: str) -> None:
    client = make_client(console=True)
    for headers in FOREIGN:
        assert client.open(path, method=method, headers=headers).status_code == 200, headers


@pytest.mark.parametrize("site", [None, "cross-site", "same-site"])
def test_write_from_an_origin_in_cors_origins_is_accepted(make_client: ClientFactory, site: str | None) -> None:
    client = make_client(cors_origins=["https://app.example.org", "http://localhost:3000", "https://*.example.com"])
    origins = {
        "https://app.example.org": 200,
        "https://APP.example.org:443": 200,
        "http://app.example.org": 403,
        "https://app.example.org:8443": 403,
        "http://localhost:3000": 200,
        "http://localhost:3001": 403,
        "https://a.b.example.com": 200,
        "https://example.com": 403,
        "https://notexample.com": 403,
        "https://a.example.com:444": 403,
        "http://a.example.com": 403,
        "null": 403,
    }
    for origin, status in origins.items():
        headers = {"Origin": origin} | ({} if site is None else {"Sec-Fetch-Site": site})
        assert client.put("/messages/t", data=b"x", headers=headers).status_code == status, origin
        assert client.get("/messages/t/c/0:0?ack=previous", headers=headers).status_code == status, origin


@pytest.mark.parametrize("is_fast_path", [False])
@pytest.mark.parametrize(
    "setting",
    [
        "**",
        "null",
        "example.org",
        "https://example.org/",
        "https://*",
        "https://a.*.org",
        "ftp://example.org",
        "https://example.org:0x1",
        "https://",
        "https://a b",
    ],
)
def test_cors_origins_that_is_not_an_origin_is_rejected(make_client: ClientFactory, setting: str) -> None:
    with pytest.raises(ValueError, match=r"cors_origins.*https://app\.example\.org"):
        make_client(cors_origins=[setting])


@pytest.mark.parametrize(
    ("headers", "origin", "status"),
    [
        ({"X-Forwarded-Proto": "https", "X-Forwarded-Host": "kafka.example.org"}, "https://kafka.example.org", 200),
        ({"X-Forwarded-Proto": "https", "X-Forwarded-Host": "kafka.example.org:443"}, "https://kafka.example.org", 200),
        ({"X-Forwarded-Host": "kafka.example.org:8080"}, "http://kafka.example.org:8080", 200),
        ({"X-Forwarded-Host": "kafka.example.org"}, "http://localhost", 403),
        ({"Forwarded": "host=gw:8443;proto=https"}, "https://gw:8443", 200),
    ],
)
def test_own_origin_comes_from_trusted_forwarded_headers(
    make_client: ClientFactory, headers: dict[str, str], origin: str, status: int
) -> None:
    response = make_client().put("/messages/t", data=b"x", headers={**headers, "Origin": origin})
    assert response.status_code == status
    strict = make_client(trusted_proxies="10.0.0.1")
    response = strict.put("/messages/t", data=b"x", headers={**headers, "Origin": "http://localhost"})
    assert response.status_code == 200
    response = strict.put(
        "/messages/t", data=b"x", headers={"X-Forwarded-Host": "evil.org", "Origin": "http://evil.org"}
    )
    assert response.status_code == 403


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("a_b.localhost:18500", "http://a_b.localhost:18500"),
        ("my~app.localhost", "http://my~app.localhost"),
        ("APP.localhost:80", "http://app.localhost"),
        ("app.localhost:", "http://app.localhost"),
        ("app.localhost:08080", "http://app.localhost:8080"),
        ("[::1]:8082", "http://[::1]:8082"),
    ],
)
def test_own_origin_comes_from_the_host_header(client: FlaskClient, host: str, origin: str) -> None:
    for sent, status in ((origin, 200), ("http://", 403), ("http://x", 403), (f"{origin}1", 403)):
        response = client.put("/messages/t", data=b"x", headers={"Host": host, "Origin": sent})
        assert response.status_code == status, sent


def test_own_origin_comes_from_base_url(make_client: ClientFactory) -> None:
    client = make_client(base_url="https://kafka.example.org/rest")
    for origin, status in (("https://kafka.example.org", 200), ("http://localhost", 403)):
        headers = {"Origin": origin, "X-Forwarded-Host": "localhost"}
        assert client.put("/messages/t", data=b"x", headers=headers).status_code == status


# DNS rebinding

LOCAL = ["localhost", "localhost:8082", "LOCALHOST.", "app.localhost:1", "127.0.0.1:8082", "192.0.2.7", "[::1]:8082"]
NAMES = ["evil.example", "evil.example:8082", "localhost.evil.example", "127.0.0.1.evil.example", "kafka", "x.127.1"]


@pytest.mark.parametrize("bind", ["127.0.0.1:8082", "[::1]:8082", "localhost:8082", "127.9.9.9:8082"])
def test_local_host_on_a_loopback_bind_is_accepted(make_client: ClientFactory, bind: str) -> None:
    client = make_client(bind=bind)
    for host in LOCAL:
        assert client.get("/messages", headers={"Host": host}).status_code == 200, host
        assert client.post("/messages/t", data=b"x", headers={"Host": host}).status_code == 200, host


@pytest.mark.parametrize("host", NAMES)
def test_foreign_host_on_a_loopback_bind_returns_421(client: FlaskClient, host: str) -> None:
    for path in ("/messages", "/topics", "/health", "/nowhere"):
        forwarded = {"X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"}
        response = client.get(path, headers={"Host": host, **forwarded})
        assert refusal(response) == (421, 421)
        assert "allowed_hosts" in response.text
        assert "base_url" in response.text
    assert refusal(client.post("/messages/t", data=b"x", headers={"Host": host})) == (421, 421)
    assert client.get("/messages/t/c/earliest").json["records"] == []


@pytest.mark.parametrize("bind", ["0.0.0.0:8082", "10.0.0.5:8082", "kafka.example.org:8082", "[::]:8082"])
def test_any_host_on_another_bind_is_accepted(make_client: ClientFactory, bind: str) -> None:
    client = make_client(bind=bind)
    for host in (*NAMES, *NAMES):
        assert client.get("/messages", headers={"Host": host}).status_code == 200
        assert client.post("/messages/t", data=b"x", headers={"Host": host}).status_code == 200


def test_hosts_from_the_settings_are_accepted(make_client: ClientFactory) -> None:
    client = make_client(
        base_url="https://kafka.example.org:8443/rest",
        node_url="http://node1:8082",
        allowed_hosts=["gateway", "*.apps.example.org"],
    )
    hosts = {
        "kafka.example.org": 200,
        "Kafka.Example.Org:99": 200,
        "node1:8082": 200,
        "gateway": 200,
        "a.apps.example.org": 200,
        "apps.example.org": 421,
        "other.example.org": 421,
    }
    for host, status in hosts.items():
        assert client.get("/messages", headers={"Host": host}).status_code == status
        assert client.put("/messages/t", data=b"x", headers={"Host": host}).status_code == status


def test_forwarded_host_behind_a_trusted_proxy_is_not_checked(client: FlaskClient) -> None:
    headers = {"X-Forwarded-Host": "kafka.example.org", "Host": "127.0.0.1:8082"}
    assert client.get("/messages", headers=headers).status_code == 200


@pytest.mark.parametrize("is_fast_path", [False])
@pytest.mark.parametrize(
    ("listener", "peer", "status"),
    [
        ("10.0.0.5", "10.0.0.7", 200),
        ("127.0.0.1", "127.0.0.1", 421),
        ("::1", "::1", 421),
        ("kafka", "127.0.0.1", 421),
        ("kafka", "", 200),
    ],
)
def test_any_host_on_a_listener_that_is_not_loopback_is_accepted(
    client: FlaskClient, listener: str, peer: str, status: int
) -> None:
    """A server other than `serve` may listen elsewhere than the setting bind says, such as on a Unix socket."""
    overrides = {"SERVER_NAME": listener, "REMOTE_ADDR": peer}
    assert client.get("/messages", headers={"Host": "kafka"}, environ_overrides=overrides).status_code == status


MALFORMED = [
    *("", "a b", "a/b", "<>", 'a"b', "[::1", "::1", "a:b", "a:80:80", "user@localhost", "a\\b"),
    *("[1::2::3]", "[]", "[::]]", "[127.0.0.1]", "[12345::]", "[localhost]", "[::1%lo]"),
    *("a..b", "a..localhost", ".localhost", "localhost..", ".", f"{'a' * 64}.localhost"),
    *("localhost:65536", "127.0.0.1:99999", "localhost:000080", "localhost:-1", "localhost:+1", ":8082"),
]


@pytest.mark.parametrize("bind", ["127.0.0.1:8082", "0.0.0.0:8082"])
def test_malformed_host_returns_400(make_client: ClientFactory, bind: str) -> None:
    """A host that Werkzeug cannot parse is rejected before anything is done, with an error of this server."""
    client = make_client(bind=bind)
    for host in MALFORMED:
        for method, path in (("GET", "/messages/t/c/earliest"), ("PUT", "/messages/t"), ("GET", "/health")):
            with changed_environ(client, HTTP_HOST=host):
                response = client.open(path, method=method, data=b"x", headers={"Origin": "http://x"})
            assert refusal(response) == (400, 400), host
            assert response.json["error"]["field"] == "Host"
            assert "Host" in response.json["error"]["message"]
    assert client.get("/messages/t/c/earliest").json["records"] == []


@pytest.mark.parametrize("is_fast_path", [False])
@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://evil.example/messages", 421),
        ("HTTP://evil.example:80?x=", 421),
        ("h+t.p-1://evil.example/messages", 421),
        ("http://user@localhost/messages", 400),
        ("http://a..localhost/messages", 400),
        ("http:///messages", 400),
        ("http://app.localhost:8082/messages", 200),
        ("/messages?x=http://evil.example", 200),
        ("//evil.example/messages", 200),
    ],
)
def test_host_of_an_absolute_target_replaces_the_host_header(client: FlaskClient, target: str, status: int) -> None:
    """RFC 9112, section 3.2.2."""
    overrides = {"RAW_URI": target}
    assert client.get("/messages", headers={"Host": "localhost"}, environ_overrides=overrides).status_code == status


def test_link_after_an_absolute_target_contains_its_host(client: FlaskClient) -> None:
    overrides = {"RAW_URI": "http://a.localhost:81/messages/t/c/earliest"}
    response = client.get("/messages/t/c/earliest", headers={"Host": "localhost"}, environ_overrides=overrides)
    assert response.headers["Link"].startswith("<http://a.localhost:81/messages/t/c/")


@pytest.mark.parametrize(("protocol", "status"), [("HTTP/1.1", 400), ("HTTP/1.0", 200)])
def test_missing_host_returns_400_except_in_http_1_0(client: FlaskClient, protocol: str, status: int) -> None:
    with changed_environ(client, HTTP_HOST=None, SERVER_PROTOCOL=protocol):
        assert client.get("/messages").status_code == status


@pytest.mark.parametrize("is_fast_path", [True])
def test_page_of_own_origin_publishes_on_the_fast_path(client: FlaskClient) -> None:
    before = client.application.wsgi_app.taken
    for headers in ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, {"Sec-Fetch-Site": "none"}):
        assert client.put("/messages/t", data=b"x", headers=headers).status_code == 200
    assert client.application.wsgi_app.taken == before + 2


def test_cross_site_read_of_an_instance_returns_403(client: FlaskClient) -> None:
    consumer = Consumer(client).assigned()
    client.put("/messages/t", data=b"1")
    assert consumer.call("GET", "/records", **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert consumer.values() == [1]
