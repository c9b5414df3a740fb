"""The fast path: publishes that are started one by one and sent together."""

from threading import Event

import pytest

from kafka_http.web.fast_path_publish import FastPathPublishes
from tests.api.conftest import ClientFactory

HEADERS = {"prefer": "respond-async"}


@pytest.fixture
def publishes(make_client: ClientFactory) -> FastPathPublishes:
    client = make_client()
    assert client.post("/messages/t", data=b"the topic is known from now on", headers=HEADERS).status_code == 202
    found = client.application.extensions["kafka_http"].publishes
    assert isinstance(found, FastPathPublishes)
    return found


@pytest.mark.parametrize(("headers", "status"), [({}, "200 OK"), (HEADERS, "202 Accepted")])
def test_started_publish_completes_after_send(
    publishes: FastPathPublishes, headers: dict[str, str], status: str
) -> None:
    done = [Event(), Event()]
    started = [publishes.begin("POST", "/messages/t", headers, b"hello", each.set) for each in done]
    assert None not in started
    publishes.send()
    assert all(each.wait(5) for each in done)
    assert [each.answer()[0] for each in started if each is not None] == [status] * 2
