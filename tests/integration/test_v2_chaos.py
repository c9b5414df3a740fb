"""Many consumer instances with many workers, with and without killed processes."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from uuid import uuid4

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.polling import wait_for
from tests.support.server_process import Service
from tests.support.v2_client import ConsumerInstance, produce

pytestmark = pytest.mark.slow

GROUPS, MEMBERS, PARTITIONS = 10, 5, 5
ROUNDS, BATCH = 40, 10

Place = tuple[int, int]
"""Partition and offset of a record."""


class Group:
    """The consumers of a group, each with a thread that reads and commits, and their publisher."""

    def __init__(self, service: Service, topic: str, *, patient: bool) -> None:
        """A `patient` client retries after a broken connection and a 503; others do not expect them."""
        self._service = service
        self._topic = topic
        self._patient = patient
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        name = f"group-{uuid4().hex[:8]}"
        self.members = [ConsumerInstance(lambda: service.url, name) for _ in range(MEMBERS)]
        self.read: Counter[Place] = Counter()
        self.committed: set[Place] = set()
        self.read_after_commit: set[Place] = set()
        self.setbacks: Counter[str] = Counter()
        self.published = 0
        self.faults: list[str] = []
        self._threads = [threading.Thread(target=self._consume, args=(each,)) for each in self.members]
        self._threads.append(threading.Thread(target=self._publish))

    def join(self) -> None:
        for each in self.members:
            assert each.create(**{"auto.commit.enable": False}).status_code == 200
            assert each.subscribe(self._topic).status_code == 204
        wait_for(lambda: [len(each.assignments()) for each in self.members] == [PARTITIONS // MEMBERS] * MEMBERS, 30)

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        self._stopping.set()
        for each in self._threads:
            if each.ident is not None:
                each.join()

    @property
    def is_done(self) -> bool:
        return bool(self.faults) or (not self._threads[-1].is_alive() and len(self.read) >= self.published)

    def _publish(self) -> None:
        """Publish one record at a time and retry, so that all acknowledged records are written."""
        for number in range(ROUNDS):
            while not self._stopping.is_set():
                with suppress(requests.ConnectionError, requests.exceptions.ChunkedEncodingError, AssertionError):
                    produce(self._service.url, self._topic, [number] * BATCH, number % PARTITIONS)
                    self.published += BATCH
                    break
            self._stopping.wait(random.uniform(0, 0.5))

    def _consume(self, instance: ConsumerInstance) -> None:
        while not self._stopping.is_set() and not self.faults:
            page = self._call(instance, "GET", "/records?timeout=1000")
            if page is None:
                continue
            places = {(each["partition"], each["offset"]) for each in page.json()}
            with self._lock:
                self.read.update(places)
                self.read_after_commit |= places & self.committed
            if places and self._call(instance, "POST", "/offsets") is not None:
                with self._lock:
                    self.committed |= places

    def _call(self, instance: ConsumerInstance, method: str, path: str) -> requests.Response | None:
        """Return a response with status 200, or None if the client must retry."""
        try:
            answer = instance.call(method, instance.path + path)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            return self._set_back("connection", "the connection broke")
        if answer.status_code == 200:
            return answer
        if answer.status_code == 503 and "Retry-After" in answer.headers:
            return self._set_back("503", answer.text)
        self.faults.append(f"{method} {path}: {answer.status_code} {answer.text}")
        return None

    def _set_back(self, kind: str, what: str) -> None:
        self.setbacks[kind] += 1
        if not self._patient:
            self.faults.append(what)
        self._stopping.wait(0.1)


@pytest.fixture
def big_service(kafka: EmbeddedKafka, start_service: ServiceFactory) -> Service:
    return start_service(kafka.bootstrap_servers, workers=8, access_log=False)


@pytest.fixture
def groups(big_service: Service, topic: TopicFactory, request: pytest.FixtureRequest) -> Iterator[list[Group]]:
    made = [Group(big_service, topic(PARTITIONS), patient=request.param) for _ in range(GROUPS)]
    joining = [threading.Thread(target=each.join) for each in made]
    for thread in joining:
        thread.start()
    for thread in joining:
        thread.join()
    try:
        yield made
    finally:
        for each in made:
            each.stop()
        for each in made:
            for member in each.members:
                member.delete()


@pytest.mark.parametrize("groups", [False], indirect=True, ids=["strict"])
def test_each_record_is_read_once_without_failures(groups: list[Group]) -> None:
    for each in groups:
        each.start()
    wait_for(lambda: all(each.is_done for each in groups), 120)
    for each in groups:
        each.stop()
        assert each.faults == []
        assert each.published == ROUNDS * BATCH
        assert set(each.read.values()) == {1}
        assert len(each.read) == each.published
        assert not each.read_after_commit


@pytest.mark.parametrize("groups", [True], indirect=True, ids=["patient"])
def test_every_record_is_read_while_processes_are_killed(groups: list[Group], big_service: Service) -> None:
    for each in groups:
        each.start()
    for second in range(12):
        time.sleep(1)  # the interval between kills
        os.kill(random.choice(sorted(big_service.workers)), signal.SIGKILL)
        if second == 6:
            os.kill(big_service.daemon, signal.SIGKILL)
    wait_for(lambda: all(each.is_done for each in groups), 120)
    for each in groups:
        each.stop()
    print("set back:", sum((each.setbacks for each in groups), Counter()))
    print(
        "read again:",
        sum(count - 1 for each in groups for count in each.read.values()),
        "of them after a commit:",
        sum(len(each.read_after_commit) for each in groups),
    )
    for each in groups:
        assert each.faults == []
        assert each.published == ROUNDS * BATCH
        assert all_offsets(each.read) >= each.published


def all_offsets(read: Counter[Place]) -> int:
    """Return the number of records up to the last of each partition."""
    last: dict[int, int] = {}
    for partition, offset in read:
        last[partition] = max(offset, last.get(partition, 0))
    whole = {(partition, offset) for partition, end in last.items() for offset in range(end + 1)}
    assert set(read) == whole
    return len(whole)
