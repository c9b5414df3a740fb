"""Idempotency keys in the state store."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, takewhile
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, select, text, tuple_, update

from kafka_http.errors import Unavailable
from kafka_http.node.store.database import Database
from kafka_http.node.store.stored_nodes import database_time
from kafka_http.node.store.tables import idempotency_keys as keys
from kafka_http.node.store.tables import nodes
from kafka_http.records import ClaimEnd, ClaimRequest, KeyClaimResult, KeyState, StoredResponse

log = logging.getLogger(__name__)

IsGone = Callable[[str], bool]
"""Returns whether a worker of this node, by its name, can no longer complete its requests. Must not block."""

_SAME_KEY = (keys.c.caller == bindparam("of_caller"), keys.c.name == bindparam("of_name"))
_HELD = (*_SAME_KEY, keys.c.holder == bindparam("of_holder"))
_IS_RUNNING = keys.c.status.is_(None)
_RESPONSE_COLUMNS = ("status", "headers", "body")

_INSERT = text(
    "INSERT INTO idempotency_keys (caller, name, fingerprint, holder, created) "
    "VALUES (:of_caller, :of_name, :fingerprint, :holder, :created) ON CONFLICT (caller, name) DO NOTHING"
)
_TAKE = (
    update(keys)
    .where(*_HELD, keys.c.created == bindparam("of_created"))
    .values({each: bindparam(each) for each in ("fingerprint", "holder", "created", *_RESPONSE_COLUMNS)})
)
_STORE_RESPONSE = update(keys).where(*_HELD).values({each: bindparam(each) for each in _RESPONSE_COLUMNS})
_RELEASE = delete(keys).where(*_HELD, _IS_RUNNING)
_PRIMARY_KEY = tuple_(keys.c.caller, keys.c.name)
_NAMED = _PRIMARY_KEY.in_(bindparam("names", expanding=True))
_FIND = select(
    *(keys.c.caller, keys.c.name, keys.c.fingerprint, keys.c.holder, keys.c.created, keys.c.status),
    func.length(keys.c.body).label("size"),
).where(_NAMED)
_FIND_RESPONSES = select(keys.c.caller, keys.c.name, *(keys.c[each] for each in _RESPONSE_COLUMNS)).where(_NAMED)
_REMOVE_EXPIRED = delete(keys).where(
    _PRIMARY_KEY.in_(
        select(keys.c.caller, keys.c.name)
        .where(keys.c.created < bindparam("before"), keys.c.status.is_not(None))
        .order_by(keys.c.created)
        .limit(bindparam("count"))
    )
)
_CLAIMED = KeyClaimResult("claimed")
_BY_NAME = itemgetter("of_caller", "of_name")
_Name = tuple[str, str]
"""The caller and the name of a key."""
_Row = Mapping[Any, Any]
_MAX_RESPONSE_BYTES = 16 << 20
"""Size of the responses that a batch of claims returns. A message has a limit, too."""
_decode_headers = msgspec.json.Decoder(dict[str, str]).decode


class StoredKeys:
    """The idempotency keys of a database, for one of its nodes. Any thread may call; a call returns after its commit.

    A holder is `worker/attempt` in arguments, and `node/worker/attempt` in the database. All raise `Unavailable`.
    """

    def __init__(self, database: Database, node_id: str = "", retention: float = 86400.0) -> None:
        """`retention`: the seconds after its claim for which a key keeps its response."""
        self._database = database
        self._node_id = node_id
        self._retention = retention

    def update(self, claims: Sequence[ClaimRequest], ends: Sequence[ClaimEnd], is_gone: IsGone) -> list[KeyClaimResult]:
        """Claim keys and end claims in one transaction, as `IdempotencyKeys.update_keys` says.

        A key can be claimed if it is new, if its response has expired, or if the worker of its holder `is_gone`.
        """
        is_full = bool(claims) and self._is_full()  # may run a transaction itself, so not inside the one below

        def update(connection: Connection) -> list[KeyClaimResult]:
            results = self._claim(connection, claims, is_full, is_gone) if claims else []
            self._end(connection, ends)  # last, so that nodes with a shared store cannot deadlock
            return results

        return self._database.write(update)

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

    def _is_full(self) -> bool:
        """Return whether the disk has no space for new keys."""
        try:
            self._database.check_space()
        except Unavailable as error:
            log.warning("No new idempotency keys: %s", error.message)
            return True
        return False

    def _claim(
        self, connection: Connection, claims: Sequence[ClaimRequest], is_full: bool, is_gone: IsGone
    ) -> list[KeyClaimResult]:
        new = self._claimed_rows(claims)
        if not is_full and connection.execute(_INSERT, sorted(new, key=_BY_NAME)).rowcount == len(new):
            return [_CLAIMED] * len(new)
        names = [_BY_NAME(each) for each in new]
        found = {(row["caller"], row["name"]): row for row in _select(connection, _FIND, names)}
        missing: KeyState = "unavailable" if is_full else "in_progress"  # another node has just removed it
        states = [
            self._claim_existing(connection, found, values, is_gone) if name in found else missing
            for name, values in zip(names, new, strict=True)
        ]
        completed = [name for name, state in zip(names, states, strict=True) if state == "completed"]
        return _claim_results(names, states, _responses(connection, completed, found))

    def _claim_existing(
        self, connection: Connection, found: dict[_Name, _Row], new: dict[str, Any], is_gone: IsGone
    ) -> KeyState:
        """Claim a key that exists, if possible, and return its state for this claim."""
        row = found[_BY_NAME(new)]
        if row["holder"] == new["holder"]:
            return "claimed"
        if not self._is_claimable(connection, row, is_gone):
            if row["fingerprint"] != new["fingerprint"]:
                return "mismatch"
            return "in_progress" if row["status"] is None else "completed"
        current = {"of_holder": row["holder"], "of_created": row["created"]}
        if not connection.execute(_TAKE, new | current | dict.fromkeys(_RESPONSE_COLUMNS)).rowcount:
            return "in_progress"
        found[_BY_NAME(new)] = {**new, "status": None}  # another claim of this batch may have the same key
        return "claimed"

    def _claimed_rows(self, claims: Sequence[ClaimRequest]) -> list[dict[str, Any]]:
        now = time.time()
        return [
            {
                **_key_values(each.caller, each.name),
                "fingerprint": each.fingerprint,
                "holder": f"{self._node_id}/{each.holder}",
                "created": now,
            }
            for each in claims
        ]

    def _end(self, connection: Connection, ends: Sequence[ClaimEnd]) -> None:
        if completed := [self._held(each) | _response_values(each.response) for each in ends if each.response]:
            connection.execute(_STORE_RESPONSE, completed)
        if released := [self._held(each) for each in ends if each.response is None]:
            connection.execute(_RELEASE, released)

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
        of_this_node = keys.c.holder.like(f"{self._node_id}/%")
        found = connection.execute(select(keys.c.caller, keys.c.name, keys.c.holder).where(_IS_RUNNING, of_this_node))
        return [_key_values(caller, name) | {"of_holder": holder} for caller, name, holder in found]

    def _held(self, end: ClaimEnd) -> dict[str, Any]:
        return _key_values(end.caller, end.name) | {"of_holder": f"{self._node_id}/{end.holder}"}


def _responses(
    connection: Connection, names: Sequence[_Name], found: Mapping[_Name, _Row]
) -> dict[_Name, StoredResponse]:
    """Return the responses of the first of these keys: as many as fit in a message, and at least one."""
    ends = accumulate(found[each]["size"] for each in names)
    fitting = [name for name, end in zip(names, ends, strict=True) if end <= _MAX_RESPONSE_BYTES] or names[:1]
    return {
        (row["caller"], row["name"]): StoredResponse(row["status"], _decode_headers(row["headers"]), bytes(row["body"]))
        for row in _select(connection, _FIND_RESPONSES, fitting)
    }


def _claim_results(
    names: Sequence[_Name], states: Sequence[KeyState], responses: Mapping[_Name, StoredResponse]
) -> list[KeyClaimResult]:
    """Return the results of claims up to the first one whose response is missing."""
    results = [
        KeyClaimResult(state, responses.get(name) if state == "completed" else None)
        for name, state in zip(names, states, strict=True)
    ]
    return list(takewhile(lambda each: each.state != "completed" or each.response is not None, results))


def _select(connection: Connection, statement: Any, names: Sequence[_Name]) -> Iterable[_Row]:
    return connection.execute(statement, {"names": names}).mappings() if names else ()


def _response_values(response: StoredResponse) -> dict[str, Any]:
    headers = msgspec.json.encode(response.headers).decode()
    return {"status": response.status, "headers": headers, "body": response.body}


def _key_values(caller: str, name: str) -> dict[str, Any]:
    return {"of_caller": caller, "of_name": name}


def _worker_of(holder: str) -> str:
    return holder.split("/")[1]
