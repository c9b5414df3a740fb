"""The outbox with real processes: accepted messages reach Kafka, whichever process is killed."""

import json
import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.kafka_reader import read_topic
from tests.support.polling import wait_for
from tests.support.postgresql import PostgreSQL
from tests.support.server_process import Service

LATER = {"Prefer": "respond-async", "Content-Type": "application/json"}
CLIENTS = 8


def made_topic(kafka: EmbeddedKafka, partitions: int) -> str:
    name = f"topic-{uuid4().hex[:8]}"
    with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)) as admin:
        admin.create_topics([NewTopic(name, partitions, 1)])
    return name


class Clients:
    """Threads that each publish increasing numbers with their own key, and record which were accepted."""

    def __init__(self, service: Service, topic: str, total: int) -> None:
        self.accepted: dict[int, list[int]] = {client: [] for client in range(CLIENTS)}
        self.others: Counter[int] = Counter()
        self._service = service
        self._topic = topic
        self._total = total
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._threads:
            each.join()

    @property
    def count(self) -> int:
        return sum(map(len, self.accepted.values()))

    def stop(self) -> None:
        """Stop to send."""
        self._total = 0

    def _run(self, client: int) -> None:
        path = f"/messages/{self._topic}?key=client-{client}"
        connection: HTTPConnection | None = None
        number = 0
        while self.count < self._total:
            number += 1
            try:
                connection = connection or HTTPConnection("127.0.0.1", self._service.port, timeout=30)
                connection.request("POST", path, str(number), LATER)
                answer = connection.getresponse()
                answer.read()
            except (OSError, HTTPException):
                if connection is not None:
                    connection.close()
                connection = None
                time.sleep(0.05)  # it is being killed, or has not started yet
                continue
            if answer.status == 202:
                self.accepted[client].append(number)
            else:
                self.others[answer.status] += 1
        if connection is not None:
            connection.close()


def consumed(kafka: EmbeddedKafka, topic: str, partitions: int = 3) -> dict[str, list[int]]:
    """Return the numbers of each key, read with another client."""
    found: dict[str, list[int]] = {}
    for each in read_topic(kafka.bootstrap_servers, topic, partitions):
        found.setdefault(each.key.decode(), []).append(int(each.value))
    return found


def pending(service: Service) -> list[Any]:
    return list(service.get("/tasks?status=pending&limit=1").json()["tasks"])


@pytest.mark.parametrize(
    ("total", "kills"), [(600, 1), pytest.param(10_000, 3, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_accepted_tasks_survive_kills_of_all_processes(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory, total: int, kills: int
) -> None:
    topic = made_topic(fresh_kafka, 3)
    service = start_service(fresh_kafka.bootstrap_servers)
    assert service.put(f"/messages/{topic}?key=first", b"0").ok
    fresh_kafka.stop()
    with Clients(service, topic, total) as clients:
        for kill in range(kills):
            wait_for(lambda kill=kill: clients.count > (kill + random.random()) * total / kills * 0.9, 200)
            service.kill()
            service.start()
    fresh_kafka.start()
    wait_for(lambda: not pending(service), 120)
    found = consumed(fresh_kafka, topic)
    twice = 0
    for client, accepted in clients.accepted.items():
        read = found[f"client-{client}"]
        firsts = list(dict.fromkeys(read))
        twice += len(read) - len(firsts)
        assert set(accepted) <= set(read)
        assert firsts == sorted(firsts)
    print(f"{clients.count} accepted, {twice} twice, answers that were none: {dict(clients.others)}")
    assert twice == 0  # nothing was killed while Kafka was there


def test_kill_while_publishing_loses_no_task(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    name = topic(3)
    service = start_service(kafka.bootstrap_servers)
    with Clients(service, name, 1500) as clients:
        for kill in range(1, 4):
            wait_for(lambda kill=kill: clients.count > kill * 350, 60)
            os.kill(service.daemon, signal.SIGKILL)
            wait_for(lambda: service.daemons, 20)
    wait_for(lambda: not pending(service), 60)
    found = consumed(kafka, name)
    for client, accepted in clients.accepted.items():
        firsts = list(dict.fromkeys(found[f"client-{client}"]))
        assert set(accepted) <= set(firsts)
        assert firsts == sorted(firsts)


def test_tasks_are_published_once_if_no_process_dies(
    service: Service, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    name = topic(3)
    with Clients(service, name, 500) as clients:
        pass
    wait_for(lambda: not pending(service), 30)
    assert clients.others == {}
    assert consumed(kafka, name) == {f"client-{client}": sent for client, sent in clients.accepted.items()}


@pytest.mark.parametrize("partitions", [3, 1])
def test_outbox_continues_after_topic_was_recreated(
    kafka: EmbeddedKafka, start_service: ServiceFactory, partitions: int
) -> None:
    """kafka-python never refreshed the metadata of a dropped topic, so its records waited for 120 s.

    The same happened if the new topic had fewer partitions than the waiting records needed.
    """
    name = made_topic(kafka, 3)
    service = start_service(kafka.bootstrap_servers)
    made_by = closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers))
    with made_by as admin, Clients(service, name, 10**9) as clients:
        wait_for(lambda: clients.count > 400, 30)
        admin.delete_topics([name])
        wait_for(lambda: name not in admin.list_topics())
        try:
            wait_for(lambda: clients.others[404], 70)
        finally:
            clients.stop()
        admin.create_topics([NewTopic(name, partitions, 1)])
        created = time.monotonic()
    wait_for(lambda: service.post(f"/messages/{name}?key=later", b"1", headers=LATER).status_code == 202)
    wait_for(lambda: not pending(service), 10 - min(9, time.monotonic() - created))
    assert consumed(kafka, name, partitions)
    assert service.get("/tasks?status=failed&limit=1").json()["tasks"] == []


def test_delivered_task_has_partition_and_offset(service: Service, topic: TopicFactory) -> None:
    name = topic()
    location = service.post(f"/messages/{name}", b'{"a": 1}', headers=LATER).headers["Location"]
    task = service.get(f"{location}?wait=10").json()["task"]
    assert task["status"] == "delivered"
    (record,) = service.records(name)
    assert [record[each] for each in ("partition", "offset", "timestamp")] == list(task["records"][0].values())


def test_message_that_kafka_rejects_fails_its_task_alone(service: Service, topic: TopicFactory) -> None:
    name = topic(1, {"max.message.bytes": "1000"})
    sizes = (10, 5000, 20)
    tasks = [service.put(f"/messages/{name}", b"x" * size, headers=LATER).headers["Location"] for size in sizes]
    ended = [service.get(f"{each}?wait=30").json()["task"] for each in tasks]
    assert [each["status"] for each in ended] == ["delivered", "failed", "delivered"]
    assert ended[1]["error"]["code"] == 413


def test_full_disk_is_reported_and_publishing_continues(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    name = topic()
    service = start_service(kafka.bootstrap_servers)
    assert service.put(f"/messages/{name}", b"x", headers=LATER).status_code == 202
    grown = max(each.stat().st_size for each in service.data_dir.glob("store.sqlite*"))
    resource.prlimit(service.daemon, resource.RLIMIT_FSIZE, (grown, resource.RLIM_INFINITY))
    body = os.urandom(50_000)
    answers = [service.put(f"/messages/{name}", body, headers=LATER) for _ in range(3)]
    assert answers[-1].status_code == 503
    assert "state store" in answers[-1].json()["error"]["message"]
    assert service.put(f"/messages/{name}", body).status_code == 200
    resource.prlimit(service.daemon, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    answer = service.put(f"/messages/{name}", body, headers=LATER)
    assert answer.status_code == 202, answer.text
    assert service.get(f"{answer.headers['Location']}?wait=20").json()["task"]["status"] == "delivered"
    kept = [each for each in answers if each.status_code == 202]
    assert len(service.records(name)) == 1 + len(kept) + 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on its own disk of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def free_bytes(directory: Path) -> int:
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def fill_outbox(service: Service, topic: str, size: int) -> tuple[list[bytes], requests.Response]:
    """Return the values that were accepted before one was rejected, and the response to that one."""
    accepted: list[bytes] = []
    for number in range(100_000):
        value = b"%d-" % number + os.urandom(size).hex().encode()
        answer = service.put(f"/messages/{topic}", value, headers={"Prefer": "respond-async"})
        if answer.status_code != 202:
            return accepted, answer
        accepted.append(value)
    raise AssertionError("the disk has no end")


def values_of(kafka: EmbeddedKafka, topic: str) -> list[bytes]:
    return [each.value for each in read_topic(kafka.bootstrap_servers, topic, 1)]


@pytest.mark.parametrize("size", [100, *(pytest.param(size, marks=pytest.mark.slow) for size in (50_000, 500_000))])
def test_outbox_on_an_almost_full_disk_rejects_new_tasks_and_drains(
    small_disk: Path, fresh_kafka: EmbeddedKafka, start_service: ServiceFactory, size: int
) -> None:
    """Storing a result needs disk space, too: a disk that was full of accepted messages stayed full forever."""
    topic = made_topic(fresh_kafka, 1)
    service = start_service(fresh_kafka.bootstrap_servers, data_dir=small_disk / "data", max_body_bytes=8 << 20)
    assert service.put(f"/messages/{topic}", b"first", headers={"Idempotency-Key": "first"}).ok
    fresh_kafka.stop()
    if size < 1000:  # so many would take long: most of the disk is taken already
        (small_disk / "other").write_bytes(bytes(free_bytes(small_disk) - (6 << 20)))
    accepted, refused = fill_outbox(service, topic, size)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert "outbox_min_free" in refused.json()["error"]["message"]
    assert free_bytes(small_disk) > 0
    rest = small_disk / "rest"  # a key may still fit where a task does not
    rest.write_bytes(bytes(max(0, free_bytes(small_disk) - (512 << 10))))
    refused = service.put(f"/messages/{topic}", b"key", headers={"Idempotency-Key": "another"})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    again = service.put(f"/messages/{topic}", b"first", headers={"Idempotency-Key": "first"})
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
    rest.unlink()
    fresh_kafka.start()
    wait_for(lambda: not pending(service), 60)
    assert values_of(fresh_kafka, topic) == [b"first", *accepted]
    assert service.put(f"/messages/{topic}", b"last", headers=LATER).status_code == 202
    wait_for(lambda: not pending(service), 10)
    print(f"{len(accepted)} of {size} bytes accepted")


def test_outbox_on_a_full_disk_publishes_once_and_stores_results_later(
    small_disk: Path, fresh_kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    topic = made_topic(fresh_kafka, 1)
    service = start_service(fresh_kafka.bootstrap_servers, data_dir=small_disk / "data")
    assert service.put(f"/messages/{topic}", b"first", headers=LATER).status_code == 202
    wait_for(lambda: not pending(service), 10)
    fresh_kafka.stop()
    accepted, _ = fill_outbox(service, topic, 20_000)
    with (small_disk / "others").open("wb", buffering=0) as other, suppress(OSError):
        while True:  # somebody else takes the rest
            other.write(bytes(free_bytes(small_disk) or 4096))
    assert free_bytes(small_disk) == 0
    fresh_kafka.start()
    wait_for(lambda: len(values_of(fresh_kafka, topic)) > 1, 30)
    threading.Event().wait(3)  # it tries to note what was delivered, again and again
    (small_disk / "others").unlink()
    wait_for(lambda: not pending(service), 60)
    assert values_of(fresh_kafka, topic) == [b"first", *accepted]


@pytest.mark.slow
def test_nodes_share_tasks_and_take_over_those_of_a_killed_node(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, postgresql: PostgreSQL
) -> None:
    url = postgresql.database(f"outbox_{uuid4().hex}")
    first, second = (start_service(kafka.bootstrap_servers, store_url=url) for _ in range(2))
    names = [topic() for _ in range(4)]
    locations = []
    for number in range(40):
        node = (first, second)[number % 2]
        answer = node.post(f"/messages/{names[number % 4 // 2]}", json.dumps(number), headers=LATER)
        assert answer.status_code == 202, answer.text
        locations.append(answer.headers["Location"])
        if number == 20:
            second.kill()
            second.start()
    second.kill()
    for each in locations:
        assert first.get(f"{each}?wait=30").json()["task"]["status"] == "delivered"
    for name in names[:2]:
        values = [each["value"] for each in first.records(name)]
        assert list(dict.fromkeys(values)) == sorted(set(values))
    with suppress(ProcessLookupError):
        second.stop()
