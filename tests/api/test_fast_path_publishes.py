"""The interface of the fast path: publishes are started, then sent together."""

from threading import Event

import pytest

from kafka_http.web.fast_path_publish import FastPathPublishes
from tests.api.conftest import ClientFactory

HEADERS = {"prefer": "respond-async"}


@pytest.fixture
def fast_path(make_client: ClientFactory) -> FastPathPublishes:
    client = make_client()
    assert client.post("/messages/t", data=b"makes the topic known", headers=HEADERS).status_code == 202
    found = client.application.extensions["kafka_http"].fast_path
    assert isinstance(found, FastPathPublishes)
    return found


@pytest.mark.parametrize(("headers", "status"), [({}, "200 OK"), (HEADERS, "202 Accepted")])
def test_fast_path_publishes_complete_after_send(
    fast_path: FastPathPublishes, headers: dict[str, str], status: str
) -> None:
    done = [Event(), Event()]
    begun = [fast_path.begin("POST", "/messages/t", headers, b"hello", each.set) for each in done]
    assert None not in begun
    fast_path.send()
    assert all(each.wait(5) for each in done)
    assert [each.finish()[0] for each in begun if each is not None] == [status] * 2
