"""A queue of one partition for `stub_api`, with the calls of a worker and without time: nothing expires."""

import threading
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.stub_api import Answer, Request

LEASE_LOST = {"code": 40904, "message": "This lease has ended."}
Result = Mapping[str, Any]


class StubQueue:
    """Answers requests as `answer` of `stub_api`. Offsets count from 0. Safe for threads.

    A PUT whose lock is in `returning` gives the message back. `settle` may decide on results for leases.
    """

    def __init__(self, *messages: bytes | Mapping[str, Any], attempts: int = 5, returning: Sequence[str] = ("0",)):
        self.attempts = attempts
        self.waiting = list(range(len(messages)))
        self.held: dict[str, int] = {}
        self.acknowledged: list[int] = []
        self.rejected: list[int] = []
        self.locks: list[str] = []
        """The locks of all PUT requests, for each lease."""
        self.acquires: list[Mapping[str, str]] = []
        """The parameters of the calls that acquire."""
        self.before: Callable[[Request], Answer | None] = lambda _: None
        """Sees each request first. What it returns is the answer."""
        self.extra: Mapping[str, Any] = {}
        """Fields of all pages."""
        self.lag_of_others = 0
        self._messages = messages
        self._deliveries = [0] * len(messages)
        self._returning = returning
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Answer:
        if (answer := self.before(request)) is not None:
            return answer
        path, query = urlsplit(request.path).path, urlsplit(request.path).query
        parameters = {name: values[-1] for name, values in parse_qs(query).items()}
        with self._lock:
            if request.method == "POST":
                return self._acquire(parameters)
            if request.method == "GET":
                return Answer.json(self._state())
            leases = path.rpartition("/queue/")[2].split(",")
            return _settled([self._settle(request.method, lease, parameters) for lease in leases])

    def _acquire(self, parameters: Mapping[str, str]) -> Answer:
        self.acquires.append(parameters)
        taken = self.waiting[: int(parameters["limit"])]
        del self.waiting[: len(taken)]
        records = [self._record(offset) for offset in taken]
        return Answer.json({"topic": "orders", "consumer": "w", "records": records, **self.extra})

    def _record(self, offset: int) -> dict[str, Any]:
        self._deliveries[offset] += 1
        lease = f"0:{offset}:0.m{self._deliveries[offset]}"
        self.held[lease] = offset
        message = self._messages[offset]
        fields = message if isinstance(message, Mapping) else {"value": b64encode(message).decode(), "format": "binary"}
        common = {"partition": 0, "offset": offset, "timestamp": 7, "key": None, "headers": [], "locked_until": 1}
        return {**common, "lease": lease, "attempt": self._deliveries[offset], **fields}

    def _settle(self, method: str, lease: str, parameters: Mapping[str, str]) -> Result:
        if lease not in self.held:
            return {"lease": lease, "error": LEASE_LOST}
        if method == "PUT":
            self.locks.append(parameters["lock"])
            if parameters["lock"] in self._returning:
                self.waiting.append(self.held.pop(lease))
            return {"lease": lease, "locked_until": 2}
        done = self.rejected if parameters.get("reject") == "true" else self.acknowledged
        done.append(self.held.pop(lease))
        return {"lease": lease, "acknowledged": True}

    def _state(self) -> dict[str, Any]:
        lag = len(self._messages) - len(self.acknowledged) - len(self.rejected) + self.lag_of_others
        partition = {"partition": 0, "start": 0, "end": lag, "lag": lag}
        return {"topic": "orders", "consumer": "w", "attempts": self.attempts, "partitions": [partition], "held": []}


def _settled(results: Sequence[Result]) -> Answer:
    failed = sum("error" in each for each in results)
    return Answer.json({"leases": results}, 200 if not failed else 409 if failed == len(results) else 207)
