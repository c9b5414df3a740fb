"""A client of the v2 API: one consumer instance, by nothing but HTTP."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import requests

JSON_TYPE = "application/vnd.kafka.json.v2+json"


class ConsumerInstance:
    """`url()` gives the server's address, anew for each call. Every call has a connection of its own."""

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
    """Publish these values, to one partition."""
    records = [{"value": each} | ({} if partition is None else {"partition": partition}) for each in values]
    answer = requests.post(
        f"{url}/topics/{topic}", data=json.dumps({"records": records}), headers={"Content-Type": JSON_TYPE}, timeout=20
    )
    assert answer.status_code == 200, answer.text
    assert all(each["error"] is None for each in answer.json()["offsets"]), answer.text


@contextmanager
def instances(url: Callable[[], str], group: str, count: int, **settings: Any) -> Iterator[list[ConsumerInstance]]:
    """So many instances of a group, removed afterwards."""
    made = [ConsumerInstance(url, group) for _ in range(count)]
    for each in made:
        assert each.create(**settings).status_code == 200
    try:
        yield made
    finally:
        for each in made:
            each.delete()
