"""The embedded Apache Kafka: it starts, keeps its data, says what is wrong, and leaves no process behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from kafka_http.demo.admin import create_topics
from kafka_http.demo.cluster import EmbeddedCluster
from kafka_http.demo.embedded import EmbeddedKafka
from kafka_http.demo.errors import DemoError
from kafka_http.demo.ports import free_ports
from kafka_http.demo.settings import BrokerNode
from tests.attempts import wait_for
from tests.conftest import TopicFactory
from tests.integration.service import Service


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def publish(bootstrap_servers: str, topic: str, value: bytes) -> int:
    with closing(KafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")) as producer:
        return producer.send(topic, value).get(20).offset


def end_offset(bootstrap_servers: str, topic: str) -> int:
    partition = TopicPartition(topic, 0)
    with closing(KafkaConsumer(bootstrap_servers=bootstrap_servers)) as consumer:
        return consumer.end_offsets([partition])[partition]


@pytest.mark.slow
def test_data_outlives_a_kill_and_a_restart(fresh_kafka: EmbeddedKafka) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    assert publish(fresh_kafka.bootstrap_servers, "t", b"kept") == 0
    killed = fresh_kafka.pid

    fresh_kafka.kill()
    assert not is_alive(killed)
    fresh_kafka.start()
    assert end_offset(fresh_kafka.bootstrap_servers, "t") == 1

    create_topics(fresh_kafka.bootstrap_servers, {"t": 1, "u": 3})  # the one that is there is no error
    stopped = fresh_kafka.pid
    fresh_kafka.stop()
    assert not is_alive(stopped)


def test_topics_are_created_when_asked_for_alone(kafka: EmbeddedKafka) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)) as admin:
        admin.describe_topics(["never-created"])
        assert "never-created" not in admin.list_topics()


def test_no_message_goes_for_its_age(service: Service, topic: TopicFactory) -> None:
    """Kafka's default would remove those with a timestamp of their own that is a week old, when it looks next."""
    assert service.get(f"/topics/{topic()}").json()["configs"]["retention.ms"] == "-1"


@pytest.mark.slow
def test_an_end_that_another_has_reaped_is_no_hindrance(fresh_kafka: EmbeddedKafka) -> None:
    """As gunicorn's arbiter does, which waits for all children of the process."""
    assert fresh_kafka.pid
    os.kill(fresh_kafka.pid, signal.SIGKILL)
    os.waitpid(-1, 0)
    fresh_kafka.start()
    assert fresh_kafka.pid
    os.kill(fresh_kafka.pid, signal.SIGKILL)
    os.waitpid(-1, 0)
    fresh_kafka.stop()
    assert not fresh_kafka.is_running
    fresh_kafka.start()
    assert fresh_kafka.is_running


OWNER = """
import os, sys, time
from pathlib import Path
from kafka_http.demo.embedded import EmbeddedKafka
from kafka_http.demo.settings import Node

directory, port, controller_port = sys.argv[1:]
kafka = EmbeddedKafka(Node(Path(directory), int(port), int(controller_port)), announce=True)
kafka.start()
child = os.fork() or time.sleep(60)  # as a worker: it holds all that its parent had open
print(kafka.pid, child, flush=True)
time.sleep(60)
"""


@contextmanager
def owner(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that runs a Kafka and has forked a child, and Kafka's process id."""
    arguments = [sys.executable, "-W", "ignore", "-c", OWNER, directory, *map(str, free_ports(2))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        kafka, child = map(int, process.stdout.readline().split())
        try:
            yield process, kafka
        finally:
            process.kill()
            os.kill(child, signal.SIGKILL)


def test_kafka_ends_when_its_owner_is_killed(kafka_parts: None, tmp_path: Path) -> None:
    with owner(tmp_path / "kafka") as (process, kafka):
        command_line = subprocess.check_output(["ps", "-ww", "-o", "args=", "-p", str(kafka)], text=True)
        assert command_line.rstrip().endswith(f"kafka.Kafka {tmp_path}/kafka/server.properties")
        process.kill()
        wait_for(lambda: not is_alive(kafka), 15)


@pytest.mark.slow
def test_kafkas_own_end_is_announced_in_one_line(kafka_parts: None, tmp_path: Path) -> None:
    with owner(tmp_path / "kafka") as (process, kafka):
        os.kill(kafka, signal.SIGKILL)
        assert process.stderr
        said = process.stderr.readline()
        assert "Kafka has stopped (exit status -9, its log is " in said
        assert process.poll() is None


@pytest.mark.slow
def test_a_kafka_that_does_not_answer_is_stopped_all_the_same(fresh_kafka: EmbeddedKafka) -> None:
    pid = fresh_kafka.pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    fresh_kafka.stop()
    assert not is_alive(pid)


def new_node(directory: Path) -> BrokerNode:
    port, controller_port = free_ports(2)
    return BrokerNode(directory, port, controller_port)


def refusal(node: BrokerNode) -> str:
    """What a broker says instead of starting."""
    kafka = EmbeddedKafka(node)
    try:
        with pytest.raises(DemoError) as refused:
            kafka.start()
    finally:
        kafka.stop()
    return str(refused.value)


@pytest.mark.parametrize("which", ["port", "controller_port"])
def test_a_port_in_use(tmp_path: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(replace(new_node(tmp_path / "kafka"), **{which: port}))
    assert said == f"Kafka's port {port} is in use: stop what listens there, or choose another (--kafka-port)."


def test_a_directory_in_use(kafka: EmbeddedKafka) -> None:
    said = refusal(new_node(kafka.node.directory))
    assert said.startswith(f"A Kafka that runs already uses the directory {kafka.node.directory}:")
    assert kafka.is_running


def test_a_directory_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "kafka-version").write_text("3.9.1\n")
    said = refusal(new_node(tmp_path))
    assert said.startswith(f"{tmp_path} holds data of Apache Kafka 3.9.1, and this is 4.3.1:")


def test_a_directory_of_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("mine")
    assert "holds files that are not the demo's" in refusal(new_node(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["diary"]


def test_a_directory_of_a_name_that_kafka_cannot_take(tmp_path: Path) -> None:
    assert refusal(new_node(tmp_path / "a,b")).startswith(f"Kafka takes the comma in {tmp_path}/a,b for")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_directory_of_an_unusual_name(kafka_parts: None, tmp_path: Path) -> None:
    kafka = EmbeddedKafka(new_node(tmp_path / "dä ta%41 €\\x" / "kafka"))
    kafka.start()
    try:
        create_topics(kafka.bootstrap_servers, {"a.b": 1})
        with pytest.raises(DemoError, match=r"^Kafka does not create the topic a_b: .*collides"):
            create_topics(kafka.bootstrap_servers, {"a_b": 1})
    finally:
        kafka.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["dä ta%41 €\\x"]
    assert "Kafka Server started" in kafka.node.log_file.read_text()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refusal(new_node(tmp_path / "file" / "kafka"))
    assert said == f"Cannot use the directory {tmp_path}/file/kafka: Not a directory."


@pytest.mark.slow
def test_a_kafka_that_ends_while_it_starts_says_why(fresh_kafka: EmbeddedKafka) -> None:
    fresh_kafka.stop()
    said = refusal(replace(fresh_kafka.node, node_id=7))
    assert said.startswith("Apache Kafka does not start: Stored node id 1 doesn't match previous node id 7")
    assert said.endswith(f"Its log is {fresh_kafka.node.log_file}.")


@pytest.mark.slow
def test_sasl_lets_in_who_has_the_password(kafka_parts: None, tmp_path: Path) -> None:
    port, controller_port, sasl_port = free_ports(3)
    node = BrokerNode(tmp_path / "kafka", port, controller_port, sasl_port=sasl_port, users={"alice": "secret1"})
    kafka = EmbeddedKafka(node)
    kafka.start()
    try:
        create_topics(kafka.bootstrap_servers, {"t": 1})
        assert '"t"' in topics_seen_by("alice", "secret1", kafka.sasl_bootstrap_servers)
        assert topics_seen_by("alice", "wrong", kafka.sasl_bootstrap_servers) == ""
    finally:
        kafka.stop()


def topics_seen_by(user: str, password: str, bootstrap_servers: str) -> str:
    """What kafka-python lists, in a process of its own: where the login fails it leaves sockets open."""
    login = ("-S", "SASL_PLAINTEXT", "-M", "PLAIN", "-U", user, "-P", password, "-C", "bootstrap_timeout_ms=2000")
    command = (sys.executable, "-W", "ignore", "-m", "kafka.admin", "-b", bootstrap_servers, *login)
    arguments = ("--format", "json", "topics", "list")
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
def test_three_brokers_go_on_without_one(kafka_cluster: EmbeddedCluster) -> None:
    create_topics(kafka_cluster.bootstrap_servers, {"t": 1})
    with closing(KafkaAdminClient(bootstrap_servers=kafka_cluster.bootstrap_servers)) as admin:
        [partition] = admin.describe_topics(["t"])[0]["partitions"]
        assert sorted(partition["replica_nodes"]) == [1, 2, 3]
    assert publish(kafka_cluster.bootstrap_servers, "t", b"before") == 0

    leader = partition["leader_id"]
    kafka_cluster.brokers[leader].kill()
    assert publish(kafka_cluster.bootstrap_servers, "t", b"without") == 1

    kafka_cluster.brokers[leader].start()
    assert end_offset(kafka_cluster.brokers[leader].bootstrap_servers, "t") == 2
