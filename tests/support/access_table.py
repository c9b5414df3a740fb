"""The table of who may do what: calls, principals, and whether each is allowed or refused.

`tests/api` runs it with rules in the settings, on both paths and before the body. `tests/integration` runs it with the
ACLs of a real Kafka.
"""

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from tests.support.key_file import CHALLENGE

NAMES = ("stranger", "publisher", "reader", "consumer", "member", "twin", "admin", "all")
PRINCIPALS = ("nobody", *(each for each in NAMES if each != "twin"))
CODES = {"401": 40101, "403": 40302, "404": 40401}
AFTER_THE_CHECK = {400, 40406, 40904, 40905, 40906}
"""Codes of views: an illegal name, a group or a lease that does not exist, a topic that does, a group of another type.

The client has the right.
"""

# The rules give rights on the topic t and the consumer g. Only `all` has rights on the topic three and on the consumer
# other. `stream` and `upload` are calls of the methods GET and POST.
TABLE = """
call                                    nobody stranger publisher reader consumer member admin  all
GET     /messages                          401    ok       ok       ok     ok       ok     ok     ok
GET     /messages/t                        401    404      ok       ok     404      ok     ok     ok
GET     /messages/three                    401    404      404      404    404      404    ok     ok
PUT     /messages/t                        401    404      ok       403    404      403    403    ok
POST    /messages/t                        401    404      ok       403    404      403    403    ok
upload  /messages/t                        401    404      ok       403    404      403    403    ok
PUT     /messages/three                    401    404      404      404    404      404    403    ok
upload  /messages/three                    401    404      404      404    404      404    403    ok
POST    /messages                          401    403      403      403    403    403      ok     ok
PATCH   /messages/t                        401    403      403      403    403    403      ok     ok
DELETE  /messages/no!                      401    403      403      403    403    403      ok     ok
GET     /messages/t/g                      401    404      403      403    404      ok     403    ok
GET     /messages/t/other                  401    404      403      403    404      403    403    ok
DELETE  /messages/t/g                      401    404      403      403    404      ok     403    ok
GET     /messages/t/g/earliest             401    404      403      ok     404      ok     403    ok
GET     /messages/t/-/0?partition=0        401    404      403      ok     404      ok     403    ok
GET     /messages/t/g/0?ack=previous       401    404      403      403    404      ok     403    ok
GET     /messages/t/other/0?ack=previous   401    404      403      403    404      403    403    ok
GET     /messages/t/g/committed            401    404      403      ok     404      ok     403    ok
GET     /messages/t/other/committed        401    404      403      ok     404      ok     403    ok
stream  /messages/t/other/committed        401    404      403      ok     404      ok     403    ok
GET     /messages/three/g/earliest         401    404      404      404    404      404    403    ok
stream  /messages/t/g/earliest             401    404      403      ok     404      ok     403    ok
stream  /messages/three/g/earliest         401    404      404      404    404      404    403    ok
PUT     /messages/t/g/0                    401    404      403      403    404      ok     403    ok
PUT     /messages/t/other/0                401    404      403      403    404      403    403    ok
DELETE  /messages/t/g/0                    401    404      403      403    404      ok     403    ok
DELETE  /messages/t/other/0                401    404      403      403    404      403    403    ok
POST    /messages/t/g/queue                401    404      403      403    404      ok     403    ok
POST    /messages/t/other/queue            401    404      403      403    404      403    403    ok
POST    /messages/three/g/queue            401    404      404      404    404      404    403    ok
POST    /messages/t/g/queue?dead=three     401    404      403      403    404      404    403    ok
GET     /messages/t/g/queue                401    404      403      403    404      ok     403    ok
GET     /messages/t/other/queue            401    404      403      403    404      403    403    ok
DELETE  /messages/t/g/queue                401    404      403      403    404      ok     403    ok
DELETE  /messages/t/other/queue            401    404      403      403    404      403    403    ok
DELETE  /messages/t/g/queue/0:0:0.k1       401    404      403      403    404      ok     403    ok
DELETE  /messages/t/other/queue/0:0:0.k1   401    404      403      403    404      403    403    ok
PUT     /messages/t/g/queue/0:0:0.k1?lock=0 401   404      403      403    404      ok     403    ok
GET     /tasks                             401    ok       ok       ok     ok       ok     ok     ok
GET     /instances                         401    ok       ok       ok     ok       ok     ok     ok
GET     /access                            401    ok       ok       ok     ok       ok     ok     ok
GET     /metrics                           401    403      403      403    403      403    ok     ok
GET     /brokers                           401    ok       ok       ok     ok       ok     ok     ok
GET     /topics                            401    ok       ok       ok     ok       ok     ok     ok
GET     /topics/t                          401    404      ok       ok     404      ok     ok     ok
GET     /topics/three                      401    404      404      404    404      404    ok     ok
POST    /topics/t                          401    404      ok       403    404      403    403    ok
POST    /topics/three                      401    404      404      404    404      404    403    ok
GET     /topics/t/partitions               401    404      ok       ok     404      ok     ok     ok
GET     /topics/t/partitions/0             401    404      ok       ok     404      ok     ok     ok
GET     /topics/three/partitions/0         401    404      404      404    404      404    ok     ok
POST    /topics/t/partitions/0             401    404      ok       403    404      403    403    ok
GET     /topics/t/partitions/0/offsets     401    404      ok       ok     404      ok     ok     ok
GET     /consumers                         401    ok       ok       ok     ok     ok       ok     ok
GET     /consumers?topic=t                 401    404      ok       ok     404    ok       ok     ok
GET     /consumers/g                       401    403      403      403    ok     ok       403    ok
GET     /consumers/other                   401    403      403      403    403    403      403    ok
DELETE  /consumers/g                       401    403      403      403    ok     ok       403    ok
DELETE  /consumers/other                   401    403      403      403    403    403      403    ok
POST    /consumers/g                       401    403      403      403    ok       ok     403    ok
POST    /consumers/other                   401    403      403      403    403      403    403    ok
"""
# The instance i of the group g, and the task task, belong to the principal `member`.
OWNED = """
call                                                    nobody stranger reader consumer twin  admin member all
GET     /tasks/task                                        401    404    404    404     404   ok    ok    ok
DELETE  /tasks/task                                        401    404    404    404     404   ok    ok    ok
DELETE  /consumers/g/instances/i                           401    403    403    404     404   ok    ok    ok
POST    /consumers/g/instances/i                           401    403    403    404     404   ok    ok    ok
POST    /consumers/g/instances/i/subscription              401    403    403    404     404   403   ok    ok
GET     /consumers/g/instances/i/subscription              401    403    403    404     404   ok    ok    ok
DELETE  /consumers/g/instances/i/subscription              401    403    403    404     404   ok    ok    ok
POST    /consumers/g/instances/i/assignments               401    403    403    404     404   403   ok    ok
GET     /consumers/g/instances/i/assignments               401    403    403    404     404   ok    ok    ok
POST    /consumers/g/instances/i/positions                 401    403    403    404     404   403   ok    ok
POST    /consumers/g/instances/i/positions/beginning       401    403    403    404     404   403   ok    ok
POST    /consumers/g/instances/i/positions/end             401    403    403    404     404   403   ok    ok
POST    /consumers/g/instances/i/offsets                   401    403    403    404     404   403   ok    ok
GET     /consumers/g/instances/i/offsets                   401    403    403    404     404   403   ok    ok
GET     /consumers/g/instances/i/records                   401    403    403    404     404   403   ok    ok
"""
PARTITIONS = {"partitions": [{"topic": "t", "partition": 0}]}
OFFSETS = {"offsets": [{"topic": "t", "partition": 0, "offset": 0}]}
BODIES = {
    "POST /messages": {"topic": "t"},
    "PATCH /messages/t": {"config": {"retention.ms": None}},
    "POST /subscription": {"topics": ["t"]},
    "POST /assignments": PARTITIONS,
    "POST /positions": OFFSETS,
    "POST /positions/beginning": PARTITIONS,
    "POST /positions/end": PARTITIONS,
    "POST /offsets": OFFSETS,
    "GET /offsets": PARTITIONS,
}
"""The bodies of the calls of topics and of an instance."""
PUBLISH = re.compile("(PUT|POST) /messages/[^/]+|POST /topics/[^/]+(/partitions/[0-9])?")
SETTLE = re.compile(r"(?:DELETE|PUT) /messages/[^/]+/[^/]+/queue/.+")
INSTANCE = "/consumers/g/instances/i"
STREAMS = {"Accept": "text/event-stream"}
UPLOADS = {"Content-Type": "application/x-ndjson", "Accept": "application/x-ndjson"}
JSON_V2 = {"Content-Type": "application/vnd.kafka.json.v2+json"}
V2 = {"Content-Type": "application/vnd.kafka.v2+json"}


class Call(NamedTuple):
    """A call of the table: its first word is a method, or a kind of call."""

    kind: str
    path: str

    @property
    def method(self) -> str:
        return {"stream": "GET", "upload": "POST"}.get(self.kind, self.kind)

    @property
    def headers(self) -> dict[str, str]:
        if self.path.startswith("/consumers"):
            return V2
        if self.path.startswith("/topics/") and self.method == "POST":
            return JSON_V2
        return {"stream": STREAMS, "upload": UPLOADS}.get(self.kind, {})

    @property
    def body(self) -> bytes | None:
        if (sent := BODIES.get(f"{self.method} {self.path.removeprefix(INSTANCE)}")) is not None:
            return json.dumps(sent).encode()
        if PUBLISH.fullmatch(f"{self.method} {self.path}"):
            return b'{"records": [{"value": 1}]}' if self.path.startswith("/topics") else b"1"
        return None

    @property
    def is_on_fast_path(self) -> bool:
        if self.is_acquire:
            return True
        call = f"{self.method} {self.path}"
        return (self.kind in {"PUT", "POST"} and bool(PUBLISH.fullmatch(call))) or bool(SETTLE.fullmatch(call))

    @property
    def is_acquire(self) -> bool:
        """Whether it acquires messages of a queue: the first time a view must check that the topics exist."""
        return self.method == "POST" and self.path.partition("?")[0].endswith("/queue")


class Row(NamedTuple):
    call: Call
    results: dict[str, str]


def rows(table: str) -> list[Row]:
    head, *lines = (line.split() for line in table.strip().splitlines())
    return [Row(Call(*line[:2]), dict(zip(head[1:], line[2:], strict=True))) for line in lines]


def name_of(row: Row) -> str:
    return f"{row.call.kind} {row.call.path}"


ROWS, OWNED_ROWS = rows(TABLE), rows(OWNED)


def result_of(status: int, headers: Mapping[str, str], body: bytes, *, may_be_missing: bool = False) -> str:
    """Return `ok` or the status, and check that a refusal has its code and, if 401, the challenge.

    `may_be_missing`: a 404 may be that of an instance or a task.
    """
    if status < 300:
        return "ok"
    text = str(status)
    error = json.loads(body)
    error = error["leases"][0] if "leases" in error else error
    code = error["error_code"] if "error_code" in error else error["error"]["code"]
    if code in AFTER_THE_CHECK:
        return "ok"
    assert code == CODES.get(text) or (may_be_missing and code in {404, 40403}), body
    assert (headers.get("WWW-Authenticate") == CHALLENGE) == (status == 401)
    return text
