"""The manual's site file, in a real nginx before a real server."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.integration.conftest import ServiceFactory
from tests.support.event_parser import EventParser
from tests.support.load_clients import Load, check_nothing_lost_or_doubled
from tests.support.nginx import nginx_before, running_nginx
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Server, Service
from tests.support.stream_clients import events_of, opened

TopicFactory = Callable[..., str]


@pytest.fixture
def front(service: Service, tmp_path: Path) -> Iterator[str]:
    """The URL of nginx in front of the service."""
    with nginx_before([service], tmp_path) as url:
        yield url


def test_publish_read_and_acknowledge_work_behind_nginx(front: str, topic: TopicFactory) -> None:
    messages = f"{front}/messages/{topic()}"
    assert requests.post(messages, json=[1, 2, 3], timeout=10).status_code == 200
    page = requests.get(f"{messages}/c/committed?limit=2", timeout=10)
    assert [record["value"] for record in page.json()["records"]] == [1, 2]
    assert page.links["next"]["url"] == f"{messages}/c/0:2,*:earliest?limit=2"
    assert [each["value"] for each in requests.get(page.links["next"]["url"], timeout=10).json()["records"]] == [3]
    assert requests.delete(f"{messages}/c/{page.json()['ack']}", timeout=10).status_code == 204
    assert requests.get(f"{messages}/c/committed?wait=5", timeout=10).json()["records"][0]["value"] == 3


def test_large_bodies_pass_nginx(front: str, topic: TopicFactory) -> None:
    messages = f"{front}/messages/{topic(configs={'max.message.bytes': '20000000'})}"
    body = os.urandom(10_000_000)
    assert requests.put(messages, data=body, timeout=30).status_code == 200
    assert requests.put(messages, data=(body[:1000] for _ in range(10)), timeout=30).status_code == 200
    answer = requests.get(f"{messages}/c/0", headers={"Accept": "application/octet-stream"}, timeout=30)
    assert answer.content == body


def test_position_of_500_partitions_passes_nginx(front: str, topic: TopicFactory) -> None:
    messages = f"{front}/messages/{topic(500)}"
    wait_for(lambda: requests.get(f"{messages}/c/earliest", timeout=30).ok, 60)  # Kafka makes 500 logs first
    first = requests.get(f"{messages}/c/earliest", timeout=30)
    position = first.json()["next"]
    assert position.count(":") == 501
    again = requests.get(first.links["next"]["url"], timeout=30)
    assert (again.status_code, again.json()["next"]) == (200, position)


def test_consumer_instance_works_behind_nginx(front: str, topic: TopicFactory) -> None:
    name = topic()
    assert requests.post(f"{front}/topics/{name}", json={"records": [{"value": 1}]}, timeout=10).status_code == 200
    answer = requests.post(f"{front}/consumers/nginx", json={"name": name, "format": "json"}, timeout=10)
    base_uri = answer.json()["base_uri"]
    assert base_uri == f"{front}/consumers/nginx/instances/{name}"
    assert requests.post(f"{base_uri}/subscription", json={"topics": [name]}, timeout=10).status_code == 204
    page = requests.get(f"{base_uri}/records?timeout=10000", timeout=20).json()
    assert [each["value"] for each in page] == [1]
    assert requests.delete(base_uri, timeout=10).status_code == 204


def test_error_passes_nginx(front: str) -> None:
    answer = requests.put(f"{front}/messages/nope", data=b"x", timeout=10)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, 40401)


@pytest.mark.parametrize(("host", "status"), [("x", 200), ("kafka.example.org", 421)])
def test_public_host_name_must_be_in_allowed_hosts(front: str, host: str, status: int) -> None:
    """Nginx passes it on as Host, and the server listens on a loopback address."""
    assert requests.get(f"{front}/messages", headers={"Host": host}, timeout=10).status_code == status


@pytest.mark.parametrize("without", ["", " (proxy_buffering|proxy_http_version|proxy_set_header Connection) .*"])
def test_stream_events_pass_nginx_without_delay(
    service: Service, topic: TopicFactory, tmp_path: Path, without: str
) -> None:
    """Through the manual's site, and through one that says nothing of buffering and asks by HTTP/1.0."""
    path = f"/messages/{topic()}/me/earliest"
    with nginx_before([service], tmp_path, without) as front, opened(front + path) as answer:
        assert answer.status == 200
        parser = EventParser()
        for number in range(20):
            assert service.post(path.rsplit("/", 2)[0], json=[number]).status_code == 200
            began = time.monotonic()
            assert [each.json["value"] for each in events_of(answer, 1, parser)] == [number]
            assert time.monotonic() - began < scaled(0.5)
        assert parser.last_id == "0:20,*:earliest"


def test_disconnect_from_nginx_ends_the_stream(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, tmp_path: Path
) -> None:
    service = start_service(kafka.bootstrap_servers, workers=1, max_streams=1, stream_keepalive=1)
    path = f"/messages/{topic()}/me/earliest"
    with nginx_before([service], tmp_path) as front:
        with opened(front + path) as answer, opened(front + path) as refused:
            assert (answer.status, refused.status) == (200, 503)

        def is_free() -> bool:
            with opened(front + path) as answer:
                return answer.status == 200

        wait_for(is_free, 2)


def test_restarts_of_two_nodes_in_turn_fail_no_request(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, tmp_path: Path
) -> None:
    """As in the section "Upgrades" of the page "Deployment": nginx takes a node out before it stops."""
    name, nodes = topic(3), [start_service(kafka.bootstrap_servers) for _ in range(2)]
    with running_nginx(nodes, tmp_path) as nginx:
        load = Load(Server(nginx.url), name)
        with load.running():
            for node in [*nodes, None]:
                began = time.monotonic()
                wait_for(lambda began=began: len(load.successes("publish", began)) > 20, 30)
                if node is not None:
                    nginx.mark(node, is_down=True)
                    node.terminate()
                    node.wait_for_end()
                    node.start()
                    nginx.mark(node, is_down=False)
        assert [each for each in load.answers if each.status not in (200, 204)] == []
        check_nothing_lost_or_doubled(load, kafka.bootstrap_servers, name, 3)
