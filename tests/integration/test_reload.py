"""SIGHUP to a real server: what it reads again, and that no request notices."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.certificates import Authority, settings_of
from tests.support.event_parser import EventParser
from tests.support.load_clients import Load, check_nothing_lost_or_doubled
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service
from tests.support.stream_clients import opened

pytestmark = pytest.mark.usefixtures("hang_up")


class Keys:
    """The settings and the API keys of a server. The key of a principal is `kh_planted_` and its name."""

    def __init__(self, directory: Path) -> None:
        self.settings = directory / "settings.toml"
        self._file = directory / "keys.toml"
        self.settings.write_text(f'[auth]\nkeys = "{self._file}"\n', "utf-8")

    def write(self, *names: str) -> None:
        entries = [f'[{name}]\nsha256 = "{sha256(key(name).encode()).hexdigest()}"\n' for name in names]
        self._file.write_text("".join(entries), "utf-8")


def key(name: str) -> str:
    return f"kh_planted_{name}"


def headers(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key(name)}"}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
def service(kafka: EmbeddedKafka, start_service: ServiceFactory, keys: Keys) -> Iterator[Service]:
    keys.write("load", "victim")
    service = start_service(kafka.bootstrap_servers, config=keys.settings)
    yield service
    assert "planted" not in service.log + service.access_log


def statuses(sessions: dict[int, requests.Session], service: Service, name: str) -> set[int]:
    """Return the status of a request to each worker: on the fast path, and of a view."""
    topic = f"{service.url}/messages/none-{name}"
    answers = [
        session.request(method, topic, headers=headers(name), data=b"x", timeout=20)
        for session in sessions.values()
        for method in ("PUT", "GET")
    ]
    return {each.status_code for each in answers}


def test_twenty_sighups_under_load_fail_no_request_and_revoke_keys_at_once(
    kafka: EmbeddedKafka, topic: TopicFactory, service: Service, keys: Keys
) -> None:
    name, workers = topic(3), service.workers
    service.headers = headers("load")
    load, sessions = Load(service, name), service.session_of_each_worker()
    stream = f"{service.url}/messages/{name}/me/latest"
    with ExitStack() as streams, load.running():
        for session in sessions.values():
            streams.callback(session.close)
        victims = [streams.enter_context(opened(stream, **headers("victim"))) for _ in range(4)]
        others = [streams.enter_context(opened(stream, **headers("load"))) for _ in range(4)]
        for number in range(20):
            has_spare = number % 2 == 0
            keys.write("load", "victim", *(["spare"] if has_spare else []))
            service.hang_up()
            expected = {404} if has_spare else {401}
            wait_for(lambda expected=expected: statuses(sessions, service, "spare") == expected, 1)
        keys.write("load")
        service.hang_up()
        began = time.monotonic()
        ends = [b"".join(iter(lambda each=each: each.read1(1 << 16), b"")) for each in victims]
        assert time.monotonic() - began < scaled(5)
        for end in ends:
            (*_, last) = EventParser().feed(end)
            assert last.type == "error"
            assert last.json["error"]["code"] == 40101
        assert service.put(f"/messages/{name}", b"after all").ok
        for each in others:
            assert any(b"after all" in line for line in iter(each.readline, b""))
    assert {answer.status for answer in load.answers} <= {200, 204}
    assert service.workers == workers
    check_nothing_lost_or_doubled(load, kafka.bootstrap_servers, name, 3)


def connected(context: ssl.SSLContext, service: Service) -> ssl.SSLSocket:
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=30)
    return context.wrap_socket(connection, server_hostname="localhost")


def serial_of(context: ssl.SSLContext, service: Service) -> int:
    """Return the serial number of the certificate that a new connection gets."""
    with connected(context, service) as tls:
        return int(tls.getpeercert()["serialNumber"], 16)  # type: ignore[index, arg-type]


def test_certificate_renewed_by_sighup_under_load_fails_no_request(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, tmp_path: Path
) -> None:
    """Open connections keep the old certificate. A faulty file changes nothing."""
    authority, name = Authority(tmp_path), topic(3)
    served = authority.server()
    service = start_service(kafka.bootstrap_servers, authority=authority, **settings_of(served))
    context, load = authority.client_context(), Load(service, name)
    with connected(context, service) as kept, load.running():
        for count, renewed in enumerate((authority.server(), authority.server(is_rsa=True)), 1):
            served.certificate.write_bytes(renewed.certificate.read_bytes())  # does not belong to the key
            service.hang_up()
            wait_for(lambda count=count: service.log.count("Reload failed") == count)
            served.key.write_bytes(renewed.key.read_bytes())
            service.hang_up()
            wait_for(lambda serial=renewed.serial: {serial_of(context, service) for _ in range(20)} == {serial}, 5)
            there = len(load.answers)
            wait_for(lambda there=there: len(load.answers) > there + 20)
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
        assert kept.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert {answer.status for answer in load.answers} <= {200, 204}
    check_nothing_lost_or_doubled(load, kafka.bootstrap_servers, name, 3)


def test_access_lines_have_the_principal_on_both_paths_and_no_key(topic: TopicFactory, service: Service) -> None:
    name = topic()
    url = f"{service.url}/messages/{name}"
    requests.put(url, b"x", headers=headers("load") | {"X-Request-Id": "fast"}, timeout=20)
    requests.get(url, headers=headers("load") | {"X-Request-Id": "view"}, timeout=20)
    requests.put(f"{url}?access_key={key('load')}", b"x", headers={"X-Request-Id": "query"}, timeout=20)
    requests.put(url, b"x", headers={"X-Request-Id": "nobody"}, timeout=20)
    for sent in (
        f"GET /messages?access_key={key('x')} HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        f"GET /messages?access_key={key('x')} HTTP/7.7\r\nHost: x\r\n\r\n",
        f"GET /messages HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {key('x')}\r\n\r\n",
        f"GET /messages HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {key('x')}\r\n\r\n",
        f"GET /messages HTTP/1.1\r\nHost: x\r\nExpect: {key('x')}\r\n\r\n",
        f"{key('x')} /messages HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        with service.connect() as client:
            client.sendall(sent.encode())
            assert b"planted" not in b"".join(iter(lambda client=client: client.recv(1 << 16), b"")), sent
    wait_for(lambda: service.access_log.count(" HTTP/") >= 5)
    lines = [line.split("gunicorn.access: ")[1] for line in service.access_log.splitlines() if name in line]
    assert [line.split(' "')[0] for line in lines] == ["127.0.0.1 load", "127.0.0.1 load", "127.0.0.1 -", "127.0.0.1 -"]
    assert f'"PUT /messages/{name} HTTP/1.1" 401' in lines[2], "without the key"
    assert "Refused PUT" in service.log
