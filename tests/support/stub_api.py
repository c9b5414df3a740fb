"""A server that gives the answers of a list, one to each request, and keeps the requests."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """A response. Its body ends with the connection; if it `breaks`, before the end of a chunk."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}
    breaks: bool = False

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> "Answer":
        return cls(status, json.dumps(value).encode(), {k.replace("_", "-"): v for k, v in headers.items()})

    @classmethod
    def error(cls, code: int, message: str = "It failed.", fields: Mapping[str, Any] = {}, **headers: str) -> "Answer":
        status = code if code < 1000 else code // 100
        return cls.json({"error": {"code": code, "message": message, **fields}}, status, **headers)


NO_ANSWER = Answer(status=0)
"""Close the connection instead."""


class Request(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class StubApi:
    """`url` is where it listens."""

    def __init__(self, url: str, answers: list[Answer]) -> None:
        self.url = url
        self.answers = answers
        self.requests: list[Request] = []


class _Handler(BaseHTTPRequestHandler):
    api: StubApi

    def respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.api.requests.append(Request(self.command, self.path, dict(self.headers), body))
        answer = self.api.answers.pop(0)
        if not answer.status:
            return
        self.protocol_version = "HTTP/1.1"
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        if answer.breaks:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(answer.body), answer.body) if answer.breaks else answer.body)

    do_GET = do_POST = do_DELETE = respond  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def stub_api(*answers: Answer) -> Iterator[StubApi]:
    """Run the server on this machine."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        api = handler.api = StubApi(f"http://127.0.0.1:{server.server_port}", list(answers))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
