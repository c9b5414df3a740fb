"""What an embedded broker is told: its properties file, its logging, its Java flags."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kafka_http.demo.ports import LOOPBACK

JAVA_FLAGS = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")

_A_YEAR_IN_MINUTES = 365 * 24 * 60


@dataclass(frozen=True)
class BrokerNode:
    """A broker that is its own controller: where its files are, on which ports of 127.0.0.1 it listens.

    `voters` are the controller ports of all nodes of its cluster, by node id; empty where it is alone.
    `sasl_port` adds a listener that wants SASL/PLAIN and takes `users`, passwords by name (letters and digits).
    """

    directory: Path
    port: int
    controller_port: int
    node_id: int = 1
    voters: Mapping[int, int] = field(default_factory=dict)
    sasl_port: int | None = None
    users: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def ports(self) -> list[int]:
        return [port for port in (self.port, self.controller_port, self.sasl_port) if port is not None]

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def properties_file(self) -> Path:
        return self.directory / "server.properties"

    @property
    def logging_file(self) -> Path:
        return self.directory / "log4j2.properties"

    @property
    def log_file(self) -> Path:
        return self.directory / "kafka.log"


def server_properties(node: BrokerNode) -> str:
    properties = _who_and_where(node) | _alone_or_not(node) | _light()
    if node.sasl_port is not None:
        properties |= _sasl(node.users)
    return "".join(f"{name}={_escaped(str(value))}\n" for name, value in properties.items())


def _escaped(value: str) -> str:
    """As Java reads it in a properties file, whose escapes are JSON's."""
    return json.dumps(value)[1:-1]


def _who_and_where(node: BrokerNode) -> dict[str, object]:
    listeners = {"PLAINTEXT": node.port, "CONTROLLER": node.controller_port, "SASL": node.sasl_port}
    voters = node.voters or {node.node_id: node.controller_port}
    return {
        "process.roles": "broker,controller",
        "node.id": node.node_id,
        "controller.quorum.voters": ",".join(f"{one}@{LOOPBACK}:{port}" for one, port in voters.items()),
        "controller.listener.names": "CONTROLLER",
        "listeners": ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in listeners.items() if port is not None),
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT",
        "log.dirs": node.data.as_posix(),
    }


def _alone_or_not(node: BrokerNode) -> dict[str, object]:
    """Kafka's own topics are kept as many times as there are brokers, with one of them down at most."""
    brokers = len(node.voters) or 1
    in_sync = max(1, brokers - 1)
    return {
        "default.replication.factor": brokers,
        "offsets.topic.replication.factor": brokers,
        "transaction.state.log.replication.factor": brokers,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": brokers,
        "share.coordinator.state.topic.min.isr": in_sync,
    }


def _light() -> dict[str, object]:
    """Settings for a broker that starts at once, on little memory, and serves one person or one test."""
    return {
        "auto.create.topics.enable": "false",
        "offsets.retention.minutes": _A_YEAR_IN_MINUTES,
        "log.retention.hours": -1,  # by default a message whose own timestamp is a week old is gone within minutes
        "offsets.topic.num.partitions": 5,
        "transaction.state.log.num.partitions": 5,
        "share.coordinator.state.topic.num.partitions": 5,
        "group.initial.rebalance.delay.ms": 0,
        # A broker that comes back after a kill -9 is let in when its old session has ended; by default that is 9 s.
        "broker.session.timeout.ms": 1500,
        "broker.heartbeat.interval.ms": 300,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    }


def _sasl(users: Mapping[str, str]) -> dict[str, object]:
    accounts = "".join(f' user_{name}="{password}"' for name, password in users.items())
    login_module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return {
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": f"{login_module} required{accounts};",
    }


LOGGING = """\
# Warnings and errors of all, and how far the broker is with its start and its stop.
status = error
shutdownHook = disable
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %m (%c{1})%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
logger.broker.name = kafka.server.BrokerServer
logger.broker.level = info
"""
