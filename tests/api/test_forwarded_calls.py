"""Calls between nodes: the second node takes the principal from a header, which counts only with the nodes' secret."""

import json
import ssl
import threading
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from kafka_http import app as app_module
from kafka_http.config import ConfigError
from kafka_http.consumers.instance_service import RemoteNode
from kafka_http.errors import RateLimited
from kafka_http.security.access import ALL_RIGHTS, Rights
from kafka_http.security.forwarded_calls import NODE_HEADER, PRINCIPAL_HEADER
from kafka_http.security.principal import KeyRestriction
from kafka_http.security.rate_limits import NoLimits
from tests.api.conftest import ClientFactory
from tests.support.certificates import Authority
from tests.support.fake_broker import FakeBroker
from tests.support.planted_secrets import plant
from tests.support.polling import wait_for
from tests.support.stub_access import CHALLENGE, StubAccess, names
from tests.support.v2_consumer import V2, next_lease, write

SECRET = plant("secret-of-the-nodes")
INSTANCE = "/consumers/g/instances/i"
RIGHTS = {
    "alice": Rights(read=names("*"), consumer=names("*")),
    "bob": Rights(read=names("*"), consumer=names("*")),
    "root": ALL_RIGHTS,
}


class Locator:
    """An `InstanceLocator`: `node` holds all instances; None: this node does."""

    node: RemoteNode | None = None

    def locate(self, group: str, name: str, secret: str) -> RemoteNode | None:
        return self.node

    def node_secret(self) -> str:
        return SECRET


@pytest.fixture
def access(monkeypatch: pytest.MonkeyPatch) -> StubAccess:
    access = StubAccess(RIGHTS)
    access.install(monkeypatch)
    return access


@pytest.fixture
def locators(monkeypatch: pytest.MonkeyPatch) -> list[Locator]:
    """The locators of the applications that the test creates, in their order."""
    made: list[Locator] = []
    before = app_module._inline_node

    def inline_node(*arguments: Any) -> Any:
        made.append(Locator())
        return before(*arguments)._replace(locator=made[-1])

    monkeypatch.setattr(app_module, "_inline_node", inline_node)
    return made


@pytest.fixture
def node(access: StubAccess, locators: list[Locator], make_client: ClientFactory) -> FlaskClient:
    """A node that holds the instance `i` of alice."""
    client = make_client()
    answer = client.post("/consumers/g", json={"name": "i", "format": "json"}, headers={"X-Api-Key": "kh_alice"})
    assert answer.status_code == 200
    return client


def header(name: str = "alice", scheme: str = "key", **more: Any) -> str:
    return urlsafe_b64encode(json.dumps({"name": name, "scheme": scheme, **more}).encode()).decode()


def forwarded(principal: str | None, secret: str = SECRET) -> dict[str, str]:
    return {NODE_HEADER: secret} | ({} if principal is None else {PRINCIPAL_HEADER: principal})


def test_forwarded_call_is_made_by_the_principal_in_its_header(node: FlaskClient) -> None:
    for name, expected in (("alice", 200), ("bob", 404), ("root", 200), ("unknown", 403)):
        answer = node.get(f"{INSTANCE}/subscription", headers=forwarded(header(name)))
        assert answer.status_code == expected, name


@pytest.mark.parametrize("secret", ["", "1", SECRET[:-1], f"{SECRET}1", "é"])
def test_principal_in_a_header_without_the_secret_does_not_count(node: FlaskClient, secret: str) -> None:
    headers = forwarded(header(), secret)
    refused = node.get(f"{INSTANCE}/subscription", headers=headers)
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, CHALLENGE)
    as_bob = node.get(f"{INSTANCE}/subscription", headers={**headers, "X-Api-Key": "kh_bob"})
    assert as_bob.status_code == 404, "its own credentials decide"


@pytest.mark.parametrize(("principal", "status"), [(None, 401), (header("", "off"), 401), ("?", 400), ("e30=", 400)])
def test_forwarded_call_without_principal_is_refused(node: FlaskClient, principal: str | None, status: int) -> None:
    answer = node.get(f"{INSTANCE}/subscription", headers=forwarded(principal))
    assert answer.status_code == status
    assert SECRET not in answer.text


@pytest.mark.parametrize("path", ["/messages", "/tasks", "/instances", "/topics/t"])
def test_secret_opens_nothing_but_consumer_instances(node: FlaskClient, path: str) -> None:
    assert node.get(path, headers=forwarded(header("root"))).status_code == 401


def test_groups_and_restriction_of_the_principal_are_forwarded(node: FlaskClient, access: StubAccess) -> None:
    narrowed = header(restriction={"publish_only": True})
    assert node.get(f"{INSTANCE}/subscription", headers=forwarded(narrowed)).status_code == 403
    seen: list[Any] = []
    before = access.rights_of
    access.rights_of = lambda principal, address: (seen.append((principal, address)), before(principal, address))[1]  # type: ignore[method-assign]
    more = {"groups": ["g1", "g2"], "address": "192.0.2.1", "restriction": {"topics": ["t"]}}
    assert node.get(f"{INSTANCE}/subscription", headers=forwarded(header("alice", "jwt", **more))).status_code == 200
    ((principal, address),) = seen
    assert (principal.groups, address, principal.scheme) == ({"g1", "g2"}, "192.0.2.1", "jwt")
    assert principal.restriction == KeyRestriction(topics=("t",))


def test_forwarded_read_that_waits_survives_a_reload(
    node: FlaskClient, access: StubAccess, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This node does not know the credentials, so it only checks the rules again."""
    access.is_current = lambda _: False  # type: ignore[method-assign]
    headers = {**forwarded(header()), "Content-Type": V2, "Accept": "*/*"}
    assert node.post(f"{INSTANCE}/subscription", json={"topics": ["t"]}, headers=headers).status_code == 204
    wait_for(lambda: node.get(f"{INSTANCE}/assignments", headers=headers).json["partitions"])  # type: ignore[index]
    has_begun = next_lease(monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(node.get, f"{INSTANCE}/records?timeout=20000", headers=headers)
        assert has_begun.wait(10)
        node.application.extensions["kafka_http"].reload()
        write(broker, b"1")
        assert [each["value"] for each in waiting.result().json] == [1]


class Exhausted(NoLimits):
    """Limits that no request is within."""

    is_on = True

    def of(self, *_: Any) -> Any:
        return self

    def take(self, *_: Any) -> Any:
        raise RateLimited("Too many requests.")


def test_forwarded_call_is_not_counted_again(
    access: StubAccess, locators: list[Locator], make_client: ClientFactory
) -> None:
    access.limits = Exhausted()
    node = make_client()
    assert node.get(f"{INSTANCE}/subscription", headers={"X-Api-Key": "kh_alice"}).status_code == 429
    assert node.get(f"{INSTANCE}/subscription", headers=forwarded(header())).status_code == 404


@contextmanager
def serving(app: Flask, authority: Authority | None = None) -> Iterator[str]:
    """Serve an application in a thread, over TLS if there is an authority, and yield its URL."""
    context = None
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.server())
    server = make_server("localhost", 0, app, threaded=True, ssl_context=context)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"{'http' if authority is None else 'https'}://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
def test_call_through_another_node_keeps_its_principal(
    node: FlaskClient, locators: list[Locator], make_client: ClientFactory, is_tls: bool, tmp_path: Path
) -> None:
    authority = Authority(tmp_path) if is_tls else None
    other = make_client(node_tls_ca="" if authority is None else str(authority.file))
    with serving(node.application, authority) as url:
        locators[1].node = RemoteNode(url, SECRET, 1.0)

        def call(who: str, method: str, path: str, body: Any = None) -> Any:
            headers = {"X-Api-Key": f"kh_{who}", "Content-Type": V2, NODE_HEADER: "1", PRINCIPAL_HEADER: header("root")}
            return other.open(INSTANCE + path, method=method, json=body, headers=headers)

        assert call("bob", "GET", "/subscription").status_code == 404
        assert call("alice", "POST", "/subscription", {"topics": ["t"]}).status_code == 204
        assert call("alice", "GET", "/subscription").json == {"topics": ["t"]}
        assert call("root", "GET", "/subscription").json == {"topics": ["t"]}
        assert other.get(f"{INSTANCE}/subscription").status_code == 401
        assert call("alice", "DELETE", "").status_code == 204


def test_node_with_a_certificate_of_another_authority_gets_no_secret(
    node: FlaskClient, locators: list[Locator], make_client: ClientFactory, tmp_path: Path
) -> None:
    other = make_client(node_tls_ca=str(Authority(tmp_path, "trusted").file))
    with serving(node.application, Authority(tmp_path, "other")) as url:
        locators[1].node = RemoteNode(url, SECRET, 1.0)
        answer = other.get(f"{INSTANCE}/subscription", headers={"X-Api-Key": "kh_alice"})
    assert (answer.status_code, answer.json["error_code"]) == (503, 503)  # type: ignore[index]


@pytest.mark.parametrize(("content", "says"), [(None, "cannot be read: no such file"), (b"x", "not a certificate")])
def test_faulty_node_tls_ca_stops_the_start_and_is_named(
    locators: list[Locator], make_client: ClientFactory, tmp_path: Path, content: bytes | None, says: str
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"node_tls_ca .*ca.pem, which .*{says}"):
        make_client(node_tls_ca=str(file))
