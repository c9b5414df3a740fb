"""What `kafka-http serve --server granian` does in a way of its own; test_granian_as_gunicorn.py has all the rest."""

import time

import pytest

from kafka_http.demo.embedded import EmbeddedKafka
from kafka_http.server.granian.worker import LINGER_SECONDS
from tests.attempts import wait_for
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.integration.granian_service import *  # noqa: F403
from tests.integration.service import Service, read_answers
from tests.integration.test_messages import test_publish_read_acknowledge_and_resume  # noqa: F401
from tests.integration.test_shutdown import test_sigterm_under_load_loses_nothing_acknowledged  # noqa: F401


def test_a_body_in_chunks_is_refused(service: Service, topic: TopicFactory) -> None:
    """What breaks off looks to the application as what ends."""
    name = topic()
    assert service.put(f"/messages/{name}", b"known").ok
    with service.connect() as client:
        client.sendall(f"PUT /messages/{name} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        ((status, _, text),) = read_answers(client, 1)
    assert status == 411
    assert b"Content-Length" in text


def test_a_body_that_breaks_off_is_not_written(service: Service, topic: TopicFactory) -> None:
    name = topic()
    assert service.put(f"/messages/{name}", b"known").ok
    with service.connect() as client:
        client.sendall(f"PUT /messages/{name} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf".encode())
    assert service.put(f"/messages/{name}", b"last").ok
    assert [each["value"] for each in service.records(name)] == ["known", "last"]


def test_a_header_of_a_record_that_is_not_ascii_is_refused(service: Service, topic: TopicFactory) -> None:
    """granian gives it to the application as an empty one."""
    name = topic()
    assert service.put(f"/messages/{name}", b"known").ok
    for header in ("Kafka-Key", "Kafka-Header-A"):
        answer = service.put(f"/messages/{name}", b"x", headers={header: "ä".encode()})
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, header)


def test_who_waits_for_a_word_to_go_on_is_told_at_once_that_it_is_too_much(service: Service) -> None:
    with service.connect() as client:
        client.settimeout(5)
        head = "PUT /messages/t HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100000000\r\n\r\n"
        client.sendall(head.encode())
        ((status, _, _),) = read_answers(client, 1)
    assert status == 413


@pytest.mark.slow
def test_a_stop_waits_for_an_upload_that_pauses(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service, name = start_service(kafka.bootstrap_servers), topic()
    with service.connect() as client:
        client.sendall(f"PUT /messages/{name} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello".encode())
        service.terminate()
        began = time.monotonic()
        wait_for(lambda: len(service.workers) == 1)  # the other has been quiet
        wait_for(lambda: time.monotonic() > began + 2 * LINGER_SECONDS)
        client.sendall(b"world")
        ((status, _, _),) = read_answers(client, 1)
    assert status == 200
    service.wait_for_end(8)
