"""A receiver of callbacks whose behavior depends on the path of the URL."""

import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Received(NamedTuple):
    path: str
    headers: Mapping[str, str]
    body: bytes


class Receiver:
    """Listens as soon as it is created, and answers inside its `with` block.

    `/status/503` answers with this status, `/redirect?http://…` redirects. `/hold` does not answer until `released` is
    set; `/drip` sends single bytes of a header, `/drip-body` a complete header and then single bytes. `/close` closes
    the connection, `/noise` sends something other than HTTP, `/flood` sends headers without end,
    `/chunks/N` sends N chunks of 1,000 bytes and not the last chunk. `/unread` does not read the body, `/sip` reads it
    slowly. All other paths return a 204.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.released = threading.Event()
        self._scheme = "https" if tls else "http"
        handler = type("Handler", (_Handler,), {"receiver": self})
        self._server = (_ServerOfIPv6 if ":" in host else _Server)((host, port), handler)
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.host, self.port = host, self._server.server_port
        self._name = f"[{host}]" if ":" in host else host
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening. May be called more than once."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, path: str = "/", host: str = "") -> str:
        return f"{self._scheme}://{host or self._name}:{self.port}{path}"

    @property
    def tasks(self) -> list[str]:
        return [each.headers["Kafka-Http-Task"] for each in self.received]


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # `close` waits for them
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Log nothing: the tests let clients disconnect and reject certificates."""


class _ServerOfIPv6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        if self.path in ("/unread", "/sip"):
            self.sip(0 if self.path == "/unread" else 1 << 16)
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.receiver.received.append(Received(self.path, dict(self.headers), body))
        kind, _, rest = self.path[1:].partition("/")
        kind = kind.partition("?")[0]
        _ANSWERS.get(kind, _answered)(self, rest)

    def log_message(self, *_: object) -> None:
        pass

    def sip(self, count: int) -> None:
        while not self.receiver.released.wait(0.1):
            self.rfile.read1(count)

    def drip(self, text: bytes) -> None:
        for number in range(10**9):
            self.wfile.write(text[number % len(text) :][:1])
            if self.receiver.released.wait(0.01):
                return


def _answered(handler: _Handler, _rest: str) -> None:
    handler.send_response(204)
    handler.end_headers()


def _status(handler: _Handler, rest: str) -> None:
    handler.send_response(int(rest))
    handler.send_header("Content-Length", "5")
    handler.end_headers()
    handler.wfile.write(b"hello")


def _redirect(handler: _Handler, _rest: str) -> None:
    handler.send_response(307)
    handler.send_header("Location", handler.path.partition("?")[2])
    handler.end_headers()


def _hold(handler: _Handler, rest: str) -> None:
    handler.receiver.released.wait()
    _answered(handler, rest)


def _drip(handler: _Handler, _rest: str) -> None:
    handler.drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 60_000)


def _chunks(handler: _Handler, rest: str) -> None:
    """`/chunks/N`: N chunks of 1,000 bytes, and no last chunk."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(int(rest)):
        handler.wfile.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
    handler.close_connection = True


def _drip_body(handler: _Handler, _rest: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    handler.drip(b"x")


def _close(handler: _Handler, _rest: str) -> None:
    handler.close_connection = True


def _noise(handler: _Handler, _rest: str) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")


def _flood(handler: _Handler, _rest: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.receiver.released.is_set():
        handler.wfile.write(b"X-Header: " + b"x" * 1000 + b"\r\n")


_ANSWERS: dict[str, Callable[[Any, str], None]] = {
    "status": _status,
    "redirect": _redirect,
    "hold": _hold,
    "drip": _drip,
    "chunks": _chunks,
    "drip-body": _drip_body,
    "close": _close,
    "noise": _noise,
    "flood": _flood,
}
