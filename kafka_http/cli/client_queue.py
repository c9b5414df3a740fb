"""The calls of a queue for `work`: acquire messages, settle and extend their leases, ask what is left."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from kafka_http.cli.client_output import note
from kafka_http.cli.client_requests import ApiClient, RequestError, path_of

LEASE_LOST = 40904
_LEASES_PER_CALL = 100
"""Leases are in the path, and a request line has at most 8190 bytes."""
_STORED = {"format": "binary", "key_format": "binary"}


class AcquiredMessage(Struct, frozen=True):
    """A message as the queue gives it: its bytes in Kafka, and its lease. `attempt` counts its deliveries from 1."""

    partition: int
    offset: int
    lease: str
    attempt: int
    timestamp: int | None = None
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, str | Mapping[str, bytes] | None]] = ()


class WorkQueue:
    """A queue of the server. Any thread may call; every call blocks and raises `RequestError`."""

    def __init__(self, client: ApiClient, topic: str, consumer: str, lock: float, dead: str | None) -> None:
        """`lock` is for acquired messages, in seconds. `dead` is the topic for messages without further attempts."""
        self.lock = lock
        self._client = client
        self._path = path_of("messages", topic, consumer, "queue")
        self._query = {**_STORED, "lock": f"{lock:.15g}"} | ({} if dead is None else {"dead": dead})
        self._said: set[str] = set()
        self.fate = "is rejected and not delivered again" if dead is None else f"is rejected and goes to {dead}"

    def acquire(self, limit: int, wait: float) -> list[AcquiredMessage]:
        """Acquire up to `limit` messages. Wait up to `wait` seconds if there are none."""
        query = {**self._query, "limit": str(limit), "wait": f"{wait:.15g}"}
        page = self._client.call("POST", self._path, "records", query=query)
        for warning in page.get("warnings", ()):
            self._say_once(warning)
        for each in page.get("blocked", ()):
            self._say_once(f"Partition {each['partition']} has no further messages until {each['offset']} is done.")
        return msgspec.convert(page["records"], list[AcquiredMessage])

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            note(sentence)

    def acknowledge(self, lease: str) -> None:
        """Note that a message is done."""
        self._settle("DELETE", lease, {})

    def reject(self, lease: str) -> None:
        """Note that a message is never to be delivered again. It goes to the topic `dead` if there is one."""
        self._settle("DELETE", lease, {"reject": "true"})

    def extend(self, lease: str, lock: float) -> None:
        """Let the lock end `lock` seconds from now; 0 gives the message back at once."""
        self._settle("PUT", lease, {"lock": f"{lock:.15g}"})

    def _settle(self, method: str, lease: str, query: Mapping[str, str]) -> None:
        (result,) = self._results(method, [lease], query)
        if error := result.get("error"):
            raise RequestError(error["message"], code=error["code"])

    def extend_all(self, leases: Sequence[str], lock: float) -> list[str]:
        """Let the locks of many messages end `lock` seconds from now. Return the leases that are lost."""
        lost: list[str] = []
        for start in range(0, len(leases), _LEASES_PER_CALL):
            part = leases[start : start + _LEASES_PER_CALL]
            results = self._results("PUT", part, {"lock": f"{lock:.15g}"})
            lost += (each["lease"] for each in results if each.get("error", {}).get("code") == LEASE_LOST)
        return lost

    def _results(self, method: str, leases: Sequence[str], query: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
        """Return the results of leases, in order: the response has them also if all failed."""
        try:
            answer = self._client.call(method, self._path + path_of(",".join(leases)), "leases", query=query)
            results: Sequence[Mapping[str, Any]] = answer["leases"]
        except RequestError as error:
            if not error.leases:
                raise
            results = error.leases
        if len(results) != len(leases):
            raise RequestError(
                f"{self._client.url} answered with {len(results)} results for {len(leases)} leases.", 200
            )
        return results

    def attempts(self) -> int:
        """Return how often a message is delivered at most."""
        limit: int = self._state()["attempts"]
        return limit

    def is_empty(self) -> bool:
        """Return whether all messages of the topic are settled, those that other workers hold included."""
        return all(each["lag"] <= 0 for each in self._state()["partitions"])

    def _state(self) -> Any:
        return self._client.call("GET", self._path, "partitions")
