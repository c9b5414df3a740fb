"""Idempotency keys with a real Kafka and many workers, while processes are killed and disks are full."""

import os
import random
import resource
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from sqlalchemy import select

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from kafka_http.node.store import open_database
from kafka_http.node.store.stored_nodes import LEASE_SECONDS
from kafka_http.node.store.tables import idempotency_keys
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.frozen_process import frozen
from tests.support.load_clients import stored_values
from tests.support.polling import wait_for
from tests.support.postgresql import PostgreSQL
from tests.support.server_process import Service

JSON_V2 = "application/vnd.kafka.json.v2+json"
THREADS = 16


def publish(service: Service, topic: str, key: str, value: object = 1, query: str = "") -> requests.Response:
    return service.put(f"/messages/{topic}{query}", str(value), headers={"Idempotency-Key": key})


def publish_first(service: Service, topic: str, session: requests.Session) -> None:
    """Publish with a key, so that the worker has a connection before Kafka stops responding."""
    headers = {"Idempotency-Key": uuid4().hex}
    assert session.put(f"{service.url}/messages/{topic}", "first", headers=headers, timeout=10).ok


def is_replay(answer: requests.Response) -> bool:
    return "Idempotency-Replayed" in answer.headers


def written(kafka: EmbeddedKafka, topic: str, partitions: int = 1) -> list[str]:
    return sorted(stored_values(kafka.bootstrap_servers, topic, partitions).values())


def replay(service: Service, topic: str, key: str, status: int = 200, seconds: float = 10) -> requests.Response:
    """Return the response to a repeated request, after the first one has ended."""
    answers: list[requests.Response] = []

    def ask() -> bool:
        answers.append(publish(service, topic, key))
        return answers[-1].status_code != 409

    wait_for(ask, seconds)
    assert {each.headers["Retry-After"] for each in answers[:-1]} <= {"1"}
    assert answers[-1].status_code == status, answers[-1].text
    return answers[-1]


@contextmanager
def under_way(
    service: Service, topic: str, key: str, client: requests.Session | None = None, store_url: str = ""
) -> Iterator["Future[requests.Response]"]:
    """Start a request with this key, which Kafka does not answer because it is frozen."""
    put = requests.put if client is None else client.put
    pool = ThreadPoolExecutor(1)
    headers = {"Idempotency-Key": key}
    request = pool.submit(put, f"{service.url}/messages/{topic}", "1", headers=headers, timeout=60)
    pool.shutdown(wait=False)  # Kafka is to go on first
    this = select(idempotency_keys).where(idempotency_keys.c.name == key)
    with closing(open_database(service.data_dir, store_url)) as database:
        wait_for(lambda: database.write(lambda connection: connection.execute(this).first()))
    yield request


def test_repeated_requests_write_one_message_for_each_key(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    """A thousand keys are used three times each, in both APIs, from many threads to four workers."""
    service = start_service(kafka.bootstrap_servers, workers=4)
    name = topic(partitions=3)
    keys = [str(uuid4()) for _ in range(1000)]
    todo = [(number, key) for number, key in enumerate(keys) for _ in range(3)]
    random.Random(8).shuffle(todo)
    answers: dict[str, set[bytes]] = {key: set() for key in keys}

    def work(share: list[tuple[int, str]]) -> int:
        replays = 0
        with requests.Session() as session:
            for number, key in share:
                answer = ask(session, number, key)
                answers[key].add(answer.content)
                replays += is_replay(answer)
        return replays

    def ask(session: requests.Session, number: int, key: str) -> requests.Response:
        path, content_type = ("topics", JSON_V2) if number % 2 else ("messages", "application/json")
        body = f'{{"records":[{{"value":{number}}}]}}'
        headers = {"Idempotency-Key": f'"{key}"', "Content-Type": content_type}
        while True:
            answer = session.post(f"{service.url}/{path}/{name}", body, headers=headers, timeout=30)
            if answer.status_code != 409:
                assert answer.status_code == 200, answer.text
                return answer

    with ThreadPoolExecutor(THREADS) as pool:
        replayed = sum(pool.map(work, [todo[each::THREADS] for each in range(THREADS)]))
    assert replayed == 2000
    assert {len(each) for each in answers.values()} == {1}
    assert sorted(written(kafka, name, 3), key=int) == [str(number) for number in range(1000)]


def test_key_after_a_504_replays_the_late_result(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers)
    name = topic()
    assert publish(service, name, "first", "first").ok
    for session in service.session_of_each_worker().values():  # those know the topic now
        publish_first(service, name, session)
        session.close()
    with frozen(kafka):
        assert publish(service, name, "k", query="?timeout=0.5").status_code == 504
        busy = publish(service, name, "k", query="?timeout=0.5")
        assert (busy.status_code, busy.headers["Retry-After"]) == (409, "1")
    wait_for(lambda: publish(service, name, "k", query="?timeout=0.5").status_code == 200)
    settled = publish(service, name, "k", query="?timeout=0.5")
    assert is_replay(settled)
    assert settled.json()["records"][0]["offset"] == 3
    assert written(kafka, name) == ["1", "first", "first", "first"]


def test_key_used_in_a_long_outage_is_written_once(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers, timeout=1, workers=1)
    name = topic()
    statuses = []
    while 504 not in statuses[-1:]:  # a 503 where the server looked at the topic too long ago
        assert len(statuses) < 10
        assert publish(service, name, f"first-{len(statuses)}", "first").ok
        with frozen(kafka):
            key = f"k-{len(statuses)}"
            statuses.append(publish(service, name, key).status_code)
            if statuses[-1] == 504:
                busy = publish(service, name, key)
                assert (busy.status_code, busy.headers["Retry-After"]) == (409, "1")
                threading.Event().wait(3)
                assert publish(service, name, key).status_code == 409
    assert is_replay(replay(service, name, key, seconds=20))
    assert written(kafka, name) == ["1", *["first"] * len(statuses)]


class Repeaters:
    """Clients that repeat a request with its key until the status is 200, then use the next key."""

    def __init__(self, service: Service, topic: str) -> None:
        self.done: list[str] = []
        self.statuses: Counter[int] = Counter()
        self._service = service
        self._topic = topic
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(THREADS)]

    def __enter__(self) -> "Repeaters":
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for each in self._threads:
            each.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            key = uuid4().hex
            while True:
                status = publish(self._service, self._topic, key, key).status_code
                self.statuses[status] += 1
                if status == 200:
                    self.done.append(key)
                    break
                threading.Event().wait(0.1)


LONG = (pytest.mark.slow, pytest.mark.timeout(240))


@pytest.mark.parametrize(
    ("seconds", "timeout", "is_killed"),
    [(3, 1, False), (3, 1, True), pytest.param(30, 10, False, marks=LONG)],
)
def test_keys_repeated_in_a_long_outage_are_written_once(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory, seconds: float, timeout: float, is_killed: bool
) -> None:
    """The key was released with the 504, although Kafka had the batch in its socket and wrote it later."""
    create_topics(fresh_kafka.bootstrap_servers, {"t": 3})
    service = start_service(fresh_kafka.bootstrap_servers, timeout=timeout)
    with Repeaters(service, "t") as repeaters:
        wait_for(lambda: len(repeaters.done) > 200, 60)
        assert fresh_kafka.pid is not None
        os.kill(fresh_kafka.pid, signal.SIGSTOP)  # with records on their way
        threading.Event().wait(seconds)
        if is_killed:
            fresh_kafka.kill()
            fresh_kafka.start()
        else:
            os.kill(fresh_kafka.pid, signal.SIGCONT)
        before = len(repeaters.done)
        wait_for(lambda: len(repeaters.done) > before + 200, 60)
    stored = Counter(stored_values(fresh_kafka.bootstrap_servers, "t", 3).values())
    twice = {key: times for key, times in stored.items() if times > 1}
    print(f"{len(repeaters.done)} keys, {len(twice)} twice or more, answers: {dict(repeaters.statuses)}")
    assert repeaters.statuses[504]
    assert twice == {}
    assert set(stored) == set(repeaters.done)


def test_stop_waits_until_the_response_is_stored(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers, workers=1)
    name = topic()
    assert publish(service, name, "first", "first").ok
    with frozen(kafka):
        assert publish(service, name, "k", query="?timeout=0.5").status_code == 504
        service.terminate()
        threading.Event().wait(0.5)
    service.wait_for_end()
    service.start()
    again = publish(service, name, "k", query="?timeout=0.5")
    assert (again.status_code, is_replay(again)) == (200, True)
    assert written(kafka, name) == ["1", "first"]


def test_key_of_a_killed_worker_can_be_claimed(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers)
    name = topic()
    assert publish(service, name, "kept", "kept").ok
    (worker, session), (_, other) = service.session_of_each_worker().items()
    for each in (session, other):
        publish_first(service, name, each)
    with frozen(kafka), under_way(service, name, "k", session) as request:
        other.close()
        assert publish(service, name, "k").status_code == 409
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(requests.ConnectionError):
            request.result()
    session.close()
    assert not is_replay(replay(service, name, "k"))
    assert is_replay(replay(service, name, "k"))
    assert is_replay(publish(service, name, "kept", "kept"))
    assert set(written(kafka, name)) == {"first", "kept", "1"}


def test_killed_daemon_loses_no_keys(kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory) -> None:
    service = start_service(kafka.bootstrap_servers, workers=1, timeout=30)
    name = topic()
    assert publish(service, name, "kept", "kept").ok
    with frozen(kafka), under_way(service, name, "k") as request:
        killed = service.daemon
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: service.daemons not in ([], [killed]))
        assert is_replay(publish(service, name, "kept", "kept"))
        assert publish(service, name, "k").status_code == 409
        threading.Event().wait(0.5)
        os.kill(service.daemon, signal.SIGKILL)
    assert request.result().status_code == 200
    again = replay(service, name, "k")
    assert (again.content, is_replay(again)) == (request.result().content, True)
    assert written(kafka, name) == ["1", "kept"]


@contextmanager
def full_disk(process: int, data_dir: Path) -> Iterator[None]:
    """Prevent all files of a process from growing."""
    unlimited = resource.prlimit(process, resource.RLIMIT_FSIZE)
    smallest = min(each.stat().st_size for each in data_dir.glob("store.sqlite*"))
    resource.prlimit(process, resource.RLIMIT_FSIZE, (min(smallest, 4096), unlimited[1]))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, unlimited)


def test_keys_on_a_full_disk_return_503(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers)
    name = topic()
    assert publish(service, name, "kept", "kept").ok
    with full_disk(service.daemon, service.data_dir):
        refused = publish(service, name, "k")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert "does not respond. Nothing was written." in refused.json()["error"]["message"]
        assert str(service.data_dir) not in refused.text
        assert service.put(f"/messages/{name}", "without").status_code == 200
    assert not is_replay(replay(service, name, "k"))
    assert is_replay(publish(service, name, "kept", "kept"))
    assert written(kafka, name) == ["1", "kept", "without"]


def test_response_that_does_not_fit_on_the_disk_is_stored_later(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers, timeout=30)
    name = topic()
    assert publish(service, name, "first", "first").ok
    with ExitStack() as full:
        with frozen(kafka), under_way(service, name, "k") as request:
            full.enter_context(full_disk(service.daemon, service.data_dir))
        assert request.result().status_code == 200
        assert publish(service, name, "k").status_code in {409, 503}
    again = replay(service, name, "k")
    assert (again.content, is_replay(again)) == (request.result().content, True)
    assert written(kafka, name) == ["1", "first"]


def test_key_while_the_store_is_unreachable_returns_503(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, fresh_postgresql: PostgreSQL
) -> None:
    service = start_service(kafka.bootstrap_servers, store_url=fresh_postgresql.database("keys"))
    name = topic()
    assert publish(service, name, "kept", "kept").ok
    fresh_postgresql.stop()
    refused = publish(service, name, "k")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert "does not respond. Nothing was written." in refused.json()["error"]["message"]
    assert service.put(f"/messages/{name}", "without").status_code == 200
    fresh_postgresql.start()
    wait_for(lambda: publish(service, name, "k").status_code == 200)
    assert is_replay(publish(service, name, "kept", "kept"))
    assert written(kafka, name) == ["1", "kept", "without"]


def test_nodes_with_a_shared_store_share_keys(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, postgresql: PostgreSQL
) -> None:
    url = postgresql.database(f"keys_{uuid4().hex}")
    settings = {"store_url": url, "workers": 1, "timeout": 30}
    first, second = (start_service(kafka.bootstrap_servers, **settings) for _ in range(2))
    name = topic()
    assert publish(first, name, "kept", "kept").ok
    assert is_replay(publish(second, name, "kept", "kept"))
    with frozen(kafka), under_way(first, name, "k", store_url=url) as request:
        assert publish(second, name, "k").status_code == 409
    again = replay(second, name, "k")
    assert (again.content, is_replay(again)) == (request.result().content, True)
    assert written(kafka, name) == ["1", "kept"]


@pytest.mark.slow
def test_keys_of_a_killed_node_can_be_claimed(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, postgresql: PostgreSQL
) -> None:
    url = postgresql.database(f"keys_{uuid4().hex}")
    settings = {"store_url": url, "workers": 1, "timeout": 30}
    first, second = (start_service(kafka.bootstrap_servers, **settings) for _ in range(2))
    name = topic()
    assert publish(first, name, "kept", "kept").ok
    with frozen(kafka), under_way(first, name, "k", store_url=url) as request:
        os.kill(first.daemon, signal.SIGKILL)
        threading.Event().wait(LEASE_SECONDS + 1)
        assert publish(second, name, "k").status_code == 409
    again = replay(second, name, "k")
    assert (again.content, is_replay(again)) == (request.result().content, True)
    with frozen(kafka), under_way(first, name, "l", store_url=url) as request:
        assert first.process is not None
        os.killpg(first.process.pid, signal.SIGKILL)
        os.kill(first.daemon, signal.SIGKILL)
    assert isinstance(request.exception(), requests.ConnectionError)
    assert not is_replay(replay(second, name, "l", seconds=LEASE_SECONDS + 5))
