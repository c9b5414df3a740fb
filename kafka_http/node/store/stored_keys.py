"""Idempotency keys in the state store."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, select, text, tuple_, update

from kafka_http.errors import Unavailable
from kafka_http.node.store.database import Database
from kafka_http.node.store.stored_nodes import database_time
from kafka_http.node.store.tables import idempotency_keys as keys
from kafka_http.node.store.tables import nodes
from kafka_http.records import KeyClaimResult, StoredResponse

IsGone = Callable[[str], bool]
"""Returns whether a worker of this node, by its name, can no longer complete its requests. Must not block."""

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
_RELEASE = delete(keys).where(*_HELD, _IS_RUNNING)
_PRIMARY_KEY = tuple_(keys.c.caller, keys.c.name)
_REMOVE_EXPIRED = delete(keys).where(
    _PRIMARY_KEY.in_(
        select(keys.c.caller, keys.c.name)
        .where(keys.c.created < bindparam("before"), keys.c.status.is_not(None))
        .order_by(keys.c.created)
        .limit(bindparam("count"))
    )
)
_decode_headers = msgspec.json.Decoder(dict[str, str]).decode


class StoredKeys:
    """The idempotency keys of a database, for one of its nodes. Any thread may call; a call returns after its commit.

    A holder is `worker/attempt` in arguments, and `node/worker/attempt` in the database. All raise `Unavailable`.
    """

    def __init__(self, database: Database, node_id: str = "", retention: float = 86400.0) -> None:
        """`retention` is for how many seconds after its claim a key keeps its response."""
        self._database = database
        self._node_id = node_id
        self._retention = retention

    def claim(self, caller: str, name: str, fingerprint: str, holder: str, is_gone: IsGone) -> KeyClaimResult:
        """See `IdempotencyKeys.claim_key`."""
        ours = f"{self._node_id}/{holder}"
        new = _this(caller, name) | {"fingerprint": fingerprint, "holder": ours, "created": time.time()}
        shortage = self._shortage()  # may run a transaction itself, so not inside the one below

        def claim(connection: Connection) -> KeyClaimResult:
            if shortage is not None and connection.execute(_FIND, _this(caller, name)).first() is None:
                raise shortage
            if connection.execute(_INSERT, new).rowcount:
                return KeyClaimResult("claimed")
            row = connection.execute(_FIND, _this(caller, name)).mappings().first()
            if row is None:  # another node has just removed it
                return KeyClaimResult("in_progress")
            if row["holder"] == ours:
                return KeyClaimResult("claimed")
            if self._is_claimable(connection, row, is_gone):
                held = {"of_holder": row["holder"], "of_created": row["created"]}
                taken = connection.execute(_TAKE, new | held | dict.fromkeys(_ANSWER))
                return KeyClaimResult("claimed" if taken.rowcount else "in_progress")
            return _claim_of_another(row, fingerprint)

        return self._database.write(claim)

    def keep(self, caller: str, name: str, holder: str, answer: StoredResponse) -> None:
        headers = msgspec.json.encode(answer.headers).decode()
        kept = {"status": answer.status, "headers": headers, "body": answer.body}
        self._execute(_KEEP, self._held(caller, name, holder) | kept)

    def release(self, caller: str, name: str, holder: str) -> None:
        self._execute(_RELEASE, self._held(caller, name, holder))

    def has_running(self) -> bool:
        """Return whether requests of this node's workers have keys in progress."""
        return bool(self._database.write(self._running))

    def release_abandoned(self, is_gone: IsGone) -> None:
        """Release this node's keys in progress whose workers are gone."""

        def release(connection: Connection) -> None:
            if abandoned := [each for each in self._running(connection) if is_gone(_worker_of(each["of_holder"]))]:
                connection.execute(_RELEASE, abandoned)

        self._database.write(release)

    def remove_expired(self, count: int) -> int:
        """Remove up to `count` expired responses. Returns the number removed."""
        expired = {"before": time.time() - self._retention, "count": count}
        return self._database.write(lambda connection: connection.execute(_REMOVE_EXPIRED, expired).rowcount)

    def _shortage(self) -> Unavailable | None:
        """Return the error for a new key if the disk has no space for it."""
        try:
            self._database.check_space()
        except Unavailable as error:
            return error
        return None

    def _is_claimable(self, connection: Connection, row: Mapping[Any, Any], is_gone: IsGone) -> bool:
        """Return whether an existing key can be claimed: its response has expired, or its holder is gone."""
        if row["status"] is not None:
            return bool(row["created"] < time.time() - self._retention)
        node_id = row["holder"].partition("/")[0]
        if node_id == self._node_id:
            return is_gone(_worker_of(row["holder"]))
        leased = select(nodes.c.node_id).where(
            nodes.c.node_id == node_id, nodes.c.leased_until > database_time(connection)
        )
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
