"""All kinds of credentials in front of the views and of the fast path, and settings that are errors at start."""

import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from flask.testing import FlaskClient

from kafka_http.config import ConfigError
from kafka_http.environ import CLIENT_CERTIFICATE
from kafka_http.security.api_keys import new_key
from kafka_http.security.json_web_tokens import LEEWAY
from tests.api.conftest import ClientFactory
from tests.support.fast_path_app import FastPathMiddleware
from tests.support.polling import wait_for
from tests.support.secured_kafka import Certificates
from tests.support.token_issuer import (
    AUDIENCE,
    ISSUER,
    KeySetServer,
    claims,
    jwk,
    new_private_key,
    public_pem,
    running_key_set_server,
    token,
    unsigned,
)

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


SIGNER = new_private_key("ES256")


@pytest.fixture
def key_set_server() -> Iterator[KeySetServer]:
    with running_key_set_server() as server:
        server.keys = [jwk(SIGNER, "ES256", kid="k")]
        yield server


def jwt_settings(**key: str) -> dict[str, Any]:
    return {"jwt": {"issuer": ISSUER, "audience": AUDIENCE, **key}}


def bearer(sent: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {sent}"}


def test_token_of_the_issuer_is_accepted_and_others_are_refused(
    make_client: ClientFactory, key_set_server: KeySetServer, is_fast_path: bool
) -> None:
    client = make_client(auth=jwt_settings(jwks_url=key_set_server.url))
    good = bearer(token(SIGNER, "ES256", "k"))
    for _ in range(3):
        assert client.put("/messages/t", data=b"x", headers=good).status_code == 200
    assert client.get("/messages/t/me/earliest", headers=good).status_code == 200
    assert taken(client) == is_fast_path * 2  # the first is verified in a thread
    assert key_set_server.requests == 1

    wrong = [token(SIGNER, "ES256", "other"), token(SIGNER, "ES256", "k", aud="x"), unsigned({"alg": "none"}, claims())]
    for sent in [*wrong, token(SIGNER, "ES256", "k", exp=1), KEY]:
        answer = client.put("/messages/t", data=b"x", headers=bearer(sent))
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="kafka_http"'
        assert sent not in answer.text


def test_token_is_a_503_while_the_keys_of_the_issuer_cannot_be_fetched(
    make_client: ClientFactory, key_set_server: KeySetServer
) -> None:
    key_set_server.status = 500
    client = make_client(auth=jwt_settings(jwks_url=key_set_server.url))

    answer = client.put("/messages/t", data=b"x", headers=bearer(token(SIGNER, "ES256", "k")))

    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"


def test_expired_token_is_refused_although_its_head_is_remembered(make_client: ClientFactory, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(public_pem(SIGNER))
    client = make_client(auth=jwt_settings(public_key=str(tmp_path / "key.pem")))
    headers = bearer(token(SIGNER, "ES256", exp=int(time.time()) - LEEWAY + 2))
    for _ in range(3):
        assert client.put("/messages/t", data=b"x", headers=headers).status_code == 200

    wait_for(lambda: client.put("/messages/t", data=b"x", headers=headers).status_code == 401)


def test_certificate_and_proxy_header_name_the_principal(make_client: ClientFactory, tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    tls = {"tls_cert": str(files.broker), "tls_client_ca": str(files.authority)}
    auth = {"mtls": "true", "proxy_header": "X-Remote-User"}
    client = make_client(auth=auth, trusted_proxies="10.0.0.0/8", **tls)
    certificate = {"subject": ((("commonName", "web-1"),),), "notAfter": "Jan  1 00:00:00 2100 GMT"}
    from_proxy: dict[str, Any] = {"REMOTE_ADDR": "10.0.0.1"}

    def status(environ: dict[str, Any], **headers: str) -> int:
        return client.put("/messages/t", data=b"x", headers=headers, environ_overrides=environ).status_code

    assert status({CLIENT_CERTIFICATE: certificate}) == 200
    assert status({CLIENT_CERTIFICATE: {**certificate, "subject": ()}}) == 401
    assert status(from_proxy, **{"X-Remote-User": "ann"}) == 200
    assert status({}, **{"X-Remote-User": "ann"}) == 401
    assert status({}, **{"X-Remote-User": "ann", "X-Forwarded-For": "10.0.0.1"}) == 401
    assert status(from_proxy, **{"X-Remote-User": "ann\tx"}) == 401
    assert status(from_proxy, **{"X-Remote-User": "ann", "Authorization": "Basic eDp5"}) == 401
    assert status(from_proxy) == 401
    assert not client.get("/messages").headers.get("WWW-Authenticate")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"auth": {"mtls": "true"}}, "auth.mtls needs tls_client_ca"),
        ({"auth": {"proxy_header": "X-User"}}, "auth.proxy_header needs trusted_proxies"),
        ({"auth": {"proxy_header": "X-User"}, "trusted_proxies": ()}, "auth.proxy_header needs trusted_proxies"),
        ({"auth": {"proxy_header": "X User"}}, "the name of a header"),
        ({"auth": {"basic": "missing"}}, "missing (auth.basic) cannot be read"),
        ({"auth": {"keys": "missing"}}, "missing (auth.keys) cannot be read"),
        ({"auth": jwt_settings(public_key="missing")}, "missing (auth.jwt.public_key) cannot be read"),
        ({"auth": jwt_settings()}, "[auth.jwt] needs either jwks_url or public_key"),
        ({"auth": jwt_settings(jwks_url="http://a/", public_key="b")}, "needs either jwks_url or public_key"),
        ({"auth": {"jwt": {"jwks_url": "http://a/"}}}, "[auth.jwt] needs issuer"),
        ({"auth": jwt_settings(jwks_url="https://me:planted@a/")}, "a URL without credentials"),
        ({"auth": jwt_settings(jwks_url="https://a?x@planted#")}, "a URL without credentials"),
        ({"auth": jwt_settings(jwks_url="https://a:99999/")}, "auth.jwt.jwks_url has a URL with an invalid port"),
        ({"auth": jwt_settings(jwks_url="http://a/", algorithms="HS256")}, "asymmetric algorithms"),
        ({"auth": jwt_settings(jwks_url="http://a/", algorithms="none")}, "asymmetric algorithms"),
        ({"auth": {"principal_from": "serial", "mtls": "true"}}, "principal_from"),
        ({"auth": {"anonymous": "publish"}}, "auth.anonymous needs a kind of authentication"),
    ],
    ids=range(17),
)
def test_faulty_settings_are_an_error_at_start(
    make_client: ClientFactory, settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        make_client(**settings)

    assert problem in str(raised.value)
    assert "planted" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "setting", "package"),
    [
        ({"basic": "users"}, "auth.basic", "bcrypt"),
        (jwt_settings(public_key="key.pem"), "auth.jwt", "jwt"),
        (jwt_settings(public_key="key.pem"), "auth.jwt", "cryptography"),
    ],
)
def test_missing_extra_is_an_error_that_names_it(
    make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], setting: str, package: str
) -> None:
    for name in ("passwords", "json_web_tokens", "issuer_keys"):
        monkeypatch.delitem(sys.modules, f"kafka_http.security.{name}", raising=False)
    for name in [each for each in sys.modules if each.partition(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(ConfigError) as raised:
        make_client(auth=settings)

    assert str(raised.value).startswith(f"{setting} needs the package {package}")
    assert "pip install '.[auth]'" in str(raised.value)


def test_application_without_auth_imports_no_package_of_the_extra() -> None:
    code = "import sys, kafka_http.app; print({'jwt', 'bcrypt', 'cryptography'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout == "set()\n"


@pytest.mark.parametrize("path", ["/health", "/ready"])
@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [("POST", {}, 405), ("GET", {"Connection": "Upgrade", "Upgrade": "websocket"}, 400)],
)
def test_health_checks_of_another_form_check_no_password(
    client: FlaskClient, path: str, method: str, headers: dict[str, str], status: int
) -> None:
    """The main loop runs all requests for /health, and nothing may block it, such as bcrypt."""
    response = client.open(path, method=method, headers=headers | basic("ann", "wrong"))

    assert response.status_code == status
