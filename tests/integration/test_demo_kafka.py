"""The embedded Apache Kafka: it starts, keeps its data, reports errors, and leaves no process behind."""

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

from kafka_http.demo.broker_properties import BrokerNode
from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from kafka_http.demo.local_resources import DemoError, free_ports
from tests.conftest import TopicFactory
from tests.support.embedded_cluster import EmbeddedCluster
from tests.support.polling import wait_for
from tests.support.server_process import Service


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
def test_data_survives_kill_and_restart(fresh_kafka: EmbeddedKafka) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    assert publish(fresh_kafka.bootstrap_servers, "t", b"kept") == 0
    killed = fresh_kafka.pid

    fresh_kafka.kill()
    assert not is_alive(killed)
    fresh_kafka.start()
    assert end_offset(fresh_kafka.bootstrap_servers, "t") == 1

    create_topics(fresh_kafka.bootstrap_servers, {"t": 1, "u": 3})  # an existing topic is not an error
    stopped = fresh_kafka.pid
    fresh_kafka.stop()
    assert not is_alive(stopped)


def test_topics_are_not_created_by_a_metadata_request(kafka: EmbeddedKafka) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)) as admin:
        admin.describe_topics(["never-created"])
        assert "never-created" not in admin.list_topics()


def test_old_messages_are_not_removed(service: Service, topic: TopicFactory) -> None:
    """Kafka's default removes messages whose own timestamp is a week old."""
    assert service.get(f"/topics/{topic()}").json()["configs"]["retention.ms"] == "-1"


@pytest.mark.slow
def test_kafka_that_another_process_reaped_starts_again(fresh_kafka: EmbeddedKafka) -> None:
    """The arbiter of gunicorn waits for all children of the process."""
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
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.broker_properties import BrokerNode

directory, port, controller_port = sys.argv[1:]
kafka = EmbeddedKafka(BrokerNode(Path(directory), int(port), int(controller_port)), announce=True)
kafka.start()
child = os.fork() or time.sleep(60)  # like a worker, it keeps all open files of its parent
print(kafka.pid, child, flush=True)
time.sleep(60)
"""


@contextmanager
def owner(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield a process that runs Kafka and has forked a child, and the process id of Kafka."""
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
def test_unexpected_end_of_kafka_is_announced_in_one_line(kafka_parts: None, tmp_path: Path) -> None:
    with owner(tmp_path / "kafka") as (process, kafka):
        os.kill(kafka, signal.SIGKILL)
        assert process.stderr
        said = process.stderr.readline()
        assert "Kafka ended unexpectedly (exit status -9, log: " in said
        assert process.poll() is None


@pytest.mark.slow
def test_kafka_that_does_not_answer_can_be_stopped(fresh_kafka: EmbeddedKafka) -> None:
    pid = fresh_kafka.pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    fresh_kafka.stop()
    assert not is_alive(pid)


def new_node(directory: Path) -> BrokerNode:
    port, controller_port = free_ports(2)
    return BrokerNode(directory, port, controller_port)


def start_error(node: BrokerNode) -> str:
    """The error of a broker that does not start."""
    kafka = EmbeddedKafka(node)
    try:
        with pytest.raises(DemoError) as error:
            kafka.start()
    finally:
        kafka.stop()
    return str(error.value)


@pytest.mark.parametrize("which", ["port", "controller_port"])
def test_port_in_use_is_an_error(tmp_path: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = start_error(replace(new_node(tmp_path / "kafka"), **{which: port}))
    assert said == (
        f"Port {port}, which Kafka needs, is in use. Stop the other program, or choose another port with --kafka-port."
    )


def test_directory_in_use_is_an_error(kafka: EmbeddedKafka) -> None:
    said = start_error(new_node(kafka.node.directory))
    assert said.startswith(f"The directory {kafka.node.directory} is in use by another Kafka.")
    assert kafka.is_running


def test_directory_of_another_version_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kafka-version").write_text("3.9.1\n")
    said = start_error(new_node(tmp_path))
    assert said.startswith(f"{tmp_path} holds data of Apache Kafka 3.9.1, but this is version 4.3.1.")


def test_directory_with_other_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("mine")
    assert "holds files that are not the demo's" in start_error(new_node(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["diary"]


def test_directory_with_comma_is_an_error(tmp_path: Path) -> None:
    assert start_error(new_node(tmp_path / "a,b")).startswith(f"The path {tmp_path}/a,b contains a comma")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_directory_with_unusual_name_works(kafka_parts: None, tmp_path: Path) -> None:
    kafka = EmbeddedKafka(new_node(tmp_path / "dä ta%41 €\\x" / "kafka"))
    kafka.start()
    try:
        create_topics(kafka.bootstrap_servers, {"a.b": 1})
        with pytest.raises(DemoError, match=r"^Kafka did not create the topic a_b: .*collides"):
            create_topics(kafka.bootstrap_servers, {"a_b": 1})
    finally:
        kafka.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["dä ta%41 €\\x"]
    assert "Kafka Server started" in kafka.node.log_file.read_text()


def test_directory_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = start_error(new_node(tmp_path / "file" / "kafka"))
    assert said == f"Cannot use the directory {tmp_path}/file/kafka: Not a directory."


@pytest.mark.slow
def test_kafka_that_ends_during_start_reports_why(fresh_kafka: EmbeddedKafka) -> None:
    fresh_kafka.stop()
    said = start_error(replace(fresh_kafka.node, node_id=7))
    assert said.startswith("Apache Kafka did not start: Stored node id 1 doesn't match previous node id 7")
    assert said.endswith(f"See its log: {fresh_kafka.node.log_file}")


@pytest.mark.slow
def test_sasl_accepts_only_the_right_password(kafka_parts: None, tmp_path: Path) -> None:
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
    """The topics that kafka-python lists. It runs in its own process, because a failed login leaves sockets open."""
    login = ("-S", "SASL_PLAINTEXT", "-M", "PLAIN", "-U", user, "-P", password, "-C", "bootstrap_timeout_ms=2000")
    command = (sys.executable, "-W", "ignore", "-m", "kafka.admin", "-b", bootstrap_servers, *login)
    arguments = ("--format", "json", "topics", "list")
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
def test_cluster_of_three_works_without_one_broker(kafka_cluster: EmbeddedCluster) -> None:
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
