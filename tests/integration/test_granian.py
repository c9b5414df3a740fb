"""`kafka-http serve --server granian` passes the same tests as gunicorn does."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafka_http.demo.embedded import EmbeddedKafka
from kafka_http.server.granian.worker import LINGER_SECONDS
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory, running, starting_services
from tests.integration.service import Service, read_answers, wait_for
from tests.integration.test_messages import *  # noqa: F403
from tests.integration.test_publishing import *  # noqa: F403
from tests.integration.test_shutdown import *  # noqa: F403
from tests.integration.test_threadless import (  # noqa: F401
    CASES,
    Ways,
    both_ways,
    raw,
    test_a_client_that_reads_late_gets_all_of_a_large_answer,
    test_a_request_in_pieces,
    test_a_stop_answers_what_kafka_has_not_answered_yet,
    test_clients_that_leave_before_their_answer_take_nothing_along,
    test_many_on_few_connections_each_at_its_place,
    test_no_thread_waits_for_kafka,
    without_dates,
)
from tests.integration.test_v2 import *  # noqa: F403
from tests.integration.test_v2_errors import *  # noqa: F403

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def granian(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(Service(tmp_path_factory.mktemp("granian"), kafka.bootstrap_servers, server="granian")) as service:
        yield service


@pytest.fixture
def service(granian: Service) -> Service:
    return granian


@pytest.fixture
def workers_4(granian: Service) -> Service:
    return granian


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[ServiceFactory]:
    yield from starting_services(tmp_path, server="granian")


@pytest.fixture(scope="module")
def ways(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    yield from both_ways(kafka, tmp_path_factory, server="granian")


@pytest.mark.parametrize("case", CASES)
def test_both_ways_answer_alike(ways: Ways, topic: TopicFactory, case: str) -> None:
    method, path, headers, body = CASES[case]
    answers = []
    for service in ways:
        name = topic(1, {"max.message.bytes": "2000"})
        assert service.put(f"/messages/{name}", b"the first").ok
        with service.connect() as client:
            client.sendall(raw(method, path.replace("{}", name), headers, body, f"id-of-{len(case)}"))
            ((status, said, text),) = read_answers(client, 1)
        said.pop("date")
        answers.append((status, said, without_dates(text, name)))
    assert answers[0] == answers[1]


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
