"""The description of the API: its page in a real Chromium, its examples before a real Kafka."""

from collections.abc import Mapping
from typing import Any

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.console_browser import chromium
from tests.support.openapi_document import operations
from tests.support.openapi_examples import ExampleRun, Send, Sent
from tests.support.server_process import Service

MAY_FAIL = {"cancelTask": (409,)}
"""Statuses that are right, too: Kafka has done the task before it can be cancelled."""


def test_viewer_shows_all_calls_and_sends_one(service: Service) -> None:
    """Its content security policy allows files of this server only."""
    errors: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda sent: errors.append(sent.url) if not sent.url.startswith(service.url) else None)
        page.goto(f"{service.url}/docs/api")
        call = page.locator("#operations-Server-health")
        call.wait_for()
        assert page.locator(".opblock").count() == len(operations())
        call.locator(".opblock-summary-control").click()
        call.get_by_text("Try it out").click()
        call.get_by_text("Execute").click()
        call.locator(".live-responses-table").get_by_text('"ok"').wait_for()
    assert [each for each in errors if not each.startswith("data:")] == []


def test_viewer_sends_no_optional_parameters_by_default(service: Service, topic: TopicFactory) -> None:
    """Swagger UI fills in examples. Those of optional parameters exclude each other."""
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{service.url}/docs/api")
        call = page.locator("#operations-Publish-publish")
        call.locator(".opblock-summary-control").click()
        call.get_by_text("Try it out").click()
        call.get_by_placeholder("topic", exact=True).fill(topic())
        with page.expect_request(lambda sent: sent.method == "POST") as sent:
            call.get_by_text("Execute").click()
        response = sent.value.response()
        assert response is not None
        assert response.status == 200
        assert "?" not in sent.value.url


def sender(service: Service) -> Send:
    def send(method: str, path: str, query: Mapping[str, Any], headers: Mapping[str, str], body: bytes | None) -> Sent:
        response = service.request(method, path, params=query, headers=headers, data=body)
        return Sent(response.status_code, response.headers, response.content)

    return send


@pytest.mark.slow
@pytest.mark.parametrize("first", "/cmtq")
def test_examples_work_before_a_real_kafka(kafka: EmbeddedKafka, start_service: ServiceFactory, first: str) -> None:
    """`first`: a part of the calls, by the first letter of their paths, so that no test takes long. q: queues."""
    service = start_service(kafka.bootstrap_servers, topic_admin=True, console=True, callback_allow="127.0.0.1")
    for operation in operations():
        letter = operation.path[1:2] if operation.path[1:2] in "cmt" else "/"
        letter = "q" if "/queue" in operation.path else letter
        if (letter or "/") == first:
            run = ExampleRun(sender(service), operation)
            assert run.run(MAY_FAIL.get(operation.fields["operationId"], ())) == []
