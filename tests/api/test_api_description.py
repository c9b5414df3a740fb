"""GET /openapi.json and GET /docs/api; and the description against the application: parameters and examples."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.web import api_description
from kafka_http.web.messages.message_publish import SERIALIZER_PARAMETERS
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.openapi_document import Operation, document, operations
from tests.support.openapi_examples import ExampleRun, Send, Sent

NDJSON = "application/x-ndjson"


def test_openapi_json_is_the_document_with_the_url_of_the_request(client: FlaskClient) -> None:
    response = client.get("/openapi.json")
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert response.json == {**document(), "servers": [{"url": "http://localhost"}]}


def test_openapi_json_has_base_url_as_its_server(make_client: ClientFactory) -> None:
    client = make_client(base_url="https://kafka.example.org/rest/")
    assert client.get("/openapi.json").json["servers"] == [{"url": "https://kafka.example.org/rest"}]


def test_openapi_json_with_its_etag_returns_304(client: FlaskClient) -> None:
    first = client.get("/openapi.json")
    again = client.get("/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["Cache-Control"] == "no-cache"
    assert client.get("/openapi.json", headers={"If-None-Match": '"other"'}).status_code == 200
    other_host = client.get("/openapi.json", headers={"Host": "127.0.0.1:1", "If-None-Match": first.headers["ETag"]})
    assert other_host.status_code == 200


def test_viewer_loads_files_of_this_server_only(make_client: ClientFactory) -> None:
    client = make_client(base_url="https://kafka.example.org/rest")
    page = client.get("/docs/api")
    assert page.content_type == "text/html; charset=utf-8"
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert 'data-url="/rest/openapi.json"' in page.text
    links = re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page.text)
    assert len(links) == 3
    for link in links:
        file = client.get(link.removeprefix("/rest"))
        assert (file.status_code, bool(file.data)) == (200, True), link
    assert client.get(links[0].removeprefix("/rest")).content_type == "text/css; charset=utf-8"


@pytest.mark.parametrize("name", ["index.html", "../viewer.js", "x/viewer.js", "LICENSE"])
def test_other_file_of_the_viewer_returns_404(client: FlaskClient, name: str) -> None:
    assert client.get(f"/docs/api/{name}").status_code == 404


def test_viewer_without_its_package_says_how_to_install_it(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_description, "_VIEWER", "no_such_package")
    api_description.viewer_files.cache_clear()
    try:
        page = client.get("/docs/api")
        assert page.status_code == 200
        assert "pip install &#x27;.[docs]&#x27;" in page.text
        assert 'href="/openapi.json"' in page.text
        assert client.get("/docs/api/swagger-ui.css").status_code == 404
        assert client.get("/docs/manual.css").status_code == 200
    finally:
        api_description.viewer_files.cache_clear()


# the description against the application


def sender(client: FlaskClient) -> Send:
    def send(method: str, path: str, query: Mapping[str, Any], headers: Mapping[str, str], body: bytes | None) -> Sent:
        response = client.open(path, method=method, query_string=query, headers=headers, data=body)
        return Sent(response.status_code, dict(response.headers), response.data)

    return send


@pytest.mark.parametrize("operation", operations(), ids=lambda each: each.name)
def test_examples_are_accepted_and_answered_as_described(
    make_client: ClientFactory, broker: FakeBroker, operation: Operation
) -> None:
    client = make_client(topic_admin=True, console=True, callback_allow=["127.0.0.1"])
    run = ExampleRun(sender(client), operation)
    if operation.fields["operationId"] == "cancelTask":  # only pending tasks can be cancelled
        run.prepare()
        broker.down = True
    assert run.run() == []


IGNORES_PARAMETERS = re.compile(r"/(topics|brokers|consumers/.*/instances|docs|console|health|ready|openapi|$)")
"""Calls of the REST Proxy v2 API and pages, which ignore unknown parameters."""
REJECTED_BY_PUT = {*SERIALIZER_PARAMETERS, "lines", "partitions"}
"""A PUT knows them, but its body has no format."""


@pytest.mark.parametrize("operation", operations(), ids=lambda each: each.name)
def test_query_parameters_are_those_that_the_call_knows(make_client: ClientFactory, operation: Operation) -> None:
    """A call names its parameters when it gets an unknown one. Its types of responses may have different ones."""
    client = make_client(topic_admin=True)
    known: set[str] = set()
    for accept, content_type in (("*/*", "text/plain"), ("text/event-stream", ""), (NDJSON, NDJSON)):
        headers = {"Accept": accept, "Content-Type": content_type}
        path = operation.path.replace("{offset}", "0").replace("{topic}", "t").replace("{", "").replace("}", "")
        response = client.open(path, method=operation.method, query_string={"no_such": 1}, headers=headers, data=b"{}")
        found = re.search(r"Known parameters: ([^.]*)\.", response.text) if response.status_code == 400 else None
        known |= set(found[1].split(", ")) - {"none"} if found else set()
        ignores = IGNORES_PARAMETERS.match(operation.path) or operation.fields["operationId"] == "createInstance"
        assert (found is None) == bool(ignores) or response.status_code == 406, response.text
    if not ignores:
        rejected = REJECTED_BY_PUT if operation.fields["operationId"] == "publishBytes" else set()
        assert operation.names("query") == known - rejected
