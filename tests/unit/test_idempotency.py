"""Idempotency keys: the same in memory, in SQLite and in a real PostgreSQL; and what is done until one is concluded."""

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
from kafka_http.publish.idempotency_keys import IdempotencyKeys, IdempotencyService, KeyClaim, fingerprint
from kafka_http.publish.memory_idempotency_keys import MemoryIdempotencyKeys
from kafka_http.records import KeyClaimResult, StoredResponse
from tests.attempts import scaled, wait_for

ANSWER = StoredResponse(207, {"Content-Type": "application/json", "Retry-After": "1"}, b'{"\xc3\xbc": "\x00\xff"}')
OWN, RUNNING, OTHER, KEPT = (
    KeyClaimResult("own"),
    KeyClaimResult("running"),
    KeyClaimResult("other"),
    KeyClaimResult("kept", ANSWER),
)

_nodes: list[NodeIdempotencyKeys] = []
"""Those that the test has made."""


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
    """The keys as the daemon of a node has them that has these workers."""
    made = NodeIdempotencyKeys(StoredKeys(database, name), return_seconds, clean_interval=0.02)
    made.start(lambda worker: worker in workers)
    _nodes.append(made)
    return made


def test_a_key_is_had_by_one_request(keys: IdempotencyKeys) -> None:
    assert keys.claim_key("", "k", "f", "w/1") == OWN
    assert keys.claim_key("", "k", "f", "w/1") == OWN
    assert keys.claim_key("", "k", "f", "w/2") == RUNNING
    assert keys.claim_key("", "k", "f", "v/1") == RUNNING
    assert keys.claim_key("", "k", "g", "v/1") == OTHER
    assert keys.claim_key("", "K", "f", "w/2") == OWN
    assert keys.claim_key("me", "k", "f", "w/2") == OWN


def test_an_answer_is_for_the_same_request(keys: IdempotencyKeys) -> None:
    keys.claim_key("", "k", "f", "w/1")
    for _ in range(2):
        keys.keep_answer("", "k", "w/1", ANSWER)
        assert keys.claim_key("", "k", "f", "v/2") == KEPT
        assert keys.claim_key("", "k", "g", "v/2") == OTHER
    keys.free_key("", "k", "w/1")
    keys.keep_answer("", "k", "v/2", StoredResponse(200, {}, b"another"))
    assert keys.claim_key("", "k", "f", "v/2") == KEPT


def test_a_key_that_is_freed_is_for_the_next(keys: IdempotencyKeys) -> None:
    keys.claim_key("", "k", "f", "w/1")
    keys.free_key("", "k", "w/2")
    assert keys.claim_key("", "k", "f", "w/3") == RUNNING
    for _ in range(2):
        keys.free_key("", "k", "w/1")
    keys.keep_answer("", "k", "w/1", ANSWER)
    assert keys.claim_key("", "k", "g", "w/3") == OWN


def test_a_large_answer(keys: IdempotencyKeys) -> None:
    keys.claim_key("", "k", "f", "w/1")
    large = StoredResponse(200, {"Content-Type": "application/json"}, b"x" * 12_000_000)
    keys.keep_answer("", "k", "w/1", large)
    assert keys.claim_key("", "k", "f", "w/2") == KeyClaimResult("kept", large)


def test_of_many_at_once_one_has_the_key(keys: IdempotencyKeys) -> None:
    gate = threading.Barrier(8)

    def claim(number: int) -> list[str]:
        gate.wait()
        return [keys.claim_key("", f"k{each}", "f", f"w/{number}").state for each in range(50)]

    with ThreadPoolExecutor(8) as pool:
        states = [state for each in pool.map(claim, range(8)) for state in each]
    assert Counter(states) == {"own": 50, "running": 350}


def test_memory_forgets_answers_that_are_old() -> None:
    keys = MemoryIdempotencyKeys(0.05)
    for name in "kl":
        keys.claim_key("", name, "f", "w/1")
    keys.keep_answer("", "k", "w/1", ANSWER)
    wait_for(lambda: keys.claim_key("", "k", "g", "w/2") == OWN, 5)
    assert keys.claim_key("", "l", "f", "w/2") == RUNNING


def count(database: Database) -> int:
    return database.write(lambda connection: connection.scalar(select(func.count()).select_from(idempotency_keys)) or 0)


def age(database: Database, seconds: float) -> None:
    older = update(idempotency_keys).values(created=idempotency_keys.c.created - seconds)
    database.write(lambda connection: connection.execute(older))


def test_an_answer_that_is_old_is_kept_no_longer(database: Database) -> None:
    store = StoredKeys(database, "n1", retention=60)
    store.claim("", "k", "f", "w/1", lambda _: False)
    store.keep("", "k", "w/1", ANSWER)
    age(database, 50)
    assert store.claim("", "k", "g", "w/2", lambda _: False) == OTHER
    age(database, 11)
    assert store.claim("", "k", "g", "w/2", lambda _: False) == OWN
    assert store.claim("", "k", "g", "w/3", lambda _: False) == RUNNING


def test_old_answers_are_removed_by_and_by(database: Database) -> None:
    store = StoredKeys(database, "n1", retention=60)
    for name in "abcde":
        store.claim("", name, "f", "w/1", lambda _: False)
        if name != "a":
            store.keep("", name, "w/1", ANSWER)
    assert store.remove_expired(10) == 0
    age(database, 61)
    assert [store.remove_expired(3) for _ in range(3)] == [3, 1, 0]
    assert count(database) == 1  # of a request that is under way


def test_the_keys_of_a_worker_that_is_gone_are_free(database: Database) -> None:
    workers = {"w", "v"}
    keys = node(database, workers=workers)
    for worker in workers:
        keys.claim_key("", worker, "f", f"{worker}/1")
    keys.claim_key("", "kept", "f", "w/1")
    keys.keep_answer("", "kept", "w/1", ANSWER)
    workers.remove("w")
    assert keys.claim_key("", "w", "g", "v/2") == OWN
    assert keys.claim_key("", "v", "f", "v/2") == RUNNING
    assert keys.claim_key("", "kept", "f", "v/2") == KEPT
    keys.keep_answer("", "w", "w/1", ANSWER)
    assert keys.claim_key("", "w", "g", "v/3") == RUNNING
    keys.close()


def test_keys_of_workers_that_are_gone_are_cleared_away(database: Database) -> None:
    workers = {"w", "v"}
    keys = node(database, workers=workers)
    for worker in ("w", "v"):
        keys.claim_key("", worker, "f", f"{worker}/1")
    workers.remove("w")
    wait_for(lambda: count(database) == 1, 5)
    assert keys.claim_key("", "v", "f", "v/2") == RUNNING
    assert StoredKeys(database, "n1").has_running()
    keys.close()
    assert not StoredKeys(database, "n1").has_running()


def test_workers_have_time_to_come_to_the_daemon_after_one_that_died(database: Database) -> None:
    node(database).claim_key("", "k", "f", "w/1")
    keys = node(database, workers=("v",), return_seconds=0.5)
    assert keys.claim_key("", "k", "f", "v/1") == RUNNING
    wait_for(lambda: keys.claim_key("", "k", "f", "v/1") == OWN, 5)
    keys.close()


def test_the_keys_of_another_node_are_free_when_its_lease_has_run_out(database: Database) -> None:
    first, second = node(database, "n1"), node(database, "n2")
    lease = StoredNodes(database, "n1", "http://one")
    lease.renew_lease()
    for name in "kl":
        first.claim_key("", name, "f", "w/1")
    first.keep_answer("", "l", "w/1", ANSWER)
    assert second.claim_key("", "k", "f", "w/2") == RUNNING
    over = update(nodes).values(leased_until=nodes.c.leased_until - LEASE_SECONDS)
    database.write(lambda connection: connection.execute(over))
    assert second.claim_key("", "k", "f", "w/2") == OWN
    assert second.claim_key("", "l", "f", "w/2") == KEPT
    assert first.claim_key("", "k", "f", "w/3") == OWN  # the second has no lease at all
    first.close()
    second.close()


class Keys:
    """`IdempotencyKeys` that note what is asked of them, and can fail."""

    def __init__(self) -> None:
        self.claim = OWN
        self.fails = False
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[str] = set()

    def claim_key(self, *asked: Any) -> KeyClaimResult:
        self._note("claim", asked)
        return self.claim

    def keep_answer(self, *asked: Any) -> None:
        self._note("keep", asked)

    def free_key(self, *asked: Any) -> None:
        self._note("free", asked)

    def _note(self, call: str, asked: tuple[Any, ...]) -> None:
        if self.fails:
            raise Unavailable("The file /secret cannot be opened.")
        self.calls.append((call, *asked))
        self.threads.add(threading.current_thread().name)


def claimed(idempotency: IdempotencyService, name: str = "k") -> KeyClaim:
    attempt = idempotency.claim("", name, "f")
    assert isinstance(attempt, KeyClaim)
    return attempt


def test_each_attempt_is_a_holder_of_its_own() -> None:
    keys = Keys()
    idempotency = IdempotencyService(keys, lambda: "w")
    claimed(idempotency).keep(ANSWER)
    claimed(idempotency).free()
    first, kept, second, freed = keys.calls
    assert (first[:4], second[:4]) == (("claim", "", "k", "f"),) * 2
    assert first[4] != second[4]
    assert (first[4][:2], len(first[4])) == ("w/", 18)
    assert (kept, freed) == (("keep", "", "k", first[4], ANSWER), ("free", "", "k", second[4]))


def test_what_a_key_is_to_others() -> None:
    keys = Keys()
    idempotency = IdempotencyService(keys, lambda: "w")
    keys.claim = KEPT
    assert idempotency.claim("", "k", "f") is ANSWER
    for keys.claim, error in ((RUNNING, IdempotencyKeyInUse), (OTHER, IdempotencyKeyMismatch)):
        with pytest.raises(error):
            idempotency.claim("", "k", "f")


def test_no_key_can_be_had(caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys()
    keys.fails = True
    with pytest.raises(Unavailable, match=r"Nothing was written: the server's state store.*does not answer") as raised:
        IdempotencyService(keys, lambda: "w").claim("", "k", "f")
    assert "secret" not in raised.value.message
    assert "secret" in caplog.text


def test_what_cannot_be_concluded_at_once_is_concluded_later() -> None:
    keys = Keys()
    idempotency = IdempotencyService(keys, lambda: "w")
    first, second = claimed(idempotency, "1"), claimed(idempotency, "2")
    keys.calls.clear()
    keys.fails = True
    first.keep(ANSWER)
    second.free()
    keys.fails = False
    wait_for(lambda: len(keys.calls) == 2, 5)
    assert [each[:3] for each in keys.calls] == [("keep", "", "1"), ("free", "", "2")]
    idempotency.close(1)


def test_what_comes_later_holds_nobody_up() -> None:
    keys = Keys()
    idempotency = IdempotencyService(keys, lambda: "w")
    attempt, leave = claimed(idempotency), threading.Event()

    def conclude() -> None:
        assert leave.wait(5)
        attempt.keep(ANSWER)

    attempt.later(conclude)
    attempt.later(lambda: None)
    leave.set()
    idempotency.close(5)
    assert [each[0] for each in keys.calls] == ["claim", "keep"]
    assert keys.threads == {threading.current_thread().name, "idempotency-keys"}


def test_a_defect_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys()
    idempotency = IdempotencyService(keys, lambda: "w")
    attempt = claimed(idempotency)
    attempt.later(lambda: print(1 // 0))
    attempt.later(attempt.free)
    idempotency.close(5)
    assert [each[0] for each in keys.calls] == ["claim", "free"]
    assert "ZeroDivisionError" in caplog.text


def test_an_end_does_not_wait_for_ever() -> None:
    keys = Keys()
    idempotency = IdempotencyService(keys, lambda: "w")
    attempt = claimed(idempotency)
    keys.fails = True
    attempt.keep(ANSWER)
    began = time.monotonic()
    idempotency.close(0.2)
    assert 0.1 < time.monotonic() - began < scaled(1)


def test_a_fingerprint_is_of_each_part() -> None:
    assert len(fingerprint([b"a", b"bc"])) == 64
    assert len({fingerprint(each) for each in ([b"a", b"bc"], [b"ab", b"c"], [b"abc"], [b"abc", b""])}) == 4
