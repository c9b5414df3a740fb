"""The server that a bench measures: its address, and the few requests that are not part of the load."""

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from kafka_http.bench.bench_result import BenchError

V2 = "application/vnd.kafka.v2+json"
V2_JSON = "application/vnd.kafka.json.v2+json"

_TIMEOUT_SECONDS = 60.0
_WRONG_API = "The server's response is not of this API. Check --url and --dialect."


class TargetServer:
    """A server at an http URL. Each call opens its own connection. Every call raises `BenchError`."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        """`headers` are sent with each request: credentials, for example."""
        parts = urlsplit(url)
        self.headers = headers or {}
        self.url = url
        self.host = parts.hostname or ""
        self.port = parts.port or 80
        self._path = parts.path.rstrip("/")
        self._netloc = parts.netloc.rpartition("@")[2]

    def request_bytes(self, method: str, path: str, headers: str = "", body: bytes | None = None) -> bytes:
        """Build a whole request. `headers` are lines that end with CRLF."""
        length = f"Content-Length: {len(body)}\r\n" if body is not None else ""
        own = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        head = f"{method} {self._path}{path} HTTP/1.1\r\nHost: {self._netloc}\r\n{own}{headers}{length}\r\n"
        return head.encode("ascii") + (body or b"")

    def status_of(self, path: str) -> int:
        """The status of a GET."""
        return self._send("GET", path, None, {})[0]

    def call(self, method: str, path: str, body: Any = None, *, content_type: str = V2, accept: str = "*/*") -> Any:
        """Send JSON: a value, or bytes as they are. Return the JSON of a 2xx response, None if it is empty."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        status, response = self._send(method, path, data, {"Content-Type": content_type, "Accept": accept})
        if not 200 <= status < 300:
            text = response[:300].decode(errors="replace").strip()
            raise BenchError(f"{method} {path} failed with status {status}: {text}")
        try:
            return json.loads(response or b"null")
        except ValueError:
            raise BenchError(_WRONG_API) from None

    def publish(self, topic: str, body: bytes, partition: int | None = None) -> None:
        """Publish JSON: a value, or records in an envelope."""
        query = "" if partition is None else f"?partition={partition}"
        self.call("POST", f"/messages/{topic}{query}", body, content_type="application/json")

    def message_counts(self, topic: str) -> list[int]:
        """The number of messages in each partition of a topic."""
        try:
            partitions = self.call("GET", f"/messages/{topic}")["partitions"]
            return [int(each["latest"]) - int(each["earliest"]) for each in partitions]
        except (KeyError, TypeError, ValueError):
            raise BenchError(_WRONG_API) from None

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request(method, self._path + path, body, {**self.headers, **headers})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise BenchError(f"{self.url} does not answer ({why}). Start the server, or use another --url.") from None
        finally:
            connection.close()
