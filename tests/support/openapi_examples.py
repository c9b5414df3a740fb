"""Runs the examples of the description against a server: each body, each type of response, each parameter."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

from tests.support.openapi_document import Operation, resolved, response_problems

V2 = {"Content-Type": "application/vnd.kafka.v2+json"}
_STREAMS = ("text/event-stream", "application/x-ndjson")
_BOUNDARY = "kafka-http-example"
_NAMES = ("greetings", "orders", "billing", "mine", "8e03978e-40d5-43dd-bc93-6894a57f9324")
"""Names in the examples that a run replaces by names of its own."""
_NEEDED = {"showCommittedOffsets": {"topic": "greetings", "partition": "0"}, "extendLocks": {"lock": "60"}}
"""Parameters without which a call has no success. A body can replace those that are not required."""
_NEEDS_REGISTRY = re.compile(r"\.(avro|protobuf|jsonschema)\.")
LEASE = "0:0:0.k3fa9d1c"
TASK = "06616c85d8ef7e6525000d232edd9f3e66"


class Sent(NamedTuple):
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Send = Callable[[str, str, Mapping[str, Any], Mapping[str, str], bytes | None], Sent]
"""Sends a request: method, path, query, headers, body."""


class ExampleCall(NamedTuple):
    """A call with the examples of some of its parts. Its path has examples in any case."""

    accept: str | None = None
    content_type: str | None = None
    body: bytes | None = None
    query: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}


def media_examples(content: Mapping[str, Any]) -> list[Any]:
    """Return the examples of a body or a response of one type."""
    named = [each["value"] for each in content.get("examples", {}).values()]
    return named + ([content["example"]] if "example" in content else [])


class ExampleRun:
    """Sends the examples of one operation, with names of its own."""

    def __init__(self, send: Send, operation: Operation) -> None:
        self._send = send
        self._operation = operation
        self._names = {each: f"{each[:8]}-{uuid4().hex[:8]}" for each in _NAMES}

    def run(self, may_fail: tuple[int, ...] = ()) -> list[str]:
        """Send all examples and return the problems. `may_fail`: statuses that are right, too."""
        problems = []
        bodies = list(self._bodies())
        for each in bodies:
            problems += self._problems([each], may_fail)
        for choices in zip(*map(self._accepts, bodies), strict=True):
            problems += self._problems(list(choices), may_fail)
        for parameter in self._operation.parameters:
            if "example" in parameter and parameter["in"] != "path":
                choices = [each for body in bodies for each in (body, *self._accepts(body))]
                problems += self._problems([_with_parameter(each, parameter) for each in choices], may_fail)
        return problems

    def _bodies(self) -> Iterator[ExampleCall]:
        body = self._operation.fields.get("requestBody", {})
        for media_type, content in body.get("content", {}).items():
            for value in media_examples(content):
                full_type, data = _encoded(media_type, value)
                yield ExampleCall(content_type=full_type, body=data)
        if not body.get("required"):
            needed = _NEEDED.get(self._operation.fields["operationId"], {})
            yield ExampleCall(query=needed)

    def _accepts(self, body: ExampleCall) -> Iterator[ExampleCall]:
        """Yield the call with each type of its response in the Accept header."""
        if self._operation.fields["operationId"] == "readRecords":  # the instance decides about the type
            return
        responses = self._operation.fields["responses"]
        for media_type in resolved(responses["200"]).get("content", {}) if "200" in responses else ():
            if _NEEDS_REGISTRY.search(media_type):
                continue
            ends = {"until": "end"} if media_type in _STREAMS and "until" in self._operation.names("query") else {}
            yield body._replace(accept=media_type, query={**body.query, **ends})

    def _problems(self, choices: list[ExampleCall], may_fail: tuple[int, ...]) -> list[str]:
        """Send calls until one has success. Return the problems."""
        failures = []
        for each in choices:
            sent = self._call(each)
            path = self._path().partition("?")[0]
            found = response_problems(
                self._operation.method.upper(), path, sent.status, sent.headers.items(), sent.body
            )
            if found or sent.status < 300 or sent.status in may_fail:
                return found
            failures.append(f"{self._operation.name} {each}: {sent.status} {sent.body[:300]!r}")
        return failures

    def _call(self, call: ExampleCall) -> Sent:
        self._names["orders"] = f"orders-{uuid4().hex[:8]}"
        self.prepare()
        headers = {name: self._renamed(value) for name, value in call.headers.items()}
        headers |= {"Accept": call.accept} if call.accept else {}
        headers |= {"Content-Type": call.content_type} if call.content_type else {}
        body = None if call.body is None else self._renamed(call.body.decode("latin-1")).encode("latin-1")
        query = {name: self._renamed(value) for name, value in call.query.items()}
        return self._send(self._operation.method.upper(), self._path(), query, headers, body)

    def _path(self) -> str:
        path = self._operation.path
        for parameter in self._operation.parameters:
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
        return self._renamed(path)

    def _renamed(self, text: Any) -> Any:
        if not isinstance(text, str):
            return text
        for name, own in self._names.items():
            text = text.replace(name, own)
        return text

    # What the examples need

    def prepare(self) -> None:
        operation, id_ = self._operation, self._operation.fields["operationId"]
        if "{" in operation.path or "topic" in operation.names("query"):
            self._make_topic()
        if "/queue" in operation.path:
            self._make_queue()
        if operation.path.startswith("/tasks"):
            self._make_task()
        if operation.path.startswith("/consumers"):
            self._ask("DELETE", "/consumers/mine/instances/one")
            self._ask("DELETE", "/consumers/mine/instances/two")
            self._ask("PUT", "/messages/greetings/mine/0:0")
        if "/instances/" in operation.path:
            settings = {"name": "one", "format": "json", "auto.offset.reset": "earliest"}
            self._ask("POST", "/consumers/mine", settings)
            if id_ in {"showSubscription", "unsubscribe"}:
                self._ask("POST", "/consumers/mine/instances/one/subscription", {"topics": ["greetings"]})
            elif id_ not in {"subscribe", "assign"}:
                partitions = [{"topic": "greetings", "partition": 0}]
                self._ask("POST", "/consumers/mine/instances/one/assignments", {"partitions": partitions})

    def _make_queue(self) -> None:
        """Make the queue, and acquire a message whose lease replaces the one of the example."""
        self._ask("POST", "/messages/greetings", {"records": [{"value": 1}]})
        if self._operation.fields["operationId"] == "acquire":
            self._ask("POST", "/messages", {"topic": "orders"})  # for dead letters
            return
        sent = self._send("POST", self._renamed("/messages/greetings/billing/queue"), {"wait": 20}, {}, None)
        assert sent.status == 200, sent.body
        lease = json.loads(sent.body)["records"][0]["lease"]
        if "{leases}" in self._operation.path:
            self._names[LEASE] = lease
        else:
            self._ask("DELETE", f"/messages/greetings/billing/queue/{lease}")

    def _make_topic(self) -> None:
        if self._ask("GET", "/messages/greetings").status == 404:
            assert self._ask("POST", "/messages", {"topic": "greetings", "partitions": 1}).status == 201
            records = [{"key": "ada", "value": {"hello": "world"}}] * 3
            assert self._ask("POST", "/messages/greetings", {"records": records}).status == 200

    def _make_task(self) -> None:
        sent = self._send("POST", self._renamed("/messages/greetings"), {}, {"Prefer": "respond-async"}, b"later")
        assert sent.status == 202, sent.body
        self._names[TASK] = json.loads(sent.body)["task"]["id"]

    def _ask(self, method: str, path: str, body: Any = None) -> Sent:
        headers = V2 if path.startswith("/consumers") else {"Content-Type": "application/json"}
        data = None if body is None else self._renamed(json.dumps(body)).encode()
        return self._send(method, self._renamed(path), {}, headers, data)


def _with_parameter(call: ExampleCall, parameter: Mapping[str, Any]) -> ExampleCall:
    name, value = parameter["name"], parameter["example"]
    if parameter["in"] == "query":
        return call._replace(query={**call.query, name: value})
    return call._replace(headers={**call.headers, name: str(value)})


def _encoded(media_type: str, value: Any) -> tuple[str, bytes]:
    """Return the Content-Type and the body of an example."""
    if media_type == "multipart/form-data":
        parts = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
            for name, text in value.items()
        )
        return f"{media_type}; boundary={_BOUNDARY}", f"{''.join(parts)}--{_BOUNDARY}--\r\n".encode()
    if media_type.endswith("json") and media_type != "application/x-ndjson":
        return media_type, json.dumps(value).encode()
    return media_type, str(value).encode()
