"""Random requests that schemathesis makes from the description of the API, to a real server before a real Kafka.

There must be no 5xx, and no response that the description does not allow.
"""

import copy
import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.integration.conftest import starting_services
from tests.support.openapi_document import Operation, document, operations, response_problems
from tests.support.server_process import Service

pytestmark = pytest.mark.slow

CHECKS = [
    *(not_a_server_error, status_code_conformance, content_type_conformance),
    *(response_headers_conformance, response_schema_conformance),
]
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
CASES = 48
"""For each call and mode. Together they are more than 5,000."""
TOPIC = f"fuzz-{uuid4().hex[:8]}"
ACCEPTS = ("", "", "application/octet-stream", "text/event-stream", "application/x-ndjson", "application/json")
SHORT = {"wait": "0.01", "timeout": "20"}
"""Parameters that make a request wait, and their values here."""
bounded = settings(
    max_examples=CASES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def service(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server with the topic `TOPIC`, which calls no other machine."""
    starting = starting_services(tmp_path_factory.mktemp("fuzz"))
    start = next(starting)
    service = start(kafka.bootstrap_servers, topic_admin=True, console=True, callback_hosts="127.0.0.1")
    make_topic(service)
    yield service
    service.delete(f"/messages/{TOPIC}")
    next(starting, None)


def make_topic(service: Service) -> None:
    assert service.post("/messages", json={"topic": TOPIC, "partitions": 2}).status_code in {201, 409}
    for body in (b'{"n": 1}', b"\xff", b"text"):
        assert service.put(f"/messages/{TOPIC}?key=a", body).ok


def described() -> dict[str, Any]:
    """The description, with names that the server has. Its other names remain: random ones are a 404 mostly."""
    changed = copy.deepcopy(dict(document()))
    parameters = changed["components"]["parameters"]
    parameters["topic"]["schema"] = {"enum": [TOPIC, TOPIC, "no-such-topic"]}
    parameters["instance"]["schema"] = {"enum": ["a", "b"]}
    parameters["group"]["schema"] = {"enum": [TOPIC, "no-such-group"]}
    for item in changed["paths"].values():
        for method in item.keys() - {"parameters"}:
            content = item[method].get("requestBody", {}).get("content", {})
            content.pop("multipart/mixed", None)  # schemathesis cannot write it
    return changed


class Fuzzed:
    """One call of the API, to which the test sends random requests."""

    def __init__(self, service: Service, operation: Operation) -> None:
        self._service = service
        self._operation = operation
        self._accepts = (ACCEPTS[each % len(ACCEPTS)] for each in count())
        schema = schemathesis.openapi.from_dict(described())
        schema.config.update(base_url=service.url)
        self.target = schema[operation.path][operation.method.upper()]

    def send(self, case: Any) -> None:
        self._tame(case)
        self._make_instance()
        response = case.call(timeout=60)
        case.validate_response(response, checks=CHECKS)
        assert response.status_code < 500, response.text
        path, headers = self._operation.path, [(name, values[0]) for name, values in response.headers.items()]
        problems = response_problems(case.method, path, response.status_code, headers, response.content)
        assert problems == [], case.as_curl_command()
        if response.status_code == 201:
            self._service.delete(f"/messages/{json.loads(response.content)['topic']}")
        if self._operation.fields["operationId"] == "deleteTopic":
            make_topic(self._service)

    def _tame(self, case: Any) -> None:
        """Keep a request from waiting for long, and Kafka from making many partitions."""
        query, headers = dict(case.query or {}), dict(case.headers or {})
        query |= {name: value for name, value in SHORT.items() if name in query and "/instances/" in case.path}
        query |= {"wait": "0.01"} if "wait" in query else {}
        accept = next(self._accepts)
        if self._operation.fields["operationId"] in {"read", "publish"} and accept:
            headers["Accept"] = accept
            query |= {"until": "end"} if self._operation.fields["operationId"] == "read" else {}
        if isinstance(case.body, dict) and isinstance(case.body.get("partitions"), int):
            case.body["partitions"] = min(case.body["partitions"], 3)
        case.query, case.headers = query, headers

    def _make_instance(self) -> None:
        if "/instances/" in self._operation.path:
            for name in "ab":
                body = {"name": name, "format": "json", "consumer.request.timeout.ms": 10}
                self._service.post(f"/consumers/{TOPIC}", json=body)


@pytest.mark.parametrize("mode", MODES, ids=lambda each: each.value)
@pytest.mark.parametrize("operation", operations(), ids=lambda each: each.name)
def test_random_requests_get_responses_as_described(service: Service, operation: Operation, mode: Any) -> None:
    fuzzed = Fuzzed(service, operation)
    send: Callable[[], None] = bounded(given(fuzzed.target.as_strategy(generation_mode=mode))(fuzzed.send))
    send()


def test_there_are_at_least_5000_cases() -> None:
    assert len(operations()) * len(MODES) * CASES >= 5000
