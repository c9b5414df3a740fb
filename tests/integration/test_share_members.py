"""Members of share groups on a real Kafka: lost connections, control records, idle times, rights, logins."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaProducer
from kafka.errors import UnknownError

from kafka_http.acls import Acl
from kafka_http.administration import TopicSettings
from kafka_http.broker import KafkaBroker, share_leader
from kafka_http.broker.share_session import ShareFetched, ShareSession
from kafka_http.config import Config
from kafka_http.demo.broker_properties import BrokerNode
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.local_resources import free_ports
from kafka_http.errors import KafkaHttpError, NotAuthorized, QueuesUnsupported, RetriableBrokerError
from kafka_http.records import NewRecord
from kafka_http.share_groups import AckType
from tests.support.acl_kafka import AclKafka
from tests.support.open_broker import open_broker
from tests.support.polling import scaled, wait_for
from tests.support.secured_kafka import SecuredKafka
from tests.support.share_reader import ShareReader
from tests.support.share_version import set_share_version


@contextmanager
def reader_of(broker: KafkaBroker, topic: str, values: int = 0, group: str = "") -> Iterator[ShareReader]:
    """Make a topic with messages, and a member that reads it."""
    broker.topic_admin.create(topic, TopicSettings(partitions=1, replication_factor=1))
    publish(broker, topic, values)
    group = group or f"queue-{uuid4().hex[:8]}"
    broker.share_groups.prepare(group, 6)
    with closing(ShareReader(broker, group, topic)) as reader:
        yield reader


def publish(broker: KafkaBroker, topic: str, count: int) -> None:
    records = [NewRecord(b"%d" % each) for each in range(count)]
    for each in broker.producer.publish(topic, records, scaled(10)).result(scaled(10)) if records else ():
        assert not isinstance(each, KafkaHttpError)


@pytest.fixture
def topic() -> str:
    return f"topic-{uuid4().hex[:12]}"


def test_message_comes_again_after_the_broker_was_killed(fresh_kafka: EmbeddedKafka, topic: str) -> None:
    with (
        open_broker(Config(bootstrap_servers=(fresh_kafka.bootstrap_servers,))) as broker,
        reader_of(broker, topic, 3) as reader,
    ):
        taken = reader.take(3)
        assert reader.settle(taken[:1]) == [None]
        fresh_kafka.kill()
        reader.wait_until(lambda: reader.lost)
        fresh_kafka.start()
        assert [each.offset for each in reader.take(2, 30)] == [1, 2]
        assert reader.attempts[3:] == [1, 1]  # Kafka had not written down that they were acquired
        assert reader.settle(reader.records[3:]) == [None, None]
        reader.wait_until(lambda: reader.failures[-1] is None)


def test_member_is_told_that_share_groups_are_switched_off(fresh_kafka: EmbeddedKafka, topic: str) -> None:
    config = Config(bootstrap_servers=(fresh_kafka.bootstrap_servers,))
    set_share_version(config, 0)
    with open_broker(config) as broker:
        broker.topic_admin.create(topic, TopicSettings(partitions=1, replication_factor=1))
        wait_for(lambda: raises(QueuesUnsupported, lambda: broker.share_groups.prepare("queue", 6)), 20)
        with pytest.raises(QueuesUnsupported):
            broker.share_groups.progress("queue", topic)
        assert broker.groups.describe_groups(["queue"]) == []
        with closing(ShareReader(broker, "queue", topic)) as reader:
            reader.wait_until(lambda: any(isinstance(each, QueuesUnsupported) for each in reader.failures))


def raises(error: type[KafkaHttpError], call: Callable[[], object]) -> bool:
    try:
        call()
    except error:
        return True
    return False


def test_partition_that_kafka_has_not_initialized_is_read_later(
    kafka: EmbeddedKafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka answers with -1 for such a partition, for 30 s if a broker was killed just after the group began."""
    fetch, is_initialized = ShareSession.fetch, threading.Event()

    async def answer(session: ShareSession, *arguments: Any) -> ShareFetched:
        fetched = await fetch(session, *arguments) if is_initialized.is_set() else None
        return fetched or ShareFetched([], [], 0.0, {0: UnknownError}, {})

    monkeypatch.setattr(ShareSession, "fetch", answer)
    with (
        open_broker(Config(bootstrap_servers=(kafka.bootstrap_servers,))) as broker,
        reader_of(broker, topic, 1) as reader,
    ):
        reader.want(1)
        reader.wait_until(lambda: any(reader.failures))
        assert {type(each) for each in reader.failures} == {RetriableBrokerError}
        is_initialized.set()
        reader.wait_until(lambda: reader.records)
        reader.wait_until(lambda: reader.failures[-1] is None)


def test_control_records_are_settled_by_the_member(kafka: EmbeddedKafka, topic: str) -> None:
    """Each transaction ends with a control record, which counts as acquired."""
    with (
        open_broker(Config(bootstrap_servers=(kafka.bootstrap_servers,))) as broker,
        reader_of(broker, topic, group=f"{topic}-queue") as reader,
        closing(KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id=topic)) as producer,
    ):
        producer.init_transactions()
        for number in range(3):
            producer.begin_transaction()
            producer.send(topic, b"%d" % number)
            producer.commit_transaction()
        taken = reader.take(3)
        assert [each.value for each in taken] == [b"0", b"1", b"2"]
        assert reader.settle(taken) == [None] * 3
        reader.want(1)
        wait_for(lambda: broker.share_groups.progress(f"{topic}-queue", topic)[0].lag == 0)


def test_waiting_member_notices_new_messages_by_itself(
    kafka: EmbeddedKafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share_leader, "POLL_SECONDS", 3600.0)
    with (
        open_broker(Config(bootstrap_servers=(kafka.bootstrap_servers,))) as broker,
        reader_of(broker, topic) as reader,
    ):
        reader.want(10)
        reader.wait_until(lambda: reader.exhausted)
        for count in range(1, 6):
            publish(broker, topic, 1)
            reader.wait_until(lambda count=count: len(reader.records) == count)


@pytest.mark.slow
def test_idle_member_keeps_its_locks(
    kafka_parts: None, tmp_path: Path, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker closes idle connections after 2 s, and would release the locks of the session."""
    monkeypatch.setattr(share_leader, "KEEP_ALIVE_SECONDS", 0.3)
    node = BrokerNode(tmp_path / "kafka", *free_ports(2), properties={"connections.max.idle.ms": 2000})
    kafka = EmbeddedKafka(node)
    kafka.start()
    try:
        with (
            open_broker(Config(bootstrap_servers=(kafka.bootstrap_servers,))) as broker,
            reader_of(broker, topic, 1) as reader,
        ):
            taken = reader.take(1)
            began = time.monotonic()
            wait_for(lambda: time.monotonic() > began + 5)
            assert reader.lost == []
            assert reader.settle(taken) == [None]
    finally:
        kafka.stop()


@pytest.mark.slow
def test_server_without_rights_on_settings_and_group_is_told(kafka_parts: None, tmp_path: Path, topic: str) -> None:
    kafka = AclKafka(tmp_path, ["worker"])
    kafka.start()
    try:
        with open_broker(kafka.config()) as admin, reader_of(admin, topic, 1):
            pass
        topic_read = Acl("User:worker", "read", "topic", topic)
        kafka.replace_acls([topic_read, Acl("User:worker", "read", "group", "mine")])
        with open_broker(kafka.config("worker")) as broker:
            assert broker.share_groups.prepare("mine", 6).refused
            publish_after_join(kafka, broker, topic)
            with closing(ShareReader(broker, "other", topic)) as reader:
                reader.wait_until(lambda: any(isinstance(each, NotAuthorized) for each in reader.failures))
    finally:
        kafka.stop()


def publish_after_join(kafka: AclKafka, broker: KafkaBroker, topic: str) -> None:
    """A group whose settings were refused starts at the end of the topic."""
    with open_broker(kafka.config()) as admin, closing(ShareReader(broker, "mine", topic)) as reader:
        reader.want(1)
        reader.wait_until(lambda: reader.exhausted)
        assert reader.records == []
        publish(admin, topic, 1)
        reader.wait_until(lambda: reader.records)
        assert reader.settle(reader.records) == [None]


@pytest.mark.slow
def test_member_logs_in_with_tls_and_renews_its_login(kafka_parts: None, tmp_path: Path, topic: str) -> None:
    """The broker closes connections whose login is older than 3 s."""
    kafka = SecuredKafka(tmp_path, session_ms=3000)
    kafka.start()
    try:
        settings = {name.removeprefix("kafka__"): each for name, each in kafka.settings("SASL_SSL").items()}
        config = Config(bootstrap_servers=(kafka.servers("SASL_SSL"),), kafka=settings)
        with open_broker(config) as broker, reader_of(broker, topic, 1) as reader:
            held = reader.take(1)
            began = time.monotonic()
            while time.monotonic() < began + 5:
                assert reader.settle(held, AckType.RENEW) == [None]
            assert reader.lost == []
            assert reader.settle(held) == [None]
    finally:
        kafka.stop()
