"""Idempotency keys in the state store."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, select, text, tuple_, update

from kafka_http.errors import Unavailable
from kafka_http.node.store.database import Database
from kafka_http.node.store.stored_nodes import now_of
from kafka_http.node.store.tables import idempotency_keys as keys
from kafka_http.node.store.tables import nodes
from kafka_http.records import KeyClaimResult, StoredResponse

IsGone = Callable[[str], bool]
"""Whether a worker of this node, by its name, will not conclude any more what it has begun. Must not block."""

_THIS = (keys.c.caller == bindparam("of_caller"), keys.c.name == bindparam("of_name"))
_HELD = (*_THIS, keys.c.holder == bindparam("of_holder"))
_IS_RUNNING = keys.c.status.is_(None)
_ANSWER = ("status", "headers", "body")

_INSERT = text(
    "INSERT INTO idempotency_keys (caller, name, fingerprint, holder, created) "
    "VALUES (:of_caller, :of_name, :fingerprint, :holder, :created) ON CONFLICT (caller, name) DO NOTHING"
)
_FIND = select(keys).where(*_THIS)
_TAKE = (
    update(keys)
    .where(*_HELD, keys.c.created == bindparam("of_created"))
    .values({each: bindparam(each) for each in ("fingerprint", "holder", "created", *_ANSWER)})
)
_KEEP = update(keys).where(*_HELD).values({each: bindparam(each) for each in _ANSWER})
_FREE = delete(keys).where(*_HELD, _IS_RUNNING)
_PLACE = tuple_(keys.c.caller, keys.c.name)
_REMOVE_OLD = delete(keys).where(
    _PLACE.in_(
        select(keys.c.caller, keys.c.name)
        .where(keys.c.created < bindparam("before"), keys.c.status.is_not(None))
        .order_by(keys.c.created)
        .limit(bindparam("count"))
    )
)
_decode_headers = msgspec.json.Decoder(dict[str, str]).decode


class StoredKeys:
    """The keys on a database, as one of its nodes has them. Any thread may call; a call returns once it is committed.

    A holder is `worker/attempt` for a caller, and `node/worker/attempt` in the database. All raise `Unavailable`.
    """

    def __init__(self, database: Database, node_id: str = "", retention: float = 86400.0) -> None:
        """`retention`: the seconds from its claim for which a key has its answer."""
        self._database = database
        self._node_id = node_id
        self._retention = retention

    def claim(self, caller: str, name: str, fingerprint: str, holder: str, is_gone: IsGone) -> KeyClaimResult:
        """As `claim_key` of core's `IdempotencyKeys`."""
        ours = f"{self._node_id}/{holder}"
        new = _this(caller, name) | {"fingerprint": fingerprint, "holder": ours, "created": time.time()}

        shortage = self._shortage()

        def claim(connection: Connection) -> KeyClaimResult:
            if shortage is not None and connection.execute(_FIND, _this(caller, name)).first() is None:
                raise shortage
            if connection.execute(_INSERT, new).rowcount:
                return KeyClaimResult("claimed")
            row = connection.execute(_FIND, _this(caller, name)).mappings().first()
            if row is None:  # gone a moment ago: another node has removed it
                return KeyClaimResult("in_progress")
            if row["holder"] == ours:
                return KeyClaimResult("claimed")
            if self._is_free(connection, row, is_gone):
                held = {"of_holder": row["holder"], "of_created": row["created"]}
                taken = connection.execute(_TAKE, new | held | dict.fromkeys(_ANSWER))
                return KeyClaimResult("claimed" if taken.rowcount else "in_progress")
            return _claim_of_another(row, fingerprint)

        return self._database.write(claim)

    def keep(self, caller: str, name: str, holder: str, answer: StoredResponse) -> None:
        headers = msgspec.json.encode(answer.headers).decode()
        kept = {"status": answer.status, "headers": headers, "body": answer.body}
        self._execute(_KEEP, self._held(caller, name, holder) | kept)

    def free(self, caller: str, name: str, holder: str) -> None:
        self._execute(_FREE, self._held(caller, name, holder))

    def are_running(self) -> bool:
        """Whether workers of this node have keys that are running."""
        return bool(self._database.write(self._running))

    def free_those(self, is_gone: IsGone) -> None:
        """Free this node's running keys whose workers are gone."""

        def free(connection: Connection) -> None:
            if orphans := [each for each in self._running(connection) if is_gone(_worker_of(each["of_holder"]))]:
                connection.execute(_FREE, orphans)

        self._database.write(free)

    def remove_old(self, count: int) -> int:
        """Remove so many at most of the answers that are kept no longer; how many there were."""
        old = {"before": time.time() - self._retention, "count": count}
        return self._database.write(lambda connection: connection.execute(_REMOVE_OLD, old).rowcount)

    def _shortage(self) -> Unavailable | None:
        """Why there is no room for another key, where that is so."""
        try:
            self._database.check_room()
        except Unavailable as error:
            return error
        return None

    def _is_free(self, connection: Connection, row: Mapping[Any, Any], is_gone: IsGone) -> bool:
        """Whether a key is free though it is there: its answer is old, or its holder is no more."""
        if row["status"] is not None:
            return bool(row["created"] < time.time() - self._retention)
        node_id = row["holder"].partition("/")[0]
        if node_id == self._node_id:
            return is_gone(_worker_of(row["holder"]))
        leased = select(nodes.c.node_id).where(nodes.c.node_id == node_id, nodes.c.leased_until > now_of(connection))
        return connection.execute(leased).first() is None

    def _running(self, connection: Connection) -> list[dict[str, Any]]:
        ours = keys.c.holder.like(f"{self._node_id}/%")
        found = connection.execute(select(keys.c.caller, keys.c.name, keys.c.holder).where(_IS_RUNNING, ours))
        return [_this(caller, name) | {"of_holder": holder} for caller, name, holder in found]

    def _held(self, caller: str, name: str, holder: str) -> dict[str, Any]:
        return _this(caller, name) | {"of_holder": f"{self._node_id}/{holder}"}

    def _execute(self, statement: Any, values: Mapping[str, Any]) -> None:
        self._database.write(lambda connection: connection.execute(statement, values))


def _claim_of_another(row: Mapping[Any, Any], fingerprint: str) -> KeyClaimResult:
    if row["fingerprint"] != fingerprint:
        return KeyClaimResult("mismatch")
    if row["status"] is None:
        return KeyClaimResult("in_progress")
    return KeyClaimResult(
        "completed", StoredResponse(row["status"], _decode_headers(row["headers"]), bytes(row["body"]))
    )


def _this(caller: str, name: str) -> dict[str, Any]:
    return {"of_caller": caller, "of_name": name}


def _worker_of(holder: str) -> str:
    return holder.split("/")[1]
