"""Idempotency keys: the same tests for memory, SQLite and a real PostgreSQL; and the service on top of them."""

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select, update

from kafka_http.errors import IdempotencyKeyInUse, IdempotencyKeyMismatch, Unavailable
from kafka_http.node.daemon_services import NodeIdempotencyKeys
from kafka_http.node.store import Database, StoredKeys, StoredNodes, open_database
from kafka_http.node.store.stored_nodes import LEASE_SECONDS
from kafka_http.node.store.tables import idempotency_keys, nodes
from kafka_http.publish.idempotency_keys import (
    IdempotencyKeys,
    IdempotencyService,
    KeyClaim,
    MemoryIdempotencyKeys,
    fingerprint,
)
from kafka_http.records import KeyClaimResult, StoredResponse
from tests.support.polling import scaled, wait_for

RESPONSE = StoredResponse(207, {"Content-Type": "application/json", "Retry-After": "1"}, b'{"\xc3\xbc": "\x00\xff"}')
CLAIMED, IN_PROGRESS, MISMATCH, COMPLETED = (
    KeyClaimResult("claimed"),
    KeyClaimResult("in_progress"),
    KeyClaimResult("mismatch"),
    KeyClaimResult("completed", RESPONSE),
)

_nodes: list[NodeIdempotencyKeys] = []
"""The services of the current test."""


def opened(request: pytest.FixtureRequest, directory: Path) -> Iterator[Database]:
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").database(f"test_{uuid4().hex}")
    database = open_database(directory, url)
    yield database
    while _nodes:
        _nodes.pop().close()
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    yield from opened(request, tmp_path)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IdempotencyKeys]:
    if request.param == "memory":
        yield MemoryIdempotencyKeys(3600)
        return
    for database in opened(request, tmp_path):
        yield node(database)


def node(
    database: Database, name: str = "n1", workers: Collection[str] = ("w", "v"), return_seconds: float = 0
) -> NodeIdempotencyKeys:
    """Return the keys of a node's daemon with these workers."""
    made = NodeIdempotencyKeys(StoredKeys(database, name), return_seconds, clean_interval=0.02)
    made.start(lambda worker: worker in workers)
    _nodes.append(made)
    return made


def test_claim_key_gives_a_key_to_one_request(keys: IdempotencyKeys) -> None:
    assert keys.claim_key("", "k", "f", "w/1") == CLAIMED
    assert keys.claim_key("", "k", "f", "w/1") == CLAIMED
    assert keys.claim_key("", "k", "f", "w/2") == IN_PROGRESS
    assert keys.claim_key("", "k", "f", "v/1") == IN_PROGRESS
    assert keys.claim_key("", "k", "g", "v/1") == MISMATCH
    assert keys.claim_key("", "K", "f", "w/2") == CLAIMED
    assert keys.claim_key("me", "k", "f", "w/2") == CLAIMED


def test_stored_response_is_replayed_to_the_same_request_only(keys: IdempotencyKeys) -> None:
    keys.claim_key("", "k", "f", "w/1")
    for _ in range(2):
        keys.store_response("", "k", "w/1", RESPONSE)
        assert keys.claim_key("", "k", "f", "v/2") == COMPLETED
        assert keys.claim_key("", "k", "g", "v/2") == MISMATCH
    keys.release_key("", "k", "w/1")
    keys.store_response("", "k", "v/2", StoredResponse(200, {}, b"another"))
    assert keys.claim_key("", "k", "f", "v/2") == COMPLETED


def test_released_key_can_be_claimed_again(keys: IdempotencyKeys) -> None:
    keys.claim_key("", "k", "f", "w/1")
    keys.release_key("", "k", "w/2")
    assert keys.claim_key("", "k", "f", "w/3") == IN_PROGRESS
    for _ in range(2):
        keys.release_key("", "k", "w/1")
    keys.store_response("", "k", "w/1", RESPONSE)
    assert keys.claim_key("", "k", "g", "w/3") == CLAIMED


def test_large_response_is_stored(keys: IdempotencyKeys) -> None:
    keys.claim_key("", "k", "f", "w/1")
    large = StoredResponse(200, {"Content-Type": "application/json"}, b"x" * 12_000_000)
    keys.store_response("", "k", "w/1", large)
    assert keys.claim_key("", "k", "f", "w/2") == KeyClaimResult("completed", large)


def test_concurrent_claims_give_the_key_to_one_request(keys: IdempotencyKeys) -> None:
    gate = threading.Barrier(8)

    def claim(number: int) -> list[str]:
        gate.wait()
        return [keys.claim_key("", f"k{each}", "f", f"w/{number}").state for each in range(50)]

    with ThreadPoolExecutor(8) as pool:
        states = [state for each in pool.map(claim, range(8)) for state in each]
    assert Counter(states) == {"claimed": 50, "in_progress": 350}


def test_memory_removes_responses_after_the_retention() -> None:
    keys = MemoryIdempotencyKeys(0.05)
    for name in "kl":
        keys.claim_key("", name, "f", "w/1")
    keys.store_response("", "k", "w/1", RESPONSE)
    wait_for(lambda: keys.claim_key("", "k", "g", "w/2") == CLAIMED, 5)
    assert keys.claim_key("", "l", "f", "w/2") == IN_PROGRESS


def count(database: Database) -> int:
    return database.write(lambda connection: connection.scalar(select(func.count()).select_from(idempotency_keys)) or 0)


def age(database: Database, seconds: float) -> None:
    older = update(idempotency_keys).values(created=idempotency_keys.c.created - seconds)
    database.write(lambda connection: connection.execute(older))


def test_response_is_not_replayed_after_the_retention(database: Database) -> None:
    store = StoredKeys(database, "n1", retention=60)
    store.claim("", "k", "f", "w/1", lambda _: False)
    store.keep("", "k", "w/1", RESPONSE)
    age(database, 50)
    assert store.claim("", "k", "g", "w/2", lambda _: False) == MISMATCH
    age(database, 11)
    assert store.claim("", "k", "g", "w/2", lambda _: False) == CLAIMED
    assert store.claim("", "k", "g", "w/3", lambda _: False) == IN_PROGRESS


def test_remove_old_deletes_expired_responses_in_batches(database: Database) -> None:
    store = StoredKeys(database, "n1", retention=60)
    for name in "abcde":
        store.claim("", name, "f", "w/1", lambda _: False)
        if name != "a":
            store.keep("", name, "w/1", RESPONSE)
    assert store.remove_expired(10) == 0
    age(database, 61)
    assert [store.remove_expired(3) for _ in range(3)] == [3, 1, 0]
    assert count(database) == 1  # of a request that is under way


def test_keys_of_an_ended_worker_can_be_claimed(database: Database) -> None:
    workers = {"w", "v"}
    keys = node(database, workers=workers)
    for worker in workers:
        keys.claim_key("", worker, "f", f"{worker}/1")
    keys.claim_key("", "kept", "f", "w/1")
    keys.store_response("", "kept", "w/1", RESPONSE)
    workers.remove("w")
    assert keys.claim_key("", "w", "g", "v/2") == CLAIMED
    assert keys.claim_key("", "v", "f", "v/2") == IN_PROGRESS
    assert keys.claim_key("", "kept", "f", "v/2") == COMPLETED
    keys.store_response("", "w", "w/1", RESPONSE)
    assert keys.claim_key("", "w", "g", "v/3") == IN_PROGRESS
    keys.close()


def test_keys_of_an_ended_worker_are_deleted(database: Database) -> None:
    workers = {"w", "v"}
    keys = node(database, workers=workers)
    for worker in ("w", "v"):
        keys.claim_key("", worker, "f", f"{worker}/1")
    workers.remove("w")
    wait_for(lambda: count(database) == 1, 5)
    assert keys.claim_key("", "v", "f", "v/2") == IN_PROGRESS
    assert StoredKeys(database, "n1").has_running()
    keys.close()
    assert not StoredKeys(database, "n1").has_running()


def test_restarted_daemon_waits_for_workers_before_it_frees_their_keys(database: Database) -> None:
    node(database).claim_key("", "k", "f", "w/1")
    keys = node(database, workers=("v",), return_seconds=0.5)
    assert keys.claim_key("", "k", "f", "v/1") == IN_PROGRESS
    wait_for(lambda: keys.claim_key("", "k", "f", "v/1") == CLAIMED, 5)
    keys.close()


def test_keys_of_another_node_can_be_claimed_after_its_lease_has_expired(database: Database) -> None:
    first, second = node(database, "n1"), node(database, "n2")
    lease = StoredNodes(database, "n1", "http://one")
    lease.renew_lease()
    for name in "kl":
        first.claim_key("", name, "f", "w/1")
    first.store_response("", "l", "w/1", RESPONSE)
    assert second.claim_key("", "k", "f", "w/2") == IN_PROGRESS
    over = update(nodes).values(leased_until=nodes.c.leased_until - LEASE_SECONDS)
    database.write(lambda connection: connection.execute(over))
    assert second.claim_key("", "k", "f", "w/2") == CLAIMED
    assert second.claim_key("", "l", "f", "w/2") == COMPLETED
    assert first.claim_key("", "k", "f", "w/3") == CLAIMED  # the second has no lease at all
    first.close()
    second.close()


class Keys:
    """`IdempotencyKeys` that record their calls and can fail."""

    def __init__(self) -> None:
        self.claim = CLAIMED
        self.fails = False
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[str] = set()

    def claim_key(self, *asked: Any) -> KeyClaimResult:
        self._note("claim", asked)
        return self.claim

    def store_response(self, *asked: Any) -> None:
        self._note("store", asked)

    def release_key(self, *asked: Any) -> None:
        self._note("release", asked)

    def _note(self, call: str, asked: tuple[Any, ...]) -> None:
        if self.fails:
            raise Unavailable("The file /secret cannot be opened.")
        self.calls.append((call, *asked))
        self.threads.add(threading.current_thread().name)


def claimed(idempotency: IdempotencyService, name: str = "k") -> KeyClaim:
    claim = idempotency.claim("", name, "f")
    assert isinstance(claim, KeyClaim)
    return claim


def test_each_claim_has_its_own_holder() -> None:
    keys = Keys()
    idempotency = IdempotencyService(keys, lambda: "w")
    claimed(idempotency).complete(RESPONSE)
    claimed(idempotency).release()
    first, kept, second, freed = keys.calls
    assert (first[:4], second[:4]) == (("claim", "", "k", "f"),) * 2
    assert first[4] != second[4]
    assert (first[4][:2], len(first[4])) == ("w/", 18)
    assert (kept, freed) == (("store", "", "k", first[4], RESPONSE), ("release", "", "k", second[4]))


def test_claim_of_a_used_key_replays_or_raises() -> None:
    keys = Keys()
    idempotency = IdempotencyService(keys, lambda: "w")
    keys.claim = COMPLETED
    assert idempotency.claim("", "k", "f") is RESPONSE
    for keys.claim, error in ((IN_PROGRESS, IdempotencyKeyInUse), (MISMATCH, IdempotencyKeyMismatch)):
        with pytest.raises(error):
            idempotency.claim("", "k", "f")


def test_claim_while_store_is_down_raises_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys()
    keys.fails = True
    with pytest.raises(Unavailable, match=r"The server's state store.*does not respond. Nothing was written") as raised:
        IdempotencyService(keys, lambda: "w").claim("", "k", "f")
    assert "secret" not in raised.value.message
    assert "secret" in caplog.text


def test_complete_and_release_are_retried_until_the_store_responds() -> None:
    keys = Keys()
    idempotency = IdempotencyService(keys, lambda: "w")
    first, second = claimed(idempotency, "1"), claimed(idempotency, "2")
    keys.calls.clear()
    keys.fails = True
    first.complete(RESPONSE)
    second.release()
    keys.fails = False
    wait_for(lambda: len(keys.calls) == 2, 5)
    assert [each[:3] for each in keys.calls] == [("store", "", "1"), ("release", "", "2")]
    idempotency.close(1)


def test_defer_does_not_block() -> None:
    keys = Keys()
    idempotency = IdempotencyService(keys, lambda: "w")
    claim, leave = claimed(idempotency), threading.Event()

    def complete() -> None:
        assert leave.wait(5)
        claim.complete(RESPONSE)

    claim.defer(complete)
    claim.defer(lambda: None)
    leave.set()
    idempotency.close(5)
    assert [each[0] for each in keys.calls] == ["claim", "store"]
    assert keys.threads == {threading.current_thread().name, "idempotency-keys"}


def test_exception_in_a_deferred_call_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys()
    idempotency = IdempotencyService(keys, lambda: "w")
    claim = claimed(idempotency)
    claim.defer(lambda: print(1 // 0))
    claim.defer(claim.release)
    idempotency.close(5)
    assert [each[0] for each in keys.calls] == ["claim", "release"]
    assert "ZeroDivisionError" in caplog.text


def test_close_returns_after_its_timeout() -> None:
    keys = Keys()
    idempotency = IdempotencyService(keys, lambda: "w")
    claim = claimed(idempotency)
    keys.fails = True
    claim.complete(RESPONSE)
    began = time.monotonic()
    idempotency.close(0.2)
    assert 0.1 < time.monotonic() - began < scaled(1)


def test_fingerprint_depends_on_the_boundaries_of_parts() -> None:
    assert len(fingerprint([b"a", b"bc"])) == 64
    assert len({fingerprint(each) for each in ([b"a", b"bc"], [b"ab", b"c"], [b"abc"], [b"abc", b""])}) == 4
