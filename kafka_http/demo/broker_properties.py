"""The configuration of an embedded broker: its properties file, its logging, its Java flags."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kafka_http.demo.local_resources import LOOPBACK

JAVA_FLAGS = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")

_A_YEAR_IN_MINUTES = 365 * 24 * 60


@dataclass(frozen=True)
class BrokerNode:
    """A broker that is its own controller: its directory and its ports of 127.0.0.1.

    `voters` maps the node ids of all nodes of the cluster to their controller ports; it is empty for a single broker.
    `sasl_port` adds a listener that requires SASL/PLAIN. `users` maps names to passwords (letters and digits). With
    `authorizes`, ACLs apply to these users, and clients of the listener without a login may do everything.
    `properties` are added to `server.properties` and override what is there.
    """

    directory: Path
    port: int
    controller_port: int
    node_id: int = 1
    voters: Mapping[int, int] = field(default_factory=dict)
    sasl_port: int | None = None
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    authorizes: bool = False
    properties: Mapping[str, object] = field(default_factory=dict, repr=False)

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
    """The content of the broker's `server.properties`."""
    properties = _addresses(node) | _replication(node) | _light_settings()
    if node.sasl_port is not None:
        properties |= _sasl(node.users)
    if node.authorizes:
        properties |= _AUTHORIZER
    properties |= node.properties
    return "".join(f"{name}={_escaped(str(value))}\n" for name, value in properties.items())


def _escaped(value: str) -> str:
    """Escape a value for a Java properties file, whose escapes are those of JSON."""
    return json.dumps(value)[1:-1]


def _addresses(node: BrokerNode) -> dict[str, object]:
    listeners = {"PLAINTEXT": node.port, "CONTROLLER": node.controller_port, "SASL": node.sasl_port}
    voters = node.voters or {node.node_id: node.controller_port}
    return {
        "process.roles": "broker,controller",
        "node.id": node.node_id,
        "controller.quorum.voters": ",".join(f"{node_id}@{LOOPBACK}:{port}" for node_id, port in voters.items()),
        "controller.listener.names": "CONTROLLER",
        "listeners": ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in listeners.items() if port is not None),
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT",
        "log.dirs": node.data.as_posix(),
    }


def _replication(node: BrokerNode) -> dict[str, object]:
    """Replicate all topics to every broker, so that the cluster tolerates one broker that is down."""
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


def _light_settings() -> dict[str, object]:
    """Settings for a broker that starts fast and needs little memory, for one user or one test."""
    return {
        "auto.create.topics.enable": "false",
        "offsets.retention.minutes": _A_YEAR_IN_MINUTES,
        "log.retention.hours": -1,  # the default removes messages whose own timestamp is a week old
        "offsets.topic.num.partitions": 5,
        "transaction.state.log.num.partitions": 5,
        "share.coordinator.state.topic.num.partitions": 5,
        "group.initial.rebalance.delay.ms": 0,
        # After a kill -9, a broker can register again when its old session has ended, by default after 9 s.
        "broker.session.timeout.ms": 1500,
        "broker.heartbeat.interval.ms": 300,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    }


_AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
}


def _sasl(users: Mapping[str, str]) -> dict[str, object]:
    accounts = "".join(f' user_{name}="{password}"' for name, password in users.items())
    login_module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return {
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": f"{login_module} required{accounts};",
    }


LOG4J_PROPERTIES = """\
# Warnings and errors, and the progress of the broker's start and stop.
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
