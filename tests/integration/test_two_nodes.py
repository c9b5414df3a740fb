"""Two nodes that share a PostgreSQL: each serves all instances, and adopts those of the other after it is gone."""

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.node.store import StoredNodes, open_database
from kafka_http.security.forwarded_calls import NODE_HEADER
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.frozen_process import Process, frozen
from tests.support.nginx import nginx_before
from tests.support.polling import scaled, wait_for
from tests.support.postgresql import PostgreSQL
from tests.support.server_process import Server, Service
from tests.support.v2_client import JSON_TYPE, PEOPLE, ConsumerInstance, produce, transcript

Nodes = tuple[Service, Service]


@pytest.fixture
def store_url(postgresql: PostgreSQL) -> str:
    return postgresql.database(f"nodes_{uuid4().hex}")


@pytest.fixture
def nodes(kafka: EmbeddedKafka, store_url: str, start_service: ServiceFactory) -> Nodes:
    first, second = (start_service(kafka.bootstrap_servers, store_url=store_url) for _ in range(2))
    return first, second


@pytest.fixture
def group() -> str:
    return f"group-{uuid4().hex[:8]}"


def in_turn(nodes: Nodes) -> Callable[[], str]:
    """Returns the nodes' URLs in turn, like a load balancer without sticky sessions."""
    urls = itertools.cycle([each.url for each in nodes])
    return lambda: next(urls)


def on(node: Service, instance: ConsumerInstance) -> ConsumerInstance:
    """The instance, called through this node only."""
    return ConsumerInstance(lambda: node.url, instance.group, instance.name)


def test_calls_reach_an_instance_through_each_node(nodes: Nodes, topic: TopicFactory, group: str) -> None:
    name = topic()
    for first_node in (0, 1, 0):
        instance = ConsumerInstance(in_turn(nodes[first_node:] + nodes[:first_node]), group)  # type: ignore[arg-type]
        assert instance.create().status_code == 200
        assert instance.subscribe(name).status_code == 204
        for number in range(4):
            produce(nodes[0].url, name, [number])
            assert instance.values(30_000) == [number]
        assert instance.commit().status_code == 200
        asked = {"partitions": [{"topic": name, "partition": 0}]}
        answer = instance.call("GET", f"{instance.path}/offsets", asked)
        assert [each["partition"] for each in answer.json()["offsets"]] == [0]
        assert instance.call("POST", f"{instance.path}/positions/beginning", asked).status_code == 204
        assert instance.values(30_000)[:1] == [0]
        assert instance.delete().status_code == 204
        for node in nodes:
            assert on(node, instance).get().status_code == 404


def test_call_for_group_with_slash_is_forwarded(nodes: Nodes, topic: TopicFactory, group: str) -> None:
    first, second = nodes
    instance = ConsumerInstance(lambda: first.url, f"a%2Fb%25-{group}")
    assert instance.create().status_code == 200
    assert on(second, instance).assign(topic(), 0).status_code == 204
    assert len(on(second, instance).assignments()) == 1
    assert on(second, instance).delete().status_code == 204


@pytest.mark.slow
def test_v2_session_behind_nginx_works_ten_times(nodes: Nodes, topic: TopicFactory, group: str, tmp_path: Path) -> None:
    name = topic()
    with nginx_before(nodes, tmp_path) as url:
        for _ in range(10):
            assert [each["value"] for each in transcript(Server(url), name, group)] == PEOPLE


def test_instance_name_is_unique_across_nodes(nodes: Nodes, group: str) -> None:
    instance = ConsumerInstance(in_turn(nodes), group)
    assert [instance.create().status_code for _ in range(3)] == [200, 409, 409]
    assert instance.delete().status_code == 204


def test_each_node_lists_the_instances_of_all_nodes(nodes: Nodes, group: str) -> None:
    made = [ConsumerInstance(lambda node=node: node.url, group) for node in nodes]  # type: ignore[misc]
    for each in made:
        assert each.create().status_code == 200
    for node in nodes:
        listed = [each["name"] for each in node.get("/instances").json()["instances"] if each["group"] == group]
        assert listed == sorted(each.name for each in made)
    for each in made:
        assert each.delete().status_code == 204


def test_error_of_the_other_node_is_passed_on(nodes: Nodes, group: str) -> None:
    instance = ConsumerInstance(lambda: nodes[0].url, group)
    instance.create()
    away = on(nodes[1], instance)
    answer = away.get()
    assert (answer.status_code, answer.json()["error_code"]) == (409, 40903)
    answer = away.call("POST", f"{away.path}/subscription", {"topics": 7})
    assert answer.status_code == 422
    instance.delete()


def test_call_for_instance_with_special_characters_is_forwarded(nodes: Nodes, topic: TopicFactory, group: str) -> None:
    instance = ConsumerInstance(lambda: nodes[0].url, f"{group} é", "host:8080?#%2F&")
    instance.path = f"/consumers/{quote(instance.group)}/instances/{quote(instance.name)}"
    answer = instance.call("POST", f"/consumers/{quote(instance.group)}", {"name": instance.name, "format": "json"})
    assert answer.json()["base_uri"] == nodes[0].url + instance.path
    away = on(nodes[1], instance)
    away.path = instance.path
    name = topic()
    assert away.subscribe(name).status_code == 204
    produce(nodes[1].url, name, [1])
    assert away.values(30_000) == [1]
    assert away.delete().status_code == 204


@pytest.mark.slow
def test_calls_for_instance_of_a_hung_node_fail_soon_and_then_at_once(nodes: Nodes, group: str) -> None:
    """Each such call occupied a thread for 75 s. The node's daemon still runs, so the node keeps its instances."""
    hung, other = nodes
    instance = ConsumerInstance(lambda: hung.url, group)
    instance.create(**{"consumer.request.timeout.ms": 100})
    away = on(other, instance)
    assert away.call("GET", f"{away.path}/subscription").status_code == 200
    with ExitStack() as stack:
        assert hung.process is not None
        for pid in (hung.process.pid, *hung.workers):
            stack.enter_context(frozen(Process(pid)))
        began = time.monotonic()
        assert away.call("GET", f"{away.path}/subscription").status_code == 503
        assert time.monotonic() - began < scaled(20)
        with ThreadPoolExecutor(40) as pool:  # more than the threads of both workers
            answers = list(pool.map(lambda _: away.get(2000), range(80)))
        for each in answers:
            assert (each.status_code, each.headers["Retry-After"]) == (503, "1")
            assert "does not respond" in each.json()["message"]
        assert time.monotonic() - began < scaled(40)
    wait_for(lambda: away.delete().status_code == 204, 20)


def test_instances_of_a_killed_node_are_adopted(nodes: Nodes, topic: TopicFactory, group: str) -> None:
    killed, other = nodes
    name = topic(2)
    instance = ConsumerInstance(lambda: killed.url, group)
    instance.create(**{"auto.commit.enable": False})
    instance.subscribe(name)
    for partition in (0, 1):
        produce(other.url, name, [f"{partition}-0"], partition)
    read = instance.values(30_000) + instance.values(100)
    assert instance.commit().status_code == 200  # waits until the daemon knows that the page was delivered
    on(other, instance).assignments()  # starts the other daemon now: later it would find the lease expired
    killed.kill()
    at = time.monotonic()
    for partition in (0, 1):
        produce(other.url, name, [f"{partition}-1"], partition)
    adopted = on(other, instance)
    answers = []
    while (answer := adopted.get(2000)).status_code != 200:
        answers.append(answer)
        time.sleep(0.3)  # like a client after a 503
        assert time.monotonic() - at < scaled(15)
    assert {each.status_code for each in answers} == {503}
    assert all(each.headers["Retry-After"] for each in answers)
    values = [each["value"] for each in answer.json()]
    while len(values) < 2:
        values += adopted.values(2000)
        assert time.monotonic() - at < scaled(15)
    print(f"adopted after {time.monotonic() - at:.1f} s")
    assert sorted(read + values) == ["0-0", "0-1", "1-0", "1-1"]

    killed.start()
    produce(other.url, name, ["back"], 0)
    assert on(killed, instance).values(30_000) == ["back"]
    wait_for(lambda: "Daemon holds 0 consumer instances" in killed.log or not killed.daemons)
    assert adopted.delete().status_code == 204


def test_killed_daemon_keeps_its_instances_on_its_node(
    kafka: EmbeddedKafka, store_url: str, start_service: ServiceFactory, topic: TopicFactory, group: str
) -> None:
    """The other node waits longer than by default before it adopts, because a busy machine starts a daemon slowly."""
    late = {"kafka_http.node.instance_sharing._ADOPT_AFTER_SECONDS": 300.0}
    nodes = [start_service(kafka.bootstrap_servers, store_url=store_url, daemon_constants=late) for _ in range(2)]
    name = topic()
    instance = ConsumerInstance(lambda: nodes[0].url, group)
    instance.create()
    instance.subscribe(name)
    produce(nodes[0].url, name, [1])
    assert instance.values(30_000) == [1]
    assert instance.commit().status_code == 200  # waits until the daemon knows that the page was delivered
    produce(nodes[1].url, name, [2])
    os.kill(nodes[0].daemon, signal.SIGKILL)
    assert instance.values(30_000) == [2]
    produce(nodes[1].url, name, [3])
    assert on(nodes[1], instance).values(30_000) == [3]
    assert "Adopted" not in nodes[1].log
    assert instance.delete().status_code == 204


@pytest.mark.slow
def test_idle_instances_of_a_killed_node_are_adopted(nodes: Nodes, topic: TopicFactory, group: str) -> None:
    gone, other = nodes
    instance = ConsumerInstance(lambda: gone.url, group)
    instance.create()
    instance.subscribe(topic())
    ConsumerInstance(lambda: other.url, group).create()  # starts the daemon of the other node
    gone.kill()
    wait_for(lambda: f"Adopted consumer instance {instance.name}" in other.log, 15)


@pytest.mark.slow
def test_stopped_node_releases_its_instances_at_once(nodes: Nodes, topic: TopicFactory, group: str) -> None:
    stopped, other = nodes
    name = topic()
    instance = ConsumerInstance(lambda: stopped.url, group)
    instance.create()
    instance.subscribe(name)
    produce(other.url, name, [1])
    assert instance.values(30_000) == [1]
    stopped.terminate()
    stopped.wait_for_end()
    produce(other.url, name, [2])
    away = on(other, instance)
    wait_for(lambda: away.get(2000).text.count('"value":2'), 5)
    assert away.delete().status_code == 204


@pytest.fixture
def secret(nodes: Nodes, store_url: str, tmp_path: Path) -> Iterator[str]:
    with closing(open_database(tmp_path, store_url)) as database:
        yield StoredNodes(database, "test", "").secret()


def test_call_is_forwarded_once_and_node_header_cannot_be_forged(nodes: Nodes, secret: str, group: str) -> None:
    instance = ConsumerInstance(lambda: nodes[0].url, group)
    instance.create()
    ConsumerInstance(lambda: nodes[1].url, group).create()

    def ask(header: str) -> requests.Response:
        headers = {NODE_HEADER: header, "Accept": JSON_TYPE}
        return requests.get(f"{nodes[1].url}{instance.path}/subscription", headers=headers, timeout=10)

    passed_on = ask(secret)
    assert passed_on.status_code == 503
    assert passed_on.headers["Retry-After"]
    for forged in ("", "1", secret[:-1]):
        assert ask(forged).status_code == 200
    assert secret not in nodes[0].log + nodes[1].log


def test_postgresql_outage_returns_503_and_recovers(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, fresh_postgresql: PostgreSQL, group: str
) -> None:
    service = start_service(kafka.bootstrap_servers, store_url=fresh_postgresql.database("state"))
    name = topic()
    instance = ConsumerInstance(lambda: service.url, group)
    instance.create()
    instance.subscribe(name)
    produce(service.url, name, [1])
    assert instance.values(30_000) == [1]
    fresh_postgresql.stop()
    (answer,) = wait_for(lambda: unavailable(instance), 15)
    assert answer.headers["Retry-After"]
    assert "127.0.0.1" not in answer.text
    assert service.put(f"/messages/{name}", b"2").status_code == 200
    fresh_postgresql.start()
    wait_for(lambda: instance.get().status_code == 200, 15)
    assert instance.delete().status_code == 204


def unavailable(instance: ConsumerInstance) -> list[requests.Response]:
    """The response as a list, empty unless it is a 503."""
    answer = instance.get(0)
    return [answer] if answer.status_code == 503 else []
