"""A registry that stops and comes back under load: cached schemas stay usable, other schemas are a 503."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.embedded_registry import EmbeddedRegistry
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.integration.test_fast_path import threads_of
from tests.support.frozen_process import frozen
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service

pytestmark = pytest.mark.slow

SECRET = "a-very-secret-word"  # noqa: S105  of this test alone
TIMEOUT = 2.0
RECORDS = {"records": [{"value": "known"}]}


def register(registry: EmbeddedRegistry, subject: str, schema: str = '"string"') -> int:
    answer = requests.post(f"{registry.url}/subjects/{subject}/versions", json={"schema": schema}, timeout=30)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["id"])


class Load:
    """Sends requests from threads until it ends. `answers` has (status, seconds, text) of each, by kind of request."""

    def __init__(self, kinds: dict[str, Callable[[int], requests.Response]]) -> None:
        self.answers: dict[str, list[tuple[int, float, str]]] = {name: [] for name in kinds}
        self._kinds = kinds
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator["Load"]:
        with ThreadPoolExecutor(2 * len(self._kinds)) as pool:
            running = [pool.submit(self._repeat, name) for name in self._kinds for _ in range(2)]
            try:
                yield self
            finally:
                self._ended.set()
            for each in running:
                each.result()

    def _repeat(self, name: str) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            began = time.monotonic()
            answer = self._kinds[name](number)
            self.answers[name].append((answer.status_code, time.monotonic() - began, answer.text))

    def wait_for_more(self, count: int = 20) -> None:
        """Wait for so many more responses of each kind."""
        wanted = {name: len(answers) + count for name, answers in self.answers.items()}
        wait_for(lambda: all(len(self.answers[name]) >= wanted[name] for name in wanted), 30)


def test_only_unknown_schemas_fail_while_registry_is_down(
    kafka: EmbeddedKafka, fresh_registry: EmbeddedRegistry, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    registry, name = fresh_registry, topic()
    known = register(registry, f"{name}-value")
    unknown = register(registry, "other", '"long"')
    service = start_service(
        kafka.bootstrap_servers,
        schema_registry__url=registry.url,
        schema_registry__timeout=TIMEOUT,
        schema_registry__latest_ttl=0,
        schema_registry__basic_auth=f"user:{SECRET}",
    )
    of_known = {
        "id": lambda number: messages(service, name, schema_id=known),
        "latest": lambda number: messages(service, name),
        "v2": lambda number: v2(service, name, value_schema_id=known),
        "read": lambda number: service.get(f"/messages/{name}/me/earliest?format=avro&limit=10"),
        "json": lambda number: service.post(f"/messages/{name}", json=RECORDS),
    }
    for session in service.session_of_each_worker().values():  # each worker has caches of its own
        with session:
            warm(session, service, name, known)

    load = Load(of_known)
    with load.running():
        load.wait_for_more()
        registry.kill()
        load.wait_for_more(5)
        away = Load({"of id": lambda number: messages(service, name, schema_id=unknown),
                     "of text": lambda number: v2(service, name, value_schema=json.dumps(enum(number)))})  # fmt: skip
        with away.running():
            away.wait_for_more(5)
        load.wait_for_more()
        registry.start()
        load.wait_for_more()

    for kind, answers in load.answers.items():
        assert {status for status, _, _ in answers} == {200}, kind
    for answers in away.answers.values():
        assert {status for status, _, _ in answers} == {503}
        assert max(seconds for _, seconds, _ in answers) < scaled(TIMEOUT + 3)
        assert registry.url in answers[0][2]
    answer = wait_for(lambda: good(service.post(f"/messages/{name}?format=avro&schema_id={unknown}", json=[5])))
    assert answer.status_code == 200
    told = [text for each in (load, away) for answers in each.answers.values() for _, _, text in answers]
    assert SECRET not in "".join([*told, service.log, service.access_log])


def good(answer: requests.Response) -> requests.Response | None:
    return answer if answer.ok else None


def warm(session: requests.Session, service: Service, name: str, known: int) -> None:
    v2_type = {"Content-Type": "application/vnd.kafka.avro.v2+json"}
    for query in (f"format=avro&schema_id={known}", "format=avro"):
        assert session.post(f"{service.url}/messages/{name}?{query}", json=RECORDS, timeout=30).ok
    body = json.dumps({"value_schema_id": known, **RECORDS})
    assert session.post(f"{service.url}/topics/{name}", body, headers=v2_type, timeout=30).ok
    assert session.get(f"{service.url}/messages/{name}/me/earliest?format=avro", timeout=30).ok


def messages(service: Service, name: str, **query: Any) -> requests.Response:
    return service.post(f"/messages/{name}", json=RECORDS, params={"format": "avro", **query})


def v2(service: Service, name: str, **named: Any) -> requests.Response:
    headers = {"Content-Type": "application/vnd.kafka.avro.v2+json"}
    return service.post(f"/topics/{name}", json.dumps({**RECORDS, **named}), headers=headers)


def enum(number: int) -> Any:
    return {"type": "enum", "name": "E", "symbols": [f"S{number}"]}


def test_registry_outage_returns_503_with_retry_after(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(
        kafka.bootstrap_servers,
        workers=1,
        schema_registry__url="http://127.0.0.1:1",
        schema_registry__bearer_token=SECRET,
    )
    name = topic()
    for answer in (messages(service, name, schema_id=1), v2(service, name, value_schema_id=1)):
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert SECRET not in answer.text
    assert SECRET not in service.log


def test_cached_schema_needs_no_thread(
    kafka: EmbeddedKafka, fresh_registry: EmbeddedRegistry, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    """While all threads wait for a frozen registry, publishes with cached schemas continue."""
    name = topic()
    known, other = register(fresh_registry, f"{name}-value"), register(fresh_registry, "other", '"bytes"')
    service = start_service(
        kafka.bootstrap_servers,
        workers=1,
        threads=2,
        schema_registry__url=fresh_registry.url,
        schema_registry__timeout=10,
    )
    assert messages(service, name, schema_id=known).status_code == 200
    assert v2(service, name, value_schema_id=known).status_code == 200
    with ThreadPoolExecutor(4) as pool:
        with frozen(fresh_registry):
            waiting = [pool.submit(messages, service, name, schema_id=other) for _ in range(4)]
            wait_for(lambda: service_is_full(service, name))
            threads = threads_of(service)
            for _ in range(20):
                assert messages(service, name, schema_id=known).status_code == 200
                assert v2(service, name, value_schema_id=known).status_code == 200
            assert threads_of(service) <= threads + 1
            assert service_is_full(service, name)
            assert not any(each.done() for each in waiting)
        assert {each.result().status_code for each in waiting} == {200}


def service_is_full(service: Service, name: str) -> bool:
    """Return whether a request that needs a thread gets none."""
    try:
        service.get(f"/messages/{name}", timeout=0.3)
    except requests.Timeout:
        return True
    return False
