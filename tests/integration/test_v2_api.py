"""The REST Proxy v2 API with several workers and a real Kafka."""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory, running
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service
from tests.support.v2_client import JSON_TYPE, PEOPLE, ConsumerInstance, instances, produce, transcript

BINARY_TYPE = "application/vnd.kafka.binary.v2+json"
GO = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")


@pytest.fixture(scope="module")
def workers_4(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server with four workers, so that successive calls rarely reach the same worker."""
    with running(Service(tmp_path_factory.mktemp("v2"), kafka.bootstrap_servers, workers=4)) as service:
        yield service


@pytest.fixture
def made(workers_4: Service) -> Iterator[Callable[..., ConsumerInstance]]:
    """Return a function that creates a consumer instance, by default in its own group. It is deleted at the end."""
    all_of_them: list[ConsumerInstance] = []

    def make(group: str | None = None, name: str | None = None, **settings: Any) -> ConsumerInstance:
        instance = ConsumerInstance(lambda: workers_4.url, group or f"group-{uuid4().hex[:8]}", name)
        answer = instance.create(**settings)
        assert answer.status_code == 200, answer.text
        all_of_them.append(instance)
        return instance

    yield make
    for each in all_of_them:
        each.delete()


Make = Callable[..., ConsumerInstance]


# The tutorial


def test_v2_session_works_ten_times(workers_4: Service, topic: TopicFactory) -> None:
    name, group = topic(), f"group-{uuid4().hex[:8]}"
    for _ in range(10):
        records = transcript(workers_4, name, group)
        assert [each["value"] for each in records] == PEOPLE
        assert [(each["topic"], each["key"]) for each in records] == [(name, None)] * 2


def test_v2_session_works_with_inline_daemon(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers, workers=1, daemon="inline")
    name, group = topic(), f"group-{uuid4().hex[:8]}"
    for _ in range(3):
        assert [each["value"] for each in transcript(service, name, group)] == PEOPLE


def test_v2_session_of_a_go_client_works(workers_4: Service, topic: TopicFactory, tmp_path: Path) -> None:
    if GO is None:
        if "CI" in os.environ:
            pytest.fail("Go is missing")
        pytest.skip("Go is missing")
    name = topic()
    for run in range(3):
        program = Path(__file__).parents[1] / "support" / "v2_tutorial.go"
        done = subprocess.run(
            [GO, "run", str(program), workers_4.url, name],
            env=os.environ | {"GOTOOLCHAIN": "local", "GOTMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        first, second = 2 * run, 2 * run + 1
        assert done.stdout.splitlines() == [
            f"produced 0 {first}",
            f"produced 0 {second}",
            "instance testConsumer",
            f"consumed {name} 0 {first} John john@gmail.com",
            f"consumed {name} 0 {second} Mary mary@email.com",
            "deleted",
        ]


# What only a real Kafka shows


def test_topic_metadata_is_that_of_kafka(workers_4: Service, topic: TopicFactory) -> None:
    name = topic(2, {"retention.ms": "123456789"})
    produce(workers_4.url, name, [1, 2, 3], partition=1)
    described = workers_4.get(f"/topics/{name}").json()
    assert described["configs"]["retention.ms"] == "123456789"
    replica = {"broker": 1, "leader": True, "in_sync": True}
    assert described["partitions"] == [{"partition": each, "leader": 1, "replicas": [replica]} for each in range(2)]
    assert workers_4.get("/brokers").json() == {"brokers": [1]}
    assert name in workers_4.get("/topics").json()
    ends = workers_4.get(f"/topics/{name}/partitions/1/offsets").json()
    assert ends == {"beginning_offset": 0, "end_offset": 3}


def test_unknown_topic_returns_404_at_once(workers_4: Service) -> None:
    workers_4.get("/topics")
    name = f"nope-{uuid4().hex[:8]}"
    body = json.dumps({"records": [{"value": 1}]})
    for ask in (
        lambda: workers_4.post(f"/topics/{name}", body, headers={"Content-Type": JSON_TYPE}),
        lambda: workers_4.get(f"/topics/{name}"),
        lambda: workers_4.get(f"/topics/{name}/partitions/0/offsets"),
    ):
        began = time.monotonic()
        answer = ask()
        assert (answer.status_code, answer.json()) == (404, {"error_code": 40401, "message": "Topic not found."})
        assert time.monotonic() - began < scaled(2)
    assert name not in workers_4.get("/topics").json()


def test_keys_headers_timestamps_and_nulls_are_read_as_produced(
    workers_4: Service, topic: TopicFactory, made: Make
) -> None:
    name = topic()
    headers = [{"key": "h", "value": base64.b64encode(b"\xff").decode()}, {"key": "n", "value": None}]
    sent = [
        {"key": "k", "value": {"n": 1.5}, "headers": headers, "timestamp": 1790000000000},
        {"key": {"id": 1}, "value": None},
        {"value": False},
    ]
    answer = workers_4.post(f"/topics/{name}", json.dumps({"records": sent}), headers={"Content-Type": JSON_TYPE})
    assert [each["error_code"] for each in answer.json()["offsets"]] == [None] * 3
    instance = made()
    instance.subscribe(name)
    records = sorted(instance.records(10_000), key=lambda each: int(each["offset"]))
    assert [(each["key"], each["value"]) for each in records] == [("k", {"n": 1.5}), ({"id": 1}, None), (None, False)]
    assert records[0]["headers"] == headers
    assert records[0]["timestamp"] == 1790000000000
    assert all("headers" not in each for each in records[1:])


def test_large_and_undecodable_records_are_delivered(workers_4: Service, made: Make, topic: TopicFactory) -> None:
    name = topic(configs={"max.message.bytes": str(8 << 20)})
    large = "x" * (5 << 20)
    produce(workers_4.url, name, [0, large])
    assert workers_4.put(f"/messages/{name}", b"\xffpoison").status_code == 200
    produce(workers_4.url, name, [3])
    instance = made()
    instance.subscribe(name)
    seen: list[Any] = []
    for _ in range(4):
        answer = instance.call("GET", f"{instance.path}/records", params={"max_bytes": 1, "timeout": 10_000})
        (record,) = answer.json()
        seen.append(record["error"]["error_code"] if "error" in record else record["value"])
        if "error" in record:
            assert base64.b64decode(record["value"]) == b"\xffpoison"
    assert seen == [0, large, 40801, 3]


def test_two_members_share_partitions_until_one_leaves(workers_4: Service, topic: TopicFactory) -> None:
    name, group = topic(4), f"group-{uuid4().hex[:8]}"
    with instances(lambda: workers_4.url, group, 2) as (first, second):
        for each in (first, second):
            assert each.subscribe(name).status_code == 204
        seen: dict[str, list[int]] = {first.name: [], second.name: []}

        def read(*readers: ConsumerInstance) -> int:
            for each in readers:
                seen[each.name] += each.values(300)
            return sum(map(len, seen.values()))

        wait_for(lambda: read(first, second) == 0 and len(first.assignments()) == len(second.assignments()) == 2, 30)
        assert sorted(first.assignments() + second.assignments()) == [(name, each) for each in range(4)]
        for partition in range(4):
            produce(workers_4.url, name, [partition], partition)
        wait_for(lambda: read(first, second) == 4, 20)
        assert sorted(map(len, seen.values())) == [2, 2]
        assert first.delete().status_code == 204
        for partition in range(4):
            produce(workers_4.url, name, [10 + partition], partition)
        wait_for(lambda: read(second) == 8, 20)
        assert sorted(seen[first.name] + seen[second.name]) == [0, 1, 2, 3, 10, 11, 12, 13]


def test_commit_with_and_without_body_commits_offsets(workers_4: Service, topic: TopicFactory, made: Make) -> None:
    name, group = topic(), f"group-{uuid4().hex[:8]}"
    produce(workers_4.url, name, [0, 1, 2, 3])
    instance = made(group, **{"auto.commit.enable": "false"})
    instance.subscribe(name)
    page = instance.call("GET", f"{instance.path}/records", params={"max_poll_records": 3, "timeout": 10_000}).json()
    assert [each["value"] for each in page] == [0, 1, 2]
    asked = {"partitions": [{"topic": name, "partition": 0}]}
    assert instance.call("GET", f"{instance.path}/offsets", asked).json() == {"offsets": []}
    assert (instance.commit().status_code, instance.commit().json()) == (200, [])
    place = {"topic": name, "partition": 0}
    committed = instance.call("GET", f"{instance.path}/offsets", asked).json()
    assert committed == {"offsets": [{**place, "offset": 3, "metadata": ""}]}
    body = {"offsets": [{**place, "offset": 0, "metadata": "back"}]}
    assert instance.call("POST", f"{instance.path}/offsets", body).status_code == 200
    committed = instance.call("GET", f"{instance.path}/offsets?topic={name}&partition=0").json()
    assert committed == {"offsets": [{**place, "offset": 1, "metadata": "back"}]}
    instance.delete()
    instance = made(group)
    instance.subscribe(name)
    assert instance.values(10_000) == [1, 2, 3]


def test_seek_by_offset_and_timestamp_sets_the_position(workers_4: Service, topic: TopicFactory, made: Make) -> None:
    name = topic()
    for each in range(3):
        record = {"value": each, "timestamp": 1_700_000_000_000 + each * 1000}
        body = json.dumps({"records": [record]})
        workers_4.post(f"/topics/{name}", body, headers={"Content-Type": JSON_TYPE})
    instance = made()
    instance.subscribe(name)
    place = {"topic": name, "partition": 0}

    def seek(path: str, body: Any) -> list[Any]:
        answer = instance.call("POST", f"{instance.path}/positions{path}", body)
        assert answer.status_code == 204, answer.text
        return instance.values(500)

    # 1700000001 is 22:13:21
    assert seek("", {"timestamps": [{**place, "timestamp": "2023-11-14T22:13:21Z"}]}) == [1, 2]
    assert seek("/beginning", {"partitions": [place]}) == [0, 1, 2]
    assert seek("/end", {"partitions": [place]}) == []
    assert seek("", {"offsets": [{**place, "offset": 2}]}) == [2]
    assert seek("", {"timestamps": [{**place, "timestamp": "2100-01-01T00:00:00Z"}]}) == []
    assert seek("", {"offsets": [{**place, "offset": 1000}]}) == [0, 1, 2]


def test_pattern_includes_topic_that_is_created_later(workers_4: Service, made: Make, admin: KafkaAdminClient) -> None:
    prefix = f"pattern-{uuid4().hex[:8]}"
    admin.create_topics([f"{prefix}-1"])
    admin.wait_for_topics([f"{prefix}-1"])
    instance = made()
    answer = instance.call("POST", f"{instance.path}/subscription", {"topic_pattern": f"{prefix}-[0-9]"})
    assert answer.status_code == 204
    produce(workers_4.url, f"{prefix}-1", [1])
    assert instance.values(10_000) == [1]
    admin.create_topics([f"{prefix}-2", f"{prefix}-x"])
    admin.wait_for_topics([f"{prefix}-2", f"{prefix}-x"])
    for each in ("2", "x"):
        produce(workers_4.url, f"{prefix}-{each}", [each])
    seen: list[Any] = []

    def read() -> bool:
        seen.extend(instance.values(500))
        return bool(seen)

    wait_for(read, 30)
    assert seen == ["2"]
    topics = instance.call("GET", f"{instance.path}/subscription").json()
    assert topics == {"topics": [f"{prefix}-1", f"{prefix}-2"]}


def test_isolation_level_hides_aborted_records(
    workers_4: Service, kafka: EmbeddedKafka, topic: TopicFactory, made: Make
) -> None:
    name = topic()
    transactional = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id=f"tx-{uuid4().hex}")
    with closing(transactional) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(name, b'"aborted"').get(10)
        producer.abort_transaction()
        producer.begin_transaction()
        producer.send(name, b'"committed"').get(10)
        producer.commit_transaction()
    both, one = made(), made(**{"isolation.level": "read_committed"})
    both.subscribe(name)
    one.subscribe(name)
    assert both.values(10_000) == ["aborted", "committed"]
    assert one.values(10_000) == ["committed"]


def test_first_read_returns_records(workers_4: Service, topic: TopicFactory, made: Make) -> None:
    name = topic(3)
    for partition in range(3):
        produce(workers_4.url, name, [partition], partition)
    for _ in range(5):
        instance = made()
        assert instance.subscribe(name).status_code == 204
        answer = instance.call("GET", f"{instance.path}/records")
        assert sorted(each["value"] for each in answer.json()) == [0, 1, 2]


def test_page_of_disconnected_client_is_delivered_again(workers_4: Service, topic: TopicFactory, made: Make) -> None:
    name = topic(configs={"max.message.bytes": str(8 << 20)})
    large = ["x" * (1 << 20)] * 12  # more than the kernel's buffers hold
    for each in large:
        produce(workers_4.url, name, [each])
    instance = made(**{"auto.commit.enable": "false", "fetch.max.bytes": str(32 << 20)})
    instance.subscribe(name)
    with socket.create_connection(("127.0.0.1", workers_4.port), timeout=30) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(f"GET {instance.path}/records?timeout=10000 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    deadline = time.monotonic() + 20
    seen: list[Any] = []
    while len(seen) < len(large):
        assert time.monotonic() < deadline
        seen += instance.values(5000)
    assert seen == large


def test_concurrent_reads_in_many_workers_get_each_record_once(
    workers_4: Service, topic: TopicFactory, made: Make
) -> None:
    name = topic(2)
    instance = made()
    instance.subscribe(name)
    sent = list(range(200))
    with ThreadPoolExecutor(9) as pool:
        producing = pool.submit(lambda: [produce(workers_4.url, name, [each]) for each in sent])
        seen: list[Any] = []
        deadline = time.monotonic() + 60
        while len(seen) < len(sent) and time.monotonic() < deadline:
            for page in pool.map(lambda _: instance.values(300), range(8)):
                seen += page
        producing.result()
    assert sorted(seen) == sent


def test_base_uri_behind_proxy_uses_forwarded_headers(workers_4: Service) -> None:
    for headers, base in (
        ({"Forwarded": "host=one.org;proto=https"}, "https://one.org"),
        ({"X-Forwarded-Host": "two.org:81", "X-Forwarded-Prefix": "/rest"}, "http://two.org:81/rest"),
    ):
        answer = workers_4.post("/consumers/proxied", json.dumps({"name": "c"}), headers=headers)
        assert answer.json()["base_uri"] == f"{base}/consumers/proxied/instances/c"
        assert workers_4.delete("/consumers/proxied/instances/c").status_code == 204


# Topics that are deleted and created again


def recreate(admin: KafkaAdminClient, name: str) -> None:
    admin.delete_topics([name])
    wait_for(lambda: name not in admin.list_topics())
    admin.create_topics({name: {"num_partitions": 1}})
    admin.wait_for_topics([name])


@pytest.mark.parametrize(("how", "next_call"), [("subscribe", "read"), ("subscribe", "commit"), ("assign", "read")])
def test_recreated_topic_is_read_from_its_start(
    workers_4: Service, made: Make, admin: KafkaAdminClient, how: str, next_call: str
) -> None:
    """The instance committed 8 on the new topic, and its first 8 records were skipped."""
    name = f"again-{uuid4().hex[:8]}"
    admin.create_topics({name: {"num_partitions": 1}})
    admin.wait_for_topics([name])
    instance = made(**{"auto.commit.enable": next_call == "read"})
    assert (instance.subscribe(name) if how == "subscribe" else instance.assign(name, 0)).status_code == 204
    produce(workers_4.url, name, [f"old {each}" for each in range(8)])
    assert len(instance.values(10_000)) == 8
    recreate(admin, name)
    new = [f"new {each}" for each in range(20)]
    produce(workers_4.url, name, new)
    if next_call == "commit":
        wait_for(lambda: instance.commit().status_code == 200)
        assert committed(instance, name) is None
    seen: list[str] = []
    wait_for(lambda: seen.extend(instance.values()) or len(seen) >= 20, 30)
    assert seen == new
    wait_for(lambda: instance.commit().status_code == 200)
    assert committed(instance, name) == 20


def committed(instance: ConsumerInstance, topic: str) -> int | None:
    answer = instance.call("GET", f"{instance.path}/offsets?topic={topic}&partition=0").json()
    return next((each["offset"] for each in answer["offsets"]), None)


def test_assignment_of_missing_topic_is_read_once_it_exists(
    workers_4: Service, made: Make, admin: KafkaAdminClient
) -> None:
    name, instance = f"later-{uuid4().hex[:8]}", made()
    assert instance.assign(name, 0).status_code == 204
    assert instance.values(100) == []
    admin.create_topics({name: {"num_partitions": 1}})
    admin.wait_for_topics([name])
    produce(workers_4.url, name, [1])
    assert wait_for(instance.values, 20) == [1]


# Commits


@pytest.mark.parametrize("how", ["subscribe", "assign"])
def test_commit_of_missing_partition_returns_404_at_once_and_commits_nothing(
    workers_4: Service, topic: TopicFactory, made: Make, how: str
) -> None:
    """The request took 5 s, returned 503, and committed the other offsets."""
    name, instance = topic(), made(**{"auto.commit.enable": False})
    assert (instance.subscribe(name) if how == "subscribe" else instance.assign(name, 0)).status_code == 204
    produce(workers_4.url, name, [0, 1])
    assert instance.values(10_000) == [0, 1]
    there = {"topic": name, "partition": 0, "offset": 0}
    for missing, code in (({**there, "topic": f"{name}-nope"}, 40401), ({**there, "partition": 1}, 40402)):
        began = time.monotonic()
        answer = instance.call("POST", f"{instance.path}/offsets", {"offsets": [there, missing]})
        assert (answer.status_code, answer.json()["error_code"]) == (404, code)
        assert time.monotonic() - began < scaled(4)
        assert committed(instance, name) is None


@pytest.mark.parametrize("explicit", [True, False])
def test_commit_after_transaction_leaves_no_lag(
    workers_4: Service, kafka: EmbeddedKafka, topic: TopicFactory, made: Make, explicit: bool
) -> None:
    """The control record at the end of a transaction has an offset that no reader sees."""
    name, instance = topic(), made(**{"isolation.level": "read_committed", "auto.commit.enable": False})
    with closing(KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id=uuid4().hex)) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        for each in (b"0", b"1"):
            producer.send(name, each).get(10)
        producer.commit_transaction()
    instance.subscribe(name)
    assert instance.values(10_000) == [0, 1]
    body = {"offsets": [{"topic": name, "partition": 0, "offset": 1}]} if explicit else None
    assert instance.call("POST", f"{instance.path}/offsets", body).status_code == 200
    assert committed(instance, name) == 3
    answer = workers_4.get(f"/messages/{name}/{instance.group}").json()
    assert [each["lag"] for each in answer["partitions"]] == [0]
