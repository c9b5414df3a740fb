"""TLS, SASL, sessions that end, proxies and ACLs between the server and Kafka, each with a real broker."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)

from kafka_http.demo.embedded_kafka import create_topics
from tests.integration.conftest import ServiceFactory
from tests.support import forward_proxies
from tests.support.forward_proxies import ConnectProxy, ForwardProxy, Socks5Proxy, forward_proxy
from tests.support.kafka_reader import read_messages, read_topic
from tests.support.polling import scaled, wait_for
from tests.support.publish_load import PublishLoad, check_exactly_once, check_statuses
from tests.support.secured_kafka import MECHANISMS, USER, SecuredKafka, secured_kafka

SESSION_SECONDS = 3
RECOVERY_SECONDS = 2
LARGE = 900_000
"""Bytes of a value, below the default limit of Kafka."""


@pytest.fixture(scope="module")
def secured(kafka_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """A broker whose sessions have no end, with the topic `t`."""
    with secured_kafka(tmp_path_factory.mktemp("secured")) as kafka:
        yield kafka


@pytest.fixture(scope="module")
def short_sessions(kafka_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with secured_kafka(tmp_path_factory.mktemp("sessions"), session_ms=SESSION_SECONDS * 1000) as kafka:
        yield kafka


@pytest.fixture
def guarded(kafka_parts: None, tmp_path: Path) -> Iterator[SecuredKafka]:
    """A broker with ACLs, which allow the user nothing yet."""
    with secured_kafka(tmp_path, authorizes=True) as kafka:
        yield kafka


LISTENERS = [
    ("SSL", ""),
    *(("SASL_PLAINTEXT", mechanism) for mechanism in MECHANISMS),
    *(("SASL_SSL", mechanism) for mechanism in MECHANISMS),
]


def topic_of(kafka: SecuredKafka, name: str, partitions: int = 3) -> str:
    create_topics(kafka.bootstrap_servers, {name: partitions})
    return name


@pytest.mark.parametrize(("protocol", "mechanism"), LISTENERS)
def test_publish_over_each_protocol(
    secured: SecuredKafka, start_service: ServiceFactory, protocol: str, mechanism: str
) -> None:
    """One value, 1000 values, and large ones, which one write to the socket does not take."""
    topic = topic_of(secured, f"{protocol}-{mechanism or 'none'}", 1)
    service = start_service(secured.servers(protocol), **secured.settings(protocol, mechanism), timeout=30)
    large = b"x" * LARGE
    answers = [service.put(f"/messages/{topic}", b"one"), service.post(f"/messages/{topic}", json=list(range(1000)))]
    answers += [service.put(f"/messages/{topic}", large) for _ in range(3)]
    assert [each.text for each in answers if each.status_code != 200] == []
    found = [each.value for each in read_topic(secured.bootstrap_servers, topic, 1)]
    assert found == [b"one", *(b"%d" % each for each in range(1000)), large, large, large]
    page = service.get(f"/messages/{topic}/me/earliest?limit=1001")
    assert page.status_code == 200, page.text
    assert len(page.json()["records"]) == 1001


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_publish_over_tls(secured: SecuredKafka, start_service: ServiceFactory, codec: str) -> None:
    topic = topic_of(secured, f"compressed-{codec}", 1)
    service = start_service(
        secured.servers("SASL_SSL"), **secured.settings("SASL_SSL"), producer__compression_type=codec
    )
    values = [f"value {each} ".encode() * 20 for each in range(1000)]
    assert service.put(f"/messages/{topic}", values[0]).status_code == 200
    lines = b"\n".join(b'"%s"' % each for each in values[1:])
    headers = {"Content-Type": "application/x-ndjson"}
    assert service.post(f"/messages/{topic}?format=text", lines, headers=headers).status_code == 200
    assert [each.value() for each in read_messages(secured.bootstrap_servers, topic)] == values


@pytest.mark.parametrize(("count", "suffix"), [(1, ""), (20, "x" * 5000)])
def test_load_over_tls_is_exactly_once(
    secured: SecuredKafka, start_service: ServiceFactory, count: int, suffix: str
) -> None:
    """64 connections, with values large enough for writes that the socket takes in parts."""
    service = start_service(
        secured.servers("SASL_SSL"), **secured.settings("SASL_SSL", "SCRAM-SHA-512"), access_log=False
    )
    topic = topic_of(secured, f"load-{count}", 6)
    load = PublishLoad(service, topic, count=count, suffix=suffix)
    with load.running():
        wait_for(lambda: load.successes() > 500, 30)
    check_statuses(load.published, {200})
    check_exactly_once(load, secured.bootstrap_servers)


@pytest.mark.parametrize(
    ("protocol", "mechanism"),
    [pytest.param("SASL_PLAINTEXT", "PLAIN", marks=pytest.mark.slow), ("SASL_SSL", "SCRAM-SHA-256")],
)
def test_ended_sessions_fail_no_request(
    short_sessions: SecuredKafka, start_service: ServiceFactory, protocol: str, mechanism: str
) -> None:
    """Kafka closes a connection that is used after its session's lifetime (KIP-368)."""
    topic = topic_of(short_sessions, f"{protocol}-{mechanism}", 6)
    service = start_service(
        short_sessions.servers(protocol), **short_sessions.settings(protocol, mechanism), access_log=False
    )
    load = PublishLoad(service, topic)
    began = time.monotonic()
    with load.running():
        wait_for(lambda: load.successes(began + 2.5 * SESSION_SECONDS) > 500, 4 * SESSION_SECONDS + 10)
    check_statuses(load.published, {200})
    account = check_exactly_once(load, short_sessions.bootstrap_servers)
    assert account.acknowledged == account.stored


@pytest.mark.slow
def test_publish_after_an_idle_session_has_ended(short_sessions: SecuredKafka, start_service: ServiceFactory) -> None:
    topic = topic_of(short_sessions, "idle")
    service = start_service(
        short_sessions.servers("SASL_PLAINTEXT"), **short_sessions.settings("SASL_PLAINTEXT"), workers=1
    )
    for _ in range(2):
        answer = service.put(f"/messages/{topic}", b"1")
        assert answer.status_code == 200, answer.text
        assert answer.elapsed.total_seconds() < scaled(2)
        used = time.monotonic()
        wait_for(lambda used=used: time.monotonic() > used + SESSION_SECONDS + 0.5)


@pytest.mark.parametrize("asks_password", [False, True])
@pytest.mark.parametrize("kind", [ConnectProxy, Socks5Proxy])
def test_publish_through_proxy(
    secured: SecuredKafka, start_service: ServiceFactory, kind: type[ForwardProxy], asks_password: bool
) -> None:
    topic = topic_of(secured, f"{kind.__name__}-{asks_password}", 1)
    with forward_proxy(kind, asks_password=asks_password) as proxy:
        login = secured.settings("SASL_SSL", "SCRAM-SHA-256")
        service = start_service(secured.servers("SASL_SSL"), **login, kafka__proxy_url=proxy.url)
        for value in (b"one", b"x" * LARGE):
            assert service.put(f"/messages/{topic}", value).status_code == 200
        assert service.post(f"/messages/{topic}", json=list(range(1000))).status_code == 200
        assert len(service.get(f"/messages/{topic}/me/earliest?limit=2000").json()["records"]) == 1002
        assert {f"{host}:{port}" for host, port in proxy.targets} == {secured.servers("SASL_SSL")}
        assert proxy.rejected == 0
        assert forward_proxies.PASSWORD not in service.log


def test_wrong_password_returns_503(secured: SecuredKafka, start_service: ServiceFactory) -> None:
    topic = topic_of(secured, "refused")
    for protocol, mechanism in (("SASL_PLAINTEXT", "PLAIN"), ("SASL_SSL", "SCRAM-SHA-512")):
        login = secured.settings(protocol, mechanism, password="wrong-1")  # noqa: S106
        service = start_service(secured.servers(protocol), **login)
        answer = service.put(f"/messages/{topic}", b"1")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, 50302)
        assert "wrong-1" not in service.log
    assert read_topic(secured.bootstrap_servers, topic, 3) == []


def acl(operation: ACLOperation, permission: ACLPermissionType, topic: str) -> ACL:
    pattern = ResourcePattern(ResourceType.TOPIC, topic)
    return ACL(f"User:{USER}", "*", operation, permission, pattern)


def remove_acls(admin: KafkaAdminClient, rule: ACL) -> None:
    pattern = ResourcePatternFilter(
        rule.resource_pattern.resource_type, rule.resource_pattern.resource_name, rule.resource_pattern.pattern_type
    )
    admin.delete_acls([ACLFilter(rule.principal, rule.host, rule.operation, rule.permission_type, pattern)])


def test_acl_taken_away_and_given_back_under_load(guarded: SecuredKafka, start_service: ServiceFactory) -> None:
    """Without any right to write, Kafka refuses even the producer id; with one, each refused record is a 403."""
    topic_of(guarded, "t", 6)
    topic_of(guarded, "other", 1)
    write, other, describe = (
        acl(ACLOperation.WRITE, ACLPermissionType.ALLOW, "t"),
        acl(ACLOperation.WRITE, ACLPermissionType.ALLOW, "other"),
        acl(ACLOperation.DESCRIBE, ACLPermissionType.ALLOW, "t"),
    )
    with closing(KafkaAdminClient(bootstrap_servers=guarded.bootstrap_servers)) as admin:
        admin.create_acls([describe])
        service = start_service(
            guarded.servers("SASL_PLAINTEXT"), **guarded.settings("SASL_PLAINTEXT"), access_log=False
        )
        refused = service.put("/messages/t", b"0")
        assert refused.status_code == 403, refused.text
        load = PublishLoad(service, "t", count=5)
        admin.create_acls([write])
        wait_for(lambda: service.put("/messages/t?partition=0", b"1").status_code == 200)
        with load.running():
            for elsewhere in ([], [other]):
                if elsewhere:
                    admin.create_acls(elsewhere)
                there = load.acknowledged
                wait_for(lambda there=there: load.acknowledged > there + 1000, 20)
                remove_acls(admin, write)
                wait_for(lambda: all(each.status == 403 for each in load.published[-64:]), 20)
                admin.create_acls([write])
                back = time.monotonic()
                load.wait_until_well(back, RECOVERY_SECONDS)
    check_statuses(load.published, {200, 403})
    check_exactly_once(load, guarded.bootstrap_servers)
