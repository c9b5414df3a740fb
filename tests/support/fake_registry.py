"""A schema registry in memory: the part of Confluent's API that the client uses, with switches for failures."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

_MISSING = {"subject": (404, 40401), "version": (404, 40402), "schema": (404, 40403)}


class FakeRegistry:
    """`requests` are the requests so far, each "METHOD path"; `headers` are those of the last one.

    `answer` is sent instead of the real response, as (status, body, headers). Responses wait until `hold` is set.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[str] = []
        self.headers: Mapping[str, str] = {}
        self.answer: tuple[int, bytes, Mapping[str, str]] | None = None
        self.hold = threading.Event()
        self.hold.set()
        self._schemas: list[dict[str, Any]] = []
        self._subjects: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def add(self, subject: str, schema: object, type_: str = "AVRO", references: object = ()) -> int:
        """Register a schema (a text, or a value to send as JSON) and return its id."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        entry = {"schema": text, "schemaType": type_, "references": list(references)}  # type: ignore[call-overload]
        with self._lock:
            if entry not in self._schemas:
                self._schemas.append(entry)
            schema_id = self._schemas.index(entry) + 1
            versions = self._subjects.setdefault(subject, [])
            if schema_id not in versions:
                versions.append(schema_id)
        return schema_id

    def respond(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.requests.append(f"{method} {path}")
        self.hold.wait(10)
        match [method, *(unquote(each) for each in path.strip("/").split("/"))]:
            case ["GET", "schemas", "ids", number]:
                return self._of_id(int(number))
            case ["GET", "subjects", subject, "versions", version]:
                return self._of_version(subject, version)
            case ["POST", "subjects", subject]:
                return self._look_up(subject, body)
            case ["POST", "subjects", subject, "versions"]:
                if "refuse" in body["schema"]:
                    return 422, {"error_code": 42201, "message": "Invalid schema, says the registry"}
                return 200, {"id": self.add(subject, body["schema"], body.get("schemaType", "AVRO"))}
        return 404, "no such path"

    def _of_id(self, number: int) -> tuple[int, Any]:
        if not 0 < number <= len(self._schemas):
            return _missing("schema")
        return 200, _shown(self._schemas[number - 1])

    def _of_version(self, subject: str, version: str) -> tuple[int, Any]:
        versions = self._subjects.get(subject)
        if versions is None:
            return _missing("subject")
        number = len(versions) if version == "latest" else int(version)
        if not 0 < number <= len(versions):
            return _missing("version")
        schema_id = versions[number - 1]
        return 200, {"subject": subject, "version": number, "id": schema_id, **_shown(self._schemas[schema_id - 1])}

    def _look_up(self, subject: str, body: Any) -> tuple[int, Any]:
        for version, schema_id in enumerate(self._subjects.get(subject, ()), 1):
            if self._schemas[schema_id - 1]["schema"] == body["schema"]:
                return self._of_version(subject, str(version))
        return _missing("schema" if subject in self._subjects else "subject")


def _missing(what: str) -> tuple[int, Any]:
    status, code = _MISSING[what]
    return status, {"error_code": code, "message": f"{what} not found"}


def _shown(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a schema as Confluent's registry does: without the type of Avro and empty references."""
    return {key: value for key, value in schema.items() if value not in ("AVRO", [])}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    registry: FakeRegistry

    def do_GET(self) -> None:
        registry = self.registry
        registry.headers = dict(self.headers)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, answer = registry.respond(self.command, self.path, json.loads(body or "null"))
        if registry.answer is not None:
            return self._send(*registry.answer)
        return self._send(status, json.dumps(answer).encode(), {})

    do_POST = do_GET  # noqa: N815  http.server asks for this name

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *about: object) -> None: ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that close the connection early."""


@contextmanager
def running_registry(port: int = 0) -> Iterator[FakeRegistry]:
    handler = type("Handler", (_Handler,), {})
    server = _Server(("127.0.0.1", port), handler)
    handler.registry = registry = FakeRegistry(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield registry
    finally:
        registry.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
