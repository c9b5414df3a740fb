"""Requests that a proxy or an attacker may write by hand: none gets past the check of rights, however it arrives."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import running
from tests.support.key_file import KeyFile
from tests.support.server_process import Service, read_answers

HIDDEN = (
    "PUT /messages/{topic} HTTP/1.1",
    "PUT http://h/messages/{topic} HTTP/1.1",
    "PUT HTTP://h/messages/{topic}?key=1 HTTP/1.1",
    "PUT //messages/{topic} HTTP/1.1",
    "PUT /messages/{topic}/ HTTP/1.1",
    "PUT /%6dessages/{topic} HTTP/1.1",
    "PUT /messages/{topic}#allowed HTTP/1.1",
    "PUT /messages/allowed/../{topic} HTTP/1.1",
    "POST /topics/{topic}/partitions/0 HTTP/1.1",
    "POST http://h/topics/{topic} HTTP/1.1",
)
"""Request lines that publish, or could be taken to publish, to a topic."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    return KeyFile(tmp_path_factory.mktemp("keys") / "keys.toml", ["writer", "owner"])


@pytest.fixture(scope="module")
def service(kafka: EmbeddedKafka, keys: KeyFile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory: Path = tmp_path_factory.mktemp("service")
    (directory / "settings.toml").write_text(
        f'[auth]\nkeys = "{keys.path}"\n[access."writer"]\npublish = ["allowed"]\n'
        '[access."owner"]\npublish = ["*"]\nread = ["*"]\nconsumer = ["*"]\n'
    )
    with running(Service(directory, kafka.bootstrap_servers, config=directory / "settings.toml")) as service:
        yield service


@pytest.mark.parametrize("line", HIDDEN)
@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "split"])
def test_publish_to_a_hidden_topic_is_refused_in_each_form(
    service: Service, keys: KeyFile, topic: TopicFactory, line: str, *, is_split: bool
) -> None:
    """A body that arrives later is admitted before it, by the main loop; one that is there, by the view."""
    name = topic()
    content_type = "application/vnd.kafka.json.v2+json" if "/topics/" in line else "application/json"
    body = b'{"records": [{"value": 1}]}'
    head = (
        f"{line.format(topic=name)}\r\nHost: h\r\nX-Api-Key: {keys.headers('writer')['X-Api-Key']}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode()
    with service.connect() as client:
        if is_split:
            client.sendall(head + body[:3])
            client.settimeout(0.3)
            with suppress(TimeoutError):  # most answers come before the body
                client.recv(1, 2)  # MSG_PEEK
            client.settimeout(30)
            with suppress(OSError):  # the server may have closed it
                client.sendall(body[3:])
        else:
            client.sendall(head + body)
        assert read_answers(client, 1)[0][0] in {400, 403, 404, 405}
    assert service.get(f"/messages/{name}", headers=keys.headers("owner")).json()["partitions"][0]["latest"] == 0


def test_refused_client_is_not_asked_for_its_body(service: Service, keys: KeyFile, topic: TopicFactory) -> None:
    key = keys.headers("writer")["X-Api-Key"]
    for credentials in ("", f"X-Api-Key: {key}\r\n", f"X_Api_Key: {keys.headers('owner')['X-Api-Key']}\r\n"):
        with service.connect() as client:
            client.sendall(
                f"PUT /messages/{topic()} HTTP/1.1\r\nHost: h\r\n{credentials}Expect: 100-continue\r\n"
                "Content-Length: 5000000\r\n\r\n".encode()
            )
            assert read_answers(client, 1)[0][0] == (404 if f"X-Api-Key: {key}" in credentials else 401)


def test_of_two_different_keys_none_counts(service: Service, keys: KeyFile, topic: TopicFactory) -> None:
    """A proxy and this server could take different ones of them."""
    name = topic()
    sent = "".join(f"X-Api-Key: {keys.headers(each)['X-Api-Key']}\r\n" for each in ("writer", "owner"))
    for rest in (b"x", b""):
        with service.connect() as client:
            head = f"PUT /messages/{name} HTTP/1.1\r\nHost: h\r\n{sent}Content-Length: 1\r\nConnection: close\r\n\r\n"
            client.sendall(head.encode() + rest)
            if not rest:
                client.settimeout(0.3)
                with suppress(TimeoutError):
                    client.recv(1, 2)
                client.settimeout(30)
                with suppress(OSError):
                    client.sendall(b"x")
            assert read_answers(client, 1)[0][0] == 401, rest
