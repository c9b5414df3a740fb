"""The memory of the workers: after large values and pages, and with a thousand connections."""

import json
import re
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from kafka_http.broker.open_file_limit import OpenFileLimit
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.polling import wait_for
from tests.support.server_process import Service, read_answers

MIB = 1 << 20
LARGE_PAGE = f"limit=100000&max_bytes={64 * MIB}"
PUBLISH = b"POST /messages/%b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n42"


@pytest.mark.slow
def test_workers_return_memory_within_a_minute_after_large_values_and_pages(
    start_service: ServiceFactory, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    """Two workers of 65 MiB had 200 and 260 MiB after this load, until the next one."""
    service = start_service(kafka.bootstrap_servers)
    large, small = topic(3), topic(3)
    with ExitStack() as stack:  # the connections stay open
        sessions = [stack.enter_context(requests.Session()) for _ in range(64)]
        publish_to(service, sessions, large, 2, json.dumps("x" * 950_000))
        publish_to(service, sessions[:8], small, 5, json.dumps({"records": [{"value": {"n": "y" * 100}}] * 1000}))
        for name in (large, small):
            read_by_all(service, sessions[:8], name)
        wait_for(lambda: max(map(resident, service.workers)) < 120 * MIB, 60)


def publish_to(service: Service, sessions: list[requests.Session], topic: str, count: int, body: str) -> None:
    """Publish a JSON body `count` times on each session at the same time."""

    def publish(session: requests.Session) -> None:
        for _ in range(count):
            answer = session.post(
                f"{service.url}/messages/{topic}", body, headers={"Content-Type": "application/json"}, timeout=60
            )
            assert answer.status_code == 200, answer.text

    with ThreadPoolExecutor(len(sessions)) as pool:
        list(pool.map(publish, sessions))


def read_by_all(service: Service, sessions: list[requests.Session], topic: str) -> None:
    """Read all pages of a topic on each session at the same time."""

    def read(session: requests.Session) -> int:
        url, records = f"{service.url}/messages/{topic}/reader/earliest?{LARGE_PAGE}", 0
        while True:
            answer = session.get(url, timeout=60)
            if answer.status_code == 503:  # max_answers_in_flight
                continue
            assert answer.status_code == 200, answer.text
            count = answer.content.count(b'"offset":')
            if not count:
                return records
            records, url = records + count, answer.links["next"]["url"]

    with ThreadPoolExecutor(len(sessions)) as pool:
        assert len(set(pool.map(read, sessions))) == 1


def test_thousand_connections_cost_under_40_kb_each(service: Service, topic: TopicFactory) -> None:
    """Each has published a message, and is idle."""
    OpenFileLimit(1, "connections").check(1000)
    request = PUBLISH % topic().encode()
    with ExitStack() as stack:
        publish_on([stack.enter_context(service.connect()) for _ in range(20)], request)
        before = proportional(service.workers)
        connections = [stack.enter_context(service.connect()) for _ in range(1000)]
        publish_on(connections, request)
        each = (proportional(service.workers) - before) / len(connections)
    assert each < 40_000


def publish_on(connections: list[socket.socket], request: bytes) -> None:
    for each in connections:
        each.sendall(request)
    for each in connections:
        assert read_answers(each, 1)[0][0] == 200


def resident(pid: int) -> int:
    """Return the bytes of a process in memory."""
    return next(memory_of([pid], "Rss"))


def proportional(pids: Iterable[int]) -> int:
    """Return the bytes of processes in memory, with their share of what they use with others."""
    return sum(memory_of(pids, "Pss"))


def memory_of(pids: Iterable[int], figure: str) -> Iterator[int]:
    for pid in pids:
        found = re.search(rf"^{figure}: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        assert found is not None
        yield int(found[1]) * 1024
