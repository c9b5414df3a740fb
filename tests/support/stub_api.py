"""A server that gives the answers of a list, one to each request, and keeps the requests."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
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
    """`url` is where it listens. `answer` gives the answers that are not in the list; threads of requests call it."""

    def __init__(self, url: str, answers: list[Answer], answer: Callable[[Request], Answer] | None) -> None:
        self.url = url
        self.answers = answers
        self.answer = answer
        self.requests: list[Request] = []

    def answer_to(self, request: Request) -> Answer:
        """Keep the request and return its answer."""
        self.requests.append(request)
        return self.answer(request) if self.answer and not self.answers else self.answers.pop(0)


class _Handler(BaseHTTPRequestHandler):
    api: StubApi

    def respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.api.answer_to(Request(self.command, self.path, dict(self.headers), body))
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

    do_GET = do_POST = do_PUT = do_DELETE = respond  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def stub_api(*answers: Answer, answer: Callable[[Request], Answer] | None = None) -> Iterator[StubApi]:
    """Run the server on this machine."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        api = handler.api = StubApi(f"http://127.0.0.1:{server.server_port}", list(answers), answer)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
