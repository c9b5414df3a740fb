"""The server that a bench measures: its address, and the few requests that are not part of the load."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from kafka_http.bench.bench_result import BenchError

V2 = "application/vnd.kafka.v2+json"
V2_JSON = "application/vnd.kafka.json.v2+json"

_TIMEOUT_SECONDS = 60.0


class ServerAddress:
    """The parts of an http URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or 80
        self.path = parts.path.rstrip("/")
        self.netloc = parts.netloc.rpartition("@")[2]

    def request(self, method: str, path: str, headers: str = "", body: bytes | None = None) -> bytes:
        """Build a whole request. `headers` are lines that end with CRLF."""
        length = f"Content-Length: {len(body)}\r\n" if body is not None else ""
        head = f"{method} {self.path}{path} HTTP/1.1\r\nHost: {self.netloc}\r\n{headers}{length}\r\n"
        return head.encode("ascii") + (body or b"")


class TargetServer:
    """A server at a URL. Each call opens its own connection. Every method raises `BenchError`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.address = ServerAddress(url)

    def call(self, method: str, path: str, body: Any = None, *, accept: str = "*/*") -> Any:
        """Send a request with a JSON body. Return the JSON of a 2xx response, None if it is empty."""
        data = None if body is None else json.dumps(body).encode()
        response = self._successful(method, path, data, {"Content-Type": V2, "Accept": accept})
        try:
            return json.loads(response or b"null")
        except ValueError:
            raise _wrong_api() from None

    def publish(self, topic: str, dialect: str, body: bytes, partition: int | None = None) -> None:
        """Publish records in a JSON envelope."""
        if dialect == "v2":
            path, content_type = f"/topics/{topic}{'' if partition is None else f'/partitions/{partition}'}", V2_JSON
        else:
            path, content_type = f"/messages/{topic}", "application/json"
            path += "" if partition is None else f"?partition={partition}"
        self._successful("POST", path, body, {"Content-Type": content_type})

    def status_of(self, path: str) -> int:
        """The status of a GET."""
        return self._request("GET", path, None, {})[0]

    def partitions(self, topic: str, dialect: str) -> list[int]:
        """The numbers of a topic's partitions."""
        with _expecting_api():
            listed = self._topic(topic) if dialect == "messages" else self.call("GET", f"/topics/{topic}/partitions")
            return [int(each["partition"]) for each in listed]

    def message_count(self, topic: str, dialect: str) -> int:
        """The number of messages in a topic."""
        with _expecting_api():
            if dialect == "messages":
                return sum(int(each["latest"]) - int(each["earliest"]) for each in self._topic(topic))
            paths = [f"/topics/{topic}/partitions/{number}/offsets" for number in self.partitions(topic, dialect)]
            offsets = [self.call("GET", path) for path in paths]
            return sum(int(each["end_offset"]) - int(each["beginning_offset"]) for each in offsets)

    def has_pending_tasks(self, topic: str) -> bool:
        """Whether the server has accepted messages of the topic that it has not published yet."""
        with _expecting_api():
            return bool(self.call("GET", f"/tasks?status=pending&topic={topic}&limit=1")["tasks"])

    def create_consumer(self, group: str, settings: dict[str, str]) -> str:
        """Create a v2 consumer instance. Return its path."""
        with _expecting_api():
            return f"/consumers/{group}/instances/{self.call('POST', f'/consumers/{group}', settings)['instance_id']}"

    def _topic(self, name: str) -> Any:
        return self.call("GET", f"/messages/{name}")["partitions"]

    def _successful(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        status, response = self._request(method, path, body, headers)
        if not 200 <= status < 300:
            text = response[:300].decode(errors="replace").strip()
            raise BenchError(f"{method} {path} failed with status {status}: {text}")
        return response

    def _request(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request(method, self.address.path + path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise BenchError(f"{self.url} does not answer ({why}). Start the server, or use another --url.") from None
        finally:
            connection.close()


def _wrong_api() -> BenchError:
    return BenchError("The server's response is not of this API. Check --url and --dialect.")


@contextmanager
def _expecting_api() -> Iterator[None]:
    """Raise `BenchError` if a response does not have the expected fields."""
    try:
        yield
    except (KeyError, TypeError, ValueError):
        raise _wrong_api() from None
