"""Forwarded headers of trusted proxies, and their effect on links."""

import pytest
from flask.testing import FlaskClient

from tests.api.conftest import ClientFactory, changed_environ


def link_of(client: FlaskClient, **headers: str) -> str:
    """Return the start of the link to the next page, before this server's own path."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = client.get("/messages/t/c/earliest", headers=named)
    assert response.status_code == 200, response.text
    link = response.headers["Link"]
    assert link.startswith("<")
    return link[1:].partition("/messages/t/c/")[0]


@pytest.mark.parametrize(
    ("forwarded", "base"),
    [
        ("host=gw:8443;proto=https", "https://gw:8443"),
        ('host="gw:8443";proto=https', "https://gw:8443"),
        ('HOST="gw" ; Proto=HTTPS', "https://gw"),
        ("host=gw:443;proto=https", "https://gw"),
        ("for=192.0.2.43, for=198.51.100.17;host=gw", "http://gw"),
        ('for="[2001:db8::1]:47011";host="[2001:db8::2]:8080"', "http://[2001:db8::2]:8080"),
        ('for="a,b;host=evil";host=gw', "http://gw"),
        ('for="quoted \\" mark;host=evil";host=gw', "http://gw"),
        ("host=evil,host=gw;proto=https", "https://gw"),
        ("host=evil, for=1.2.3.4", "http://localhost"),
        ("", "http://localhost"),
        ("nonsense", "http://localhost"),
        ("host=", "http://localhost"),
        ("proto=javascript", "http://localhost"),
        ("proto=ftp;host=gw", "http://gw"),
        ("host=gw/path", "http://localhost"),
        ('host="gw x"', "http://localhost"),
        ('host="a@b"', "http://localhost"),
        ('host="gw:99999"', "http://localhost"),
        ('host="gw:"', "http://gw"),
        ('host="gw:00081"', "http://gw:81"),
        ("host=_hidden", "http://_hidden"),
        ("host=a..b", "http://localhost"),
        ('host="[1::2::3]"', "http://localhost"),
        ('host="javascript:alert(1)"', "http://localhost"),
    ],
)
def test_forwarded_header_decides_the_link(client: FlaskClient, forwarded: str, base: str) -> None:
    assert link_of(client, Forwarded=forwarded) == base


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({"X-Forwarded-Host": "gw", "X-Forwarded-Port": "8443", "X-Forwarded-Proto": "https"}, "https://gw:8443"),
        ({"X-Forwarded-Host": "gw:80", "X-Forwarded-Port": "8080"}, "http://gw:8080"),
        ({"X-Forwarded-Host": "gw", "X-Forwarded-Port": "443", "X-Forwarded-Proto": "https"}, "https://gw"),
        ({"X-Forwarded-Port": "8080"}, "http://localhost:8080"),
        ({"X-Forwarded-Port": "8080, 9090"}, "http://localhost:9090"),
        ({"X-Forwarded-Host": "[::1]", "X-Forwarded-Port": "8080"}, "http://[::1]:8080"),
        ({"X-Forwarded-Host": "[::1]:1", "X-Forwarded-Port": "8080"}, "http://[::1]:8080"),
        ({"X-Forwarded-Port": "0"}, "http://localhost"),
        ({"X-Forwarded-Port": "65536"}, "http://localhost"),
        ({"X-Forwarded-Port": "80/x"}, "http://localhost"),
        ({"X-Forwarded-Port": "-1"}, "http://localhost"),
        ({"X-Forwarded-Proto": "javascript"}, "http://localhost"),
        ({"X-Forwarded-Proto": "https://evil"}, "http://localhost"),
        ({"X-Forwarded-Proto": "HTTPS"}, "https://localhost"),
        ({"X-Forwarded-Proto": "http, https"}, "https://localhost"),
        ({"X-Forwarded-Host": "evil.example/x?"}, "http://localhost"),
        ({"X-Forwarded-Host": "evil.example>"}, "http://localhost"),
        ({"X-Forwarded-Host": "user@evil.example"}, "http://localhost"),
        ({"X-Forwarded-Host": "\u00e9.example"}, "http://localhost"),
        ({"X-Forwarded-Host": "a, gw"}, "http://gw"),
        ({"X-Forwarded-Host": "gw, "}, "http://localhost"),
        ({"X-Forwarded-Host": "my_service:8080"}, "http://my_service:8080"),
        ({"X-Forwarded-Host": "a~b.example."}, "http://a~b.example."),
        ({"X-Forwarded-Host": "gw:", "X-Forwarded-Proto": "https"}, "https://gw"),
        ({"X-Forwarded-Host": "gw:", "X-Forwarded-Port": "8080"}, "http://gw:8080"),
        ({"X-Forwarded-Host": "gw:00080"}, "http://gw"),
        ({"X-Forwarded-Host": "gw:00080", "X-Forwarded-Proto": "https"}, "https://gw:80"),
        ({"X-Forwarded-Host": "gw:99999"}, "http://localhost"),
        ({"X-Forwarded-Host": "gw:000080"}, "http://localhost"),
        ({"X-Forwarded-Host": "[1::2::3]"}, "http://localhost"),
        ({"X-Forwarded-Host": "[127.0.0.1]"}, "http://localhost"),
        ({"X-Forwarded-Host": "[::ffff:127.0.0.1]:81"}, "http://[::ffff:127.0.0.1]:81"),
        ({"X-Forwarded-Host": "a..b"}, "http://localhost"),
        ({"X-Forwarded-Host": f"{'a' * 64}.b"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "/rest/"}, "http://localhost/rest"),
        ({"X-Forwarded-Prefix": "/a/b%20c"}, "http://localhost/a/b%20c"),
        ({"X-Forwarded-Prefix": "/%E2%82%AC"}, "http://localhost/%E2%82%AC"),
        ({"X-Forwarded-Prefix": "/.a/b../..."}, "http://localhost/.a/b../..."),
        ({"X-Forwarded-Prefix": "/a/../../b"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "/a/.."}, "http://localhost"),
        ({"X-Forwarded-Prefix": "./a"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "/a/%2e%2E/b"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "/a/.%2e"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "/a%zz"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "/"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "//evil.example"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "/\\evil.example"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "/a//b"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "/a b"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "/a>; rel=x"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "/a?b"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "/a#b"}, "http://localhost"),
        ({"X-Forwarded-Prefix": "javascript:alert(1)"}, "http://localhost/javascript:alert(1)"),
        ({"Forwarded": "host=gw:81", "X-Forwarded-Port": "8080", "X-Forwarded-Host": "other"}, "http://gw:81"),
        ({"Forwarded": "proto=https", "X-Forwarded-Host": "gw", "X-Forwarded-Port": "8443"}, "https://gw:8443"),
        ({"Forwarded": "host=a/b;proto=x", "X-Forwarded-Host": "gw", "X-Forwarded-Proto": "https"}, "https://gw"),
    ],
)
def test_x_forwarded_headers_decide_the_link(client: FlaskClient, headers: dict[str, str], base: str) -> None:
    assert link_of(client, **headers) == base


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("a_b.localhost", "http://a_b.localhost"),
        ("a~b.localhost:81", "http://a~b.localhost:81"),
        ("127.0.0.1:", "http://127.0.0.1"),
        ("[::1]:", "http://[::1]"),
        ("localhost:00080", "http://localhost"),
        ("localhost:0", "http://localhost:0"),
        ("Localhost.:65535", "http://Localhost.:65535"),
    ],
)
def test_link_contains_the_host_header(client: FlaskClient, host: str, base: str) -> None:
    assert link_of(client, Host=host) == base


@pytest.mark.parametrize(
    ("name", "port", "base"),
    [
        ("127.0.0.1", "8082", "http://127.0.0.1:8082"),
        ("::1", "80", "http://[::1]"),
        ("/run/kafka_http.sock", "", ""),
    ],
)
def test_link_without_host_header_contains_the_server_address(
    client: FlaskClient, name: str, port: str, base: str
) -> None:
    """HTTP/1.0, also over a Unix socket."""
    listener = {"SERVER_NAME": name, "SERVER_PORT": port, "SCRIPT_NAME": "/a b"}
    with changed_environ(client, HTTP_HOST=None, SERVER_PROTOCOL="HTTP/1.0", **listener):
        response = client.get("/messages/t/c/earliest")
    assert response.headers["Link"].startswith(f"<{base}/a%20b/messages/t/c/")


@pytest.mark.parametrize("host", ["[1::2::3]", "a..b", "gw:99999"])
def test_write_with_a_malformed_forwarded_host_is_accepted(client: FlaskClient, host: str) -> None:
    headers = {"X-Forwarded-Host": host, "Origin": "http://localhost"}
    assert client.put("/messages/t", data=b"x", headers=headers).status_code == 200


@pytest.mark.parametrize("prefix", ["//evil.example", "/\\evil.example", "/a b", "/a\tb", "/a/../b"])
def test_malformed_forwarded_prefix_is_not_in_location(make_client: ClientFactory, prefix: str) -> None:
    headers = {"Prefer": "respond-async", "X-Forwarded-Prefix": prefix}
    response = make_client().put("/messages/t", data=b"x", headers=headers)
    assert response.status_code == 202
    assert response.headers["Location"].startswith("/tasks/")


def test_forwarded_headers_of_untrusted_clients_are_ignored(make_client: ClientFactory) -> None:
    client = make_client(trusted_proxies="10.0.0.1")
    assert link_of(client, Forwarded="host=gw:1;proto=https", X_Forwarded_Port="1") == "http://localhost"
