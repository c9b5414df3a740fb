"""A client of the v2 API for consumer instances."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import requests

from tests.support.server_process import Server

JSON_TYPE = "application/vnd.kafka.json.v2+json"
PEOPLE = [{"name": "John", "email": "john@gmail.com"}, {"name": "Mary", "email": "mary@email.com"}]


class ConsumerInstance:
    """One consumer instance. `url()` returns the server's URL for each call. Each call uses a new connection."""

    def __init__(self, url: Callable[[], str], group: str, name: str | None = None) -> None:
        self._url = url
        self.group = group
        self.name = name or f"i-{uuid4().hex[:8]}"
        self.path = f"/consumers/{group}/instances/{self.name}"

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        return requests.request(
            method,
            self._url() + path,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": JSON_TYPE, "Accept": JSON_TYPE, "Connection": "close"},
            timeout=options.pop("timeout", 40),
            **options,
        )

    def create(self, **settings: Any) -> requests.Response:
        return self.call("POST", f"/consumers/{self.group}", {"name": self.name, "format": "json", **settings})

    def subscribe(self, *topics: str) -> requests.Response:
        return self.call("POST", f"{self.path}/subscription", {"topics": topics})

    def assign(self, topic: str, *partitions: int) -> requests.Response:
        asked = [{"topic": topic, "partition": each} for each in partitions]
        return self.call("POST", f"{self.path}/assignments", {"partitions": asked})

    def assignments(self) -> list[tuple[str, int]]:
        answer = self.call("GET", f"{self.path}/assignments")
        assert answer.status_code == 200, answer.text
        return [(each["topic"], each["partition"]) for each in answer.json()["partitions"]]

    def get(self, timeout_ms: int = 1000) -> requests.Response:
        return self.call("GET", f"{self.path}/records", params={"timeout": timeout_ms})

    def records(self, timeout_ms: int = 1000) -> list[dict[str, Any]]:
        answer = self.get(timeout_ms)
        assert answer.status_code == 200, answer.text
        page: list[dict[str, Any]] = answer.json()
        return page

    def values(self, timeout_ms: int = 1000) -> list[Any]:
        return [each["value"] for each in self.records(timeout_ms)]

    def commit(self) -> requests.Response:
        return self.call("POST", f"{self.path}/offsets")

    def delete(self) -> requests.Response:
        return self.call("DELETE", self.path)


def produce(url: str, topic: str, values: Sequence[Any], partition: int | None = None) -> None:
    """Publish values, to one partition if it is given."""
    records = [{"value": each} | ({} if partition is None else {"partition": partition}) for each in values]
    answer = requests.post(
        f"{url}/topics/{topic}", data=json.dumps({"records": records}), headers={"Content-Type": JSON_TYPE}, timeout=20
    )
    assert answer.status_code == 200, answer.text
    assert all(each["error"] is None for each in answer.json()["offsets"]), answer.text


@contextmanager
def instances(url: Callable[[], str], group: str, count: int, **settings: Any) -> Iterator[list[ConsumerInstance]]:
    """Create `count` instances of a group, and delete them afterwards."""
    made = [ConsumerInstance(url, group) for _ in range(count)]
    for each in made:
        assert each.create(**settings).status_code == 200
    try:
        yield made
    finally:
        for each in made:
            each.delete()


def transcript(service: Server, topic: str, group: str) -> list[dict[str, Any]]:
    """Make the calls of the REST Proxy's tutorial, each on a new connection, and return the records that were read."""
    headers = {"Content-Type": JSON_TYPE}
    answer = service.post(
        f"/topics/{topic}/partitions/0",
        json.dumps({"records": [{"value": each} for each in PEOPLE]}),
        headers=headers,
    )
    assert answer.status_code == 200, answer.text
    places = [(each["partition"], each["offset"]) for each in answer.json()["offsets"]]
    body = json.dumps({"name": "testConsumer", "format": "json"})
    answer = service.post(f"/consumers/{group}", body, headers=headers)
    base_uri = f"{service.url}/consumers/{group}/instances/testConsumer"
    assert (answer.status_code, answer.json()) == (200, {"instance_id": "testConsumer", "base_uri": base_uri})
    path = base_uri.removeprefix(service.url)
    assert service.post(f"{path}/subscription", json.dumps({"topics": [topic]}), headers=headers).status_code == 204
    answer = service.get(f"{path}/records", headers={"Accept": JSON_TYPE})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, JSON_TYPE)
    records: list[dict[str, Any]] = answer.json()
    assert [(each["partition"], each["offset"]) for each in records] == places, "other records than the two of this run"
    offsets = [{"topic": topic, "partition": 0, "offset": places[-1][1] + 1}]
    assert service.post(f"{path}/positions", json.dumps({"offsets": offsets}), headers=headers).status_code == 204
    assert service.delete(path).status_code == 204
    return records
