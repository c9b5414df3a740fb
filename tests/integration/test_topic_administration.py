"""Topics that clients create, change and delete: all workers of a real server see it at once, and so do streams."""

from collections.abc import Iterator
from itertools import count
from uuid import uuid4

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.integration.conftest import running
from tests.support.event_parser import EventParser
from tests.support.polling import wait_for
from tests.support.server_process import Service
from tests.support.stream_clients import NDJSON, events_of, opened

CALLS = 12
"""Enough that both workers answer some of them: each call has a connection of its own."""


@pytest.fixture(scope="module")
def admin_service(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("topic-admin")
    with running(Service(directory, kafka.bootstrap_servers, topic_admin=True)) as service:
        yield service


@pytest.fixture
def name(admin_service: Service) -> Iterator[str]:
    name = f"made-{uuid4().hex[:12]}"
    yield name
    admin_service.delete(f"/messages/{name}")


def create(service: Service, name: str, **settings: int) -> requests.Response:
    return service.post("/messages", json={"topic": name, **settings})


def statuses(service: Service, method: str, path: str) -> set[int]:
    """Return the statuses of a call that all workers answer."""
    return {service.request(method, path, data=b"1").status_code for _ in range(CALLS)}


def test_all_workers_know_a_topic_that_is_created_deleted_and_created_again(admin_service: Service, name: str) -> None:
    for _ in range(2):
        assert statuses(admin_service, "PUT", f"/messages/{name}") == {404}
        assert create(admin_service, name).status_code == 201
        assert statuses(admin_service, "PUT", f"/messages/{name}") == {200}
        assert statuses(admin_service, "GET", f"/messages/{name}/me/0:0?limit=1") == {200}
        assert admin_service.get(f"/messages/{name}").json()["partitions"][0]["latest"] == CALLS
        assert admin_service.delete(f"/messages/{name}").status_code == 204
        assert statuses(admin_service, "GET", f"/messages/{name}") == {404}


def test_recreated_topic_has_no_message_of_the_old_one(admin_service: Service, name: str) -> None:
    create(admin_service, name, partitions=3)
    assert admin_service.post(f"/messages/{name}", json=["old"] * 30).status_code == 200
    assert statuses(admin_service, "GET", f"/messages/{name}/me/earliest?limit=1") == {200}
    admin_service.delete(f"/messages/{name}")
    create(admin_service, name)
    assert admin_service.post(f"/messages/{name}", json=["new"] * 30).status_code == 200
    for _ in range(CALLS):
        records = admin_service.get(f"/messages/{name}/me/0:0?limit=1").json()["records"]
        assert [each["value"] for each in records] == ["new"]


def test_streams_of_a_deleted_topic_end_with_404(admin_service: Service, name: str) -> None:
    create(admin_service, name)
    admin_service.put(f"/messages/{name}", data=b"1")
    url = f"{admin_service.url}/messages/{name}/me/earliest"
    with opened(url) as events, opened(url, NDJSON) as lines:
        parser = EventParser()
        assert [each.json["value"] for each in events_of(events, 1, parser)] == [1]
        assert b'"value":1' in lines.readline()
        assert admin_service.delete(f"/messages/{name}").status_code == 204
        [last] = events_of(events, 1, parser)
        assert (last.type, last.json["error"]["code"]) == ("error", 40401)
        assert b'"code":40401' in lines.readline()
        assert (events.read(), lines.read()) == (b"", b"")


def test_added_partitions_get_messages_and_are_read(admin_service: Service, name: str) -> None:
    create(admin_service, name)
    assert statuses(admin_service, "PUT", f"/messages/{name}") == {200}
    changed = admin_service.request("PATCH", f"/messages/{name}", json={"partitions": 3})
    assert [each["partition"] for each in changed.json()["partitions"]] == [0, 1, 2]
    sent = count()

    def used() -> set[int]:
        """Publish with and without a key. Return the partitions that have messages."""
        assert admin_service.put(f"/messages/{name}").status_code == 200
        assert admin_service.put(f"/messages/{name}?key=k{next(sent)}").status_code == 200
        partitions = admin_service.get(f"/messages/{name}").json()["partitions"]
        return {each["partition"] for each in partitions if each["latest"]}

    wait_for(lambda: used() == {0, 1, 2}, 30)
    assert admin_service.put(f"/messages/{name}?partition=2").status_code == 200
    records = admin_service.get(f"/messages/{name}/me/earliest").json()["records"]
    assert {each["partition"] for each in records} == {0, 1, 2}


def test_messages_before_an_offset_are_deleted(admin_service: Service, name: str) -> None:
    create(admin_service, name)
    admin_service.post(f"/messages/{name}", json=[1, 2, 3])
    response = admin_service.request("PATCH", f"/messages/{name}", json={"delete_before": "-1"})
    assert (response.status_code, response.json()["partitions"][0]["earliest"]) == (200, 2)
    records = admin_service.get(f"/messages/{name}/me/earliest").json()["records"]
    assert [each["value"] for each in records] == [3]
    assert admin_service.request("PATCH", f"/messages/{name}", json={"delete_before": "4"}).status_code == 416


def test_refusals_of_kafka_are_quoted(admin_service: Service, name: str) -> None:
    for body, reason in (
        ({"config": {"retention.years": 1}}, "Unknown topic config name: retention.years"),
        ({"config": {"retention.ms": "soon"}}, "Not a number of type LONG"),
        ({"replication_factor": 9}, "replication factor of 9"),
        ({"partitions": 100_000}, "Excessively large number of partitions"),
    ):
        response = admin_service.post("/messages", json={"topic": name, **body})
        assert (response.status_code, reason in response.text) == (422, True), response.text
    assert admin_service.get(f"/messages/{name}").status_code == 404


def test_group_of_a_consumer_instance_is_shown_with_its_member(admin_service: Service, name: str) -> None:
    create(admin_service, name, partitions=2)
    group, v2 = f"{name}-group", {"Content-Type": "application/vnd.kafka.v2+json"}
    instances = f"/consumers/{group}/instances/one"
    body = {"name": "one", "format": "binary", "auto.offset.reset": "earliest"}
    assert admin_service.post(f"/consumers/{group}", json=body, headers=v2).status_code == 200
    admin_service.post(f"{instances}/subscription", json={"topics": [name]}, headers=v2)

    def members() -> list[dict[str, object]]:
        found = admin_service.get(f"/consumers/{group}").json()
        return [each for each in found.get("members", ()) if each["partitions"]]

    [member] = wait_for(members, 30)
    assert member["partitions"] == [{"topic": name, "partition": 0}, {"topic": name, "partition": 1}]
    refused = admin_service.delete(f"/consumers/{group}")
    assert (refused.status_code, refused.json()["error_code"], len(refused.json()["members"])) == (409, 409, 1)
    admin_service.delete(instances, headers=v2)
    wait_for(lambda: admin_service.delete(f"/consumers/{group}").status_code == 204, 20)
    assert admin_service.get(f"/consumers/{group}").status_code == 404
