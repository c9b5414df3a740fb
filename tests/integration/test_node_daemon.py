"""The node's daemon: its start and end, and what happens when workers or the daemon are killed or hang."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import pytest
import requests

from kafka_http.config import Config
from kafka_http.consumers.instance_service import ANY_CALLER
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.local_resources import free_ports
from kafka_http.node.daemon_client import DaemonClient
from kafka_http.node.data_directory import DataDirectory
from kafka_http.node.store import StoredInstances, open_database
from kafka_http.node.store.tables import write_meta
from kafka_http.records import InstanceDefinition, InstanceSettings
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.frozen_process import Process, frozen
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service, end_daemons
from tests.support.v2_client import JSON_TYPE, ConsumerInstance, instances, produce

LINGER = 10.0

LONG_SESSIONS = {"kafka_http.broker.group_session.SESSION_SECONDS": 300.0}
PATIENT_WORKERS = {
    "kafka_http.node.daemon_client._START_SECONDS": 100.0,
    "kafka_http.node.daemon_launcher._START_SECONDS": 100.0,
}
"""Constants of the workers, with which no call gives up a daemon that starts slowly."""


def url_of(service: Service) -> Callable[[], str]:
    return lambda: service.url


def new_group() -> str:
    return f"group-{uuid4().hex[:8]}"


def test_daemon_is_started_once_by_the_first_call_that_needs_it(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers, workers=4)
    assert service.put(f"/messages/{topic()}", b"x").status_code == 200
    assert service.daemons == []
    made = [ConsumerInstance(url_of(service), new_group()) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert {answer.status_code for answer in pool.map(lambda each: each.create(), made)} == {200}
    assert service.log.count("Daemon started") == 1
    sessions = service.session_of_each_worker()
    for each in made:
        for session in sessions.values():
            answer = session.get(f"{service.url}{each.path}/subscription", timeout=10)
            assert (answer.status_code, answer.json()) == (200, {"topics": []})
    for session in sessions.values():
        session.close()
    command = Path(f"/proc/{service.daemon}/cmdline").read_text().split("\0")
    assert command[-3:-1] == ["--data-dir", str(service.data_dir)]
    assert kafka.bootstrap_servers not in " ".join(command)


@pytest.mark.parametrize("kills", [1, 3])
def test_killed_daemon_restarts_with_its_instances_and_no_rebalance(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, kills: int
) -> None:
    """The sessions of the members are long, so that they outlive a start of the daemon on a slow machine.

    A member that joined again would end the group's generation.
    """
    service = start_service(kafka.bootstrap_servers, constants=PATIENT_WORKERS, daemon_constants=LONG_SESSIONS)
    name, other, group = topic(6), topic(), new_group()
    with instances(url_of(service), group, 3, **{"auto.commit.enable": False}) as made:
        assigned = ConsumerInstance(url_of(service), new_group())
        assert assigned.create().status_code == 200
        assert assigned.assign(other, 0).status_code == 204
        for each in made:
            assert each.subscribe(name).status_code == 204
        wait_for(lambda: [len(each.assignments()) for each in made] == [2, 2, 2])
        before = {each.name: each.assignments() for each in made}
        for partition in range(6):
            produce(service.url, name, [f"{partition}-0"], partition)
        produce(service.url, other, ["a-0"])
        read = [value for each in made for value in read_until(each, 2)] + read_until(assigned, 1)
        assert sorted(read) == sorted([f"{each}-0" for each in range(6)] + ["a-0"])
        settle(*made, assigned)
        (generation,) = generations(service)
        for partition in range(6):
            produce(service.url, name, [f"{partition}-1"], partition)
        produce(service.url, other, ["a-1"])
        for _ in range(kills):
            os.kill(service.daemon, signal.SIGKILL)
            with ThreadPoolExecutor(3) as pool:
                assert len(list(pool.map(ConsumerInstance.assignments, made))) == 3
        again = {each.name: sorted(read_until(each, 2)) for each in made}
        assert again == {name: sorted(f"{each}-1" for _, each in before[name]) for name in before}
        assert read_until(assigned, 1) == ["a-1"]
        assert {each.name: each.assignments() for each in made} == before
        settle(*made)
        assert generations(service) == {generation}
        assert service.log.count("Daemon started") == 1 + kills
        assert assigned.delete().status_code == 204


def settle(*read: ConsumerInstance) -> None:
    """Wait until the daemon knows that each instance's last page was delivered, which is just after the response."""
    for each in read:
        assert each.commit().status_code == 200


def generations(service: Service) -> set[int | None]:
    """The stored group generations of all subscribed instances."""
    with closing(open_database(service.data_dir)) as database:
        stored = StoredInstances(database).load()
    return {each.progress.generation for each in stored if each.definition.topics}


def test_killed_daemon_with_instances_restarts_without_a_call(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers)
    with instances(url_of(service), new_group(), 1) as (instance,):
        instance.subscribe(topic())
        instance.get()
        killed = service.daemon
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: set(service.daemons) - {killed}, 5)


def test_killed_daemon_without_instances_is_not_restarted(kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    service = start_service(kafka.bootstrap_servers)
    with instances(url_of(service), new_group(), 1):
        pass
    os.kill(service.daemon, signal.SIGKILL)
    wait_for(lambda: "exited unexpectedly" in service.log and not service.daemons)
    with pytest.raises(AssertionError):
        wait_for(lambda: "Daemon started" in service.log.partition("exited unexpectedly")[2], 2)


def test_killed_worker_releases_its_instance(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers)
    name = topic()
    with instances(url_of(service), new_group(), 1) as (instance,):
        instance.subscribe(name)
        assert instance.values() == []
        sessions = service.session_of_each_worker()
        worker, session = next(iter(sessions.items()))
        cut = threading.Event()

        def wait_long() -> None:
            try:
                session.get(f"{service.url}{instance.path}/records?timeout=60000", timeout=100)
            except requests.ConnectionError:
                cut.set()

        waiting = threading.Thread(target=wait_long)
        waiting.start()
        other = next(each for pid, each in sessions.items() if pid != worker)
        wait_for(lambda: is_lent(other, service, instance))
        os.kill(worker, signal.SIGKILL)
        waiting.join(60)
        assert cut.is_set()
        produce(service.url, name, ["x"])
        assert instance.values(20_000) == ["x"], "the lease itself ends after 90 s"
        for each in sessions.values():
            each.close()


def is_lent(session: requests.Session, service: Service, instance: ConsumerInstance) -> bool:
    """Whether another read holds the instance's lease: this read then waits, although it asks for 0.3 s only."""
    began = time.monotonic()
    session.get(f"{service.url}{instance.path}/records?timeout=300", headers={"Accept": JSON_TYPE}, timeout=10)
    return "GET" in service.access_log and time.monotonic() - began > 0.25


def test_daemon_ends_after_the_service_and_a_new_one_continues(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers)
    name, group = topic(), new_group()
    instance = ConsumerInstance(url_of(service), group)
    instance.create()
    instance.subscribe(name)
    produce(service.url, name, [1])
    assert read_until(instance, 1) == [1]
    told = time.monotonic()
    service.terminate()
    service.wait_for_end()
    wait_for(lambda: not service.daemons, LINGER + 3)
    assert time.monotonic() - told > LINGER
    assert not list(service.data_dir.glob("*.sock"))
    service.start()
    wait_for(lambda: service.daemons, 5)  # before any call
    produce(service.url, name, [2])
    assert read_until(instance, 1) == [2]
    assert instance.delete().status_code == 204


def test_stopped_daemon_ends_before_kafka_and_logs_no_error(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    """It waited 10 s for workers. After Ctrl-C the demo's Kafka was gone by then, which left errors in daemon.log."""
    service = start_service(kafka.bootstrap_servers)
    instance = ConsumerInstance(url_of(service), new_group())
    instance.create()
    instance.subscribe(topic())
    service.terminate()
    service.wait_for_end()
    DataDirectory(service.data_dir).stop_daemon(LINGER)
    wait_for(lambda: not service.daemons, 2)  # the process ends just after it has released its lock
    log = (service.data_dir / "daemon.log").read_text()
    assert "Daemon stopping: no workers are connected." in log
    assert "ERROR" not in log


def test_quick_restart_of_the_service_keeps_the_daemon(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    """The daemon waits longer for workers than it does by default, so that a slow start is still a quick one."""
    long_wait = {"kafka_http.node.daemon_server.LINGER_SECONDS": 120.0}
    service = start_service(kafka.bootstrap_servers, daemon_constants=LONG_SESSIONS | long_wait)
    name, group = topic(), new_group()
    instance = ConsumerInstance(url_of(service), group)
    instance.create()
    instance.subscribe(name)
    produce(service.url, name, [1])
    assert read_until(instance, 1) == [1]
    settle(instance)
    before, daemon = generations(service), service.daemon
    service.terminate()
    service.wait_for_end()
    service.start()
    produce(service.url, name, [2])
    assert read_until(instance, 1) == [2]
    settle(instance)
    assert (generations(service), service.daemon) == (before, daemon)
    instance.delete()


@pytest.mark.slow
def test_daemon_ends_after_all_other_processes_were_killed(kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    service = start_service(kafka.bootstrap_servers)
    ConsumerInstance(url_of(service), new_group()).create()
    assert service.process is not None
    os.killpg(service.process.pid, signal.SIGKILL)
    service.process.wait()
    wait_for(lambda: not service.daemons, LINGER + 3)


def test_stored_instances_of_another_cluster_return_503(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, tmp_path: Path
) -> None:
    with closing(open_database(made(tmp_path / "node"))) as database:
        store = StoredInstances(database)
        store.claim_cluster("another-cluster")
        store.create(InstanceDefinition("g", "i", "i-1", InstanceSettings()))
    service = start_service(kafka.bootstrap_servers, data_dir=tmp_path / "node")
    answer = ConsumerInstance(url_of(service), "g", "i").get()
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert "1 consumer instances of the Kafka cluster another-cluster" in answer.json()["message"]
    assert service.put(f"/messages/{topic()}", b"x").status_code == 200


def made(directory: Path) -> Path:
    directory.mkdir(mode=0o700)
    return directory


def test_store_of_a_newer_version_returns_503(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, tmp_path: Path
) -> None:
    with closing(open_database(made(tmp_path / "node"))) as database:
        database.write(lambda connection: write_meta(connection, "schema_version", "1000"))
    service = start_service(kafka.bootstrap_servers, data_dir=tmp_path / "node")
    answer = ConsumerInstance(url_of(service), "g").create()
    assert answer.status_code == 503
    assert "newer kafka_http" in answer.json()["message"]
    wait_for(lambda: not service.daemons)
    assert service.put(f"/messages/{topic()}", b"x").status_code == 200


def test_data_directory_that_others_can_read_returns_503(
    kafka: EmbeddedKafka, start_service: ServiceFactory, tmp_path: Path
) -> None:
    directory = made(tmp_path / "node")
    directory.chmod(0o755)
    service = start_service(kafka.bootstrap_servers, data_dir=directory)
    answer = ConsumerInstance(url_of(service), "g").create()
    assert answer.status_code == 503
    assert "chmod 700" in answer.json()["message"]


def test_create_while_broker_is_down_returns_503(start_service: ServiceFactory) -> None:
    service = start_service(f"127.0.0.1:{free_ports(1)[0]}")
    answer = ConsumerInstance(url_of(service), "g").create()
    assert (answer.status_code, answer.json()["error_code"]) == (503, 50302)
    assert answer.headers["Retry-After"]


def test_data_directory_path_longer_than_a_socket_address_works(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, tmp_path: Path
) -> None:
    service = start_service(kafka.bootstrap_servers, data_dir=tmp_path / ("d" * 120))
    name = topic()
    with instances(url_of(service), new_group(), 1) as (instance,):
        instance.subscribe(name)
        produce(service.url, name, [1])
        assert read_until(instance, 1) == [1]


def test_hung_daemon_fails_its_calls_and_delays_nothing_else(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    """Each call waited up to 90 s, and together they occupied all threads of the workers."""
    service = start_service(kafka.bootstrap_servers, threads=4)
    name = topic()
    instance = ConsumerInstance(url_of(service), new_group())
    instance.create()
    instance.subscribe(name)
    produce(service.url, name, ["before"])
    assert read_until(instance, 1) == ["before"]
    settle(instance)
    sessions = service.session_of_each_worker().values()

    def took(session: requests.Session, status: int) -> float:
        """Return the time of three requests. While the daemon hangs, not one of them waits for it."""
        began = time.monotonic()
        assert session.get(f"{service.url}/instances", timeout=20).status_code == status
        assert session.put(f"{service.url}/messages/{name}", b"now", timeout=20).status_code == 200
        assert session.get(f"{service.url}/messages/{name}/c/0:0", timeout=20).status_code == 200
        return time.monotonic() - began

    before = [took(session, 200) for session in sessions for _ in range(20)]
    with ThreadPoolExecutor(40) as pool:
        with frozen(Process(service.daemon)):
            waiting = [pool.submit(instance.get, 50_000) for _ in range(10)]
            waiting += [pool.submit(service.get, "/instances") for _ in range(10)]
            later = {"Prefer": "respond-async"}
            waiting += [pool.submit(service.put, f"/messages/{name}", b"later", headers=later) for _ in range(10)]
            for session in sessions:
                wait_for(lambda session=session: ready(service, session) == not_responding(), 20)  # type: ignore[misc]
            for answer in (each.result(40) for each in waiting):
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            hung = [took(session, 503) for session in sessions for _ in range(20)]
        for session in sessions:
            wait_for(lambda session=session: ready(service, session) == (200, {"status": "ready"}), 20)  # type: ignore[misc]
    assert median(hung) < median(before) + 3, "a call that waits for the daemon takes five seconds"
    assert len(read_until(instance, 80)) == 80, "nothing that was answered with a 503 is published"
    assert service.get("/tasks").json()["tasks"] == []
    assert "does not respond" in service.log
    assert "responds again" in service.log
    assert instance.delete().status_code == 204
    for session in sessions:
        session.close()


def ready(service: Service, session: requests.Session) -> tuple[int, dict[str, str]]:
    answer = session.get(f"{service.url}/ready", timeout=10)
    return answer.status_code, answer.json()


def not_responding() -> tuple[int, dict[str, str]]:
    return 200, {"status": "ready", "daemon": "not responding"}


def read_until(instance: ConsumerInstance, count: int) -> list[Any]:
    values: list[Any] = []
    wait_for(lambda: values.extend(instance.values()) or len(values) >= count, 40)
    return values


def test_read_that_hung_with_the_daemon_releases_its_instance_afterwards(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    """A read lease whose release failed kept the instance busy for half a minute, here for ten."""
    long_leases = {"kafka_http.consumers.read_lease.GRACE_SECONDS": 600.0}
    service = start_service(kafka.bootstrap_servers, daemon_constants=long_leases)
    name = topic()
    instance = ConsumerInstance(url_of(service), new_group())
    instance.create()
    instance.assign(name, 0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(instance.get, 50_000)
        wait_for(lambda: service.get("/instances").json()["instances"])
        with frozen(Process(service.daemon)):
            assert waiting.result(40).status_code == 503
    produce(service.url, name, ["x"])
    wait_for(lambda: [each["value"] for each in read_if_possible(instance)] == ["x"], 20)
    assert instance.commit().status_code == 200


def read_if_possible(instance: ConsumerInstance) -> list[dict[str, Any]]:
    """Return a page, without records while the workers have not noticed that the daemon responds again."""
    answer = instance.get()
    page: list[dict[str, Any]] = answer.json() if answer.status_code == 200 else []
    return page


def test_server_stops_and_starts_beside_a_hung_daemon(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers, workers=1)
    name = topic()
    instance = ConsumerInstance(url_of(service), new_group())
    instance.create()
    instance.subscribe(name)
    instance.values()
    daemon = service.daemon
    with frozen(Process(daemon)):
        service.terminate()
        service.wait_for_end()
        service.start()
        assert service.put(f"/messages/{name}", b"1").status_code == 200
        answer = instance.get(1)
        assert answer.status_code == 503
        assert "does not respond" in answer.json()["message"]
        with requests.Session() as session:
            wait_for(lambda: ready(service, session) == not_responding(), 20)
    wait_for(lambda: instance.get(2000).status_code == 200, 20)
    assert instance.delete().status_code == 204


def test_daemon_ends_after_a_server_stopped_that_it_did_not_answer(
    kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    """The daemon waited for good for a worker that had given up to connect while the daemon hung."""
    service = start_service(kafka.bootstrap_servers, workers=1)
    ConsumerInstance(url_of(service), new_group()).create()
    with frozen(Process(service.daemon)):
        service.terminate()
        service.wait_for_end()
        service.start()
        with requests.Session() as session:
            wait_for(lambda: ready(service, session) == not_responding(), 20)
        service.terminate()
        service.wait_for_end()
    service.end_daemon()


def test_calls_from_many_threads_are_fast(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    """Prints throughput and latency, and asserts a bound that the slowest machine should meet.

    The bound is for the median: the slowest calls of a busy machine waited for the other processes.
    """
    daemon = DaemonClient(Config(bootstrap_servers=(kafka.bootstrap_servers,), data_dir=tmp_path / "data"))
    group = new_group()
    daemon.instances.create(group, "i", InstanceSettings(), ANY_CALLER)
    try:
        for threads in (1, 16):
            took = sorted(timed_calls(daemon, group, threads))
            rate = len(took) / (sum(took) / threads)
            print(
                f"{threads} threads: {rate:.0f} a second, p50 {took[len(took) // 2] * 1e3:.3f} ms, "
                f"p99 {took[len(took) * 99 // 100] * 1e3:.2f} ms"
            )
            assert median(took) < scaled(0.05)
    finally:
        daemon.instances.delete(group, "i", ANY_CALLER)
        daemon.close()
        end_daemons(tmp_path / "data")


def timed_calls(daemon: DaemonClient, group: str, threads: int) -> list[float]:
    took: list[float] = []

    def call() -> None:
        for _ in range(4000 // threads):
            began = time.perf_counter()
            daemon.instances.settings(group, "i", ANY_CALLER)
            took.append(time.perf_counter() - began)

    callers = [threading.Thread(target=call) for _ in range(threads)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    return took
