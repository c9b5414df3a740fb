"""The few calls to a server that are not measured: is it there, what does a topic hold, v2's consumer instances."""

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import msgspec

from kafka_http.bench.conversations import (
    V2_JSON,
    Address,
    ConsumeConversation,
    Conversation,
    PublishConversation,
    ReadConversation,
)
from kafka_http.bench.errors import BenchError

_SECONDS = 60.0
_OWN = "application/vnd.kafka.v2+json"
_AT_A_TIME = 16


Answer = TypeVar("Answer")


class _Partition(msgspec.Struct):
    partition: int
    earliest: int
    latest: int


class _Topic(msgspec.Struct):
    partitions: list[_Partition]


class _V2Partition(msgspec.Struct):
    partition: int


class _Ends(msgspec.Struct):
    beginning_offset: int
    end_offset: int


class _Instance(msgspec.Struct):
    instance_id: str


class _Tasks(msgspec.Struct):
    tasks: list[Any]


class TargetServer:
    """What answers at a URL; each call takes a connection of its own. Raises `BenchError` where it does not answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.address = Address(url)

    def call(self, method: str, path: str, kind: type[Answer], body: Any = None, *, accept: str = "*/*") -> Answer:
        """The answer's JSON. Raises `BenchError` for any status but 2xx, and where it is of another kind."""
        data = None if body is None else msgspec.json.encode(body)
        said = self._successful(method, path, data, {"Content-Type": _OWN, "Accept": accept})
        try:
            return msgspec.json.decode(said or b"null", type=kind)
        except msgspec.MsgspecError:
            raise BenchError(f"{method} {path} was not answered as this API does: is the --dialect right?") from None

    def send(self, path: str, body: bytes, content_type: str) -> None:
        """POST as it is. Raises `BenchError` for any status but 2xx."""
        self._successful("POST", path, body, {"Content-Type": content_type})

    def status_of(self, path: str) -> int:
        return self._ask("GET", path, None, {})[0]

    def _successful(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        status, said = self._ask(method, path, body, headers)
        if not 200 <= status < 300:
            text = said[:300].decode(errors="replace").strip()
            raise BenchError(f"{method} {path} was answered with {status}: {text}")
        return said

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=_SECONDS)
        try:
            connection.request(method, self.address.path + path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise BenchError(f"{self.url} does not answer ({why}): start the server, or give another --url.") from None
        finally:
            connection.close()

    def messages_in(self, topic: str, dialect: str) -> int:
        if dialect == "messages":
            return sum(each.latest - each.earliest for each in self._topic(topic).partitions)
        paths = [f"/topics/{topic}/partitions/{number}/offsets" for number in self.partitions(topic, dialect)]
        ends = [self.call("GET", path, _Ends) for path in paths]
        return sum(each.end_offset - each.beginning_offset for each in ends)

    def partitions(self, topic: str, dialect: str) -> list[int]:
        if dialect == "messages":
            return [each.partition for each in self._topic(topic).partitions]
        return [each.partition for each in self.call("GET", f"/topics/{topic}/partitions", list[_V2Partition])]

    def pending(self, topic: str) -> bool:
        """Whether the server has messages of the topic that it has accepted and not yet published."""
        return bool(self.call("GET", f"/tasks?status=pending&topic={topic}&limit=1", _Tasks).tasks)

    def _topic(self, name: str) -> "_Topic":
        return self.call("GET", f"/messages/{name}", _Topic)


@dataclass(frozen=True)
class Work:
    """What each connection of a row does. `what` is `publish` or `read`, `dialect` `messages` or `v2`."""

    url: str
    topic: str
    what: str
    dialect: str
    records: int
    size: int
    later: bool = False

    @contextmanager
    def conversations(self, count: int) -> Iterator[list[Conversation]]:
        """One for each of so many connections. Raises `BenchError`."""
        server = TargetServer(self.url)
        if self.what == "publish":
            publishing = PublishConversation(
                server.address, self.topic, self.dialect, self.records, self.size, later=self.later
            )
            yield [publishing] * count
        elif self.dialect == "messages":
            held = server.messages_in(self.topic, self.dialect)
            yield [ReadConversation(server.address, self.topic, "bench", self.records, held) for _ in range(count)]
        else:
            with _instances(server, self.topic, self.records, count) as instances:
                yield list(instances)


@contextmanager
def _instances(server: TargetServer, topic: str, records: int, count: int) -> Iterator[list[ConsumeConversation]]:
    """v2 consumers, each in a group of its own, that have their partitions."""
    held = server.messages_in(topic, "v2")
    partitions = [{"topic": topic, "partition": number} for number in server.partitions(topic, "v2")]
    made: list[str] = []

    def make(_: int) -> ConsumeConversation:
        instance = _make(server, topic, records)
        made.append(instance)
        _wait_for_records(server, instance)
        server.call("POST", f"{instance}/positions/beginning", object, {"partitions": partitions})
        return ConsumeConversation(server.address, instance, msgspec.json.encode({"partitions": partitions}), held)

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        try:
            yield list(pool.map(make, range(count)))
        finally:
            list(pool.map(lambda instance: _remove(server, instance), made))


def _make(server: TargetServer, topic: str, records: int) -> str:
    """The path of a new instance that is subscribed."""
    group = f"/consumers/bench-{uuid4().hex[:12]}"
    settings = {
        "format": "json",
        "auto.offset.reset": "earliest",
        "auto.commit.enable": "false",
        "max.poll.records": str(records),
    }
    instance = f"{group}/instances/{server.call('POST', group, _Instance, settings).instance_id}"
    server.call("POST", f"{instance}/subscription", object, {"topics": [topic]})
    return instance


def _wait_for_records(server: TargetServer, instance: str) -> None:
    """The group gives it its partitions within the first reads."""
    for _ in range(30):
        if server.call("GET", f"{instance}/records?timeout=2000", list[object], accept=V2_JSON):
            return
    raise BenchError("A consumer instance has got no messages within a minute.")


def _remove(server: TargetServer, instance: str) -> None:
    with suppress(BenchError):
        server.call("DELETE", instance, object)
