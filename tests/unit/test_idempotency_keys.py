"""Idempotency keys: the same tests for memory, SQLite and a real PostgreSQL; and the service on top of them."""

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import ANY, Mock
from uuid import uuid4

import pytest
from sqlalchemy import func, select, update

from kafka_http.errors import IdempotencyKeyInUse, IdempotencyKeyMismatch, KafkaHttpError, Unavailable
from kafka_http.node.daemon_services import NodeIdempotencyKeys
from kafka_http.node.store import Database, StoredKeys, StoredNodes, open_database
from kafka_http.node.store.stored_nodes import LEASE_SECONDS
from kafka_http.node.store.tables import idempotency_keys, nodes
from kafka_http.publish.batch_submitter import PendingItem
from kafka_http.publish.idempotency_keys import (
    IdempotencyKeys,
    IdempotencyService,
    KeyClaim,
    MemoryIdempotencyKeys,
    fingerprint,
)
from kafka_http.records import ClaimEnd, ClaimRequest, KeyClaimResult, StoredResponse
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


def claim(keys: Any, caller: str, name: str, fingerprint: str, holder: str) -> KeyClaimResult:
    """Claim one key."""
    results: list[KeyClaimResult] = keys.update_keys([ClaimRequest(caller, name, fingerprint, holder)], [])
    assert len(results) == 1
    return results[0]


def end(keys: Any, caller: str, name: str, holder: str, response: StoredResponse | None = None) -> None:
    """Store the response to a key, or release the key."""
    assert keys.update_keys([], [ClaimEnd(caller, name, holder, response)]) == []


def test_claim_key_gives_a_key_to_one_request(keys: IdempotencyKeys) -> None:
    assert claim(keys, "", "k", "f", "w/1") == CLAIMED
    assert claim(keys, "", "k", "f", "w/1") == CLAIMED
    assert claim(keys, "", "k", "f", "w/2") == IN_PROGRESS
    assert claim(keys, "", "k", "f", "v/1") == IN_PROGRESS
    assert claim(keys, "", "k", "g", "v/1") == MISMATCH
    assert claim(keys, "", "K", "f", "w/2") == CLAIMED
    assert claim(keys, "me", "k", "f", "w/2") == CLAIMED


def test_stored_response_is_replayed_to_the_same_request_only(keys: IdempotencyKeys) -> None:
    claim(keys, "", "k", "f", "w/1")
    for _ in range(2):
        end(keys, "", "k", "w/1", RESPONSE)
        assert claim(keys, "", "k", "f", "v/2") == COMPLETED
        assert claim(keys, "", "k", "g", "v/2") == MISMATCH
    end(keys, "", "k", "w/1")
    end(keys, "", "k", "v/2", StoredResponse(200, {}, b"another"))
    assert claim(keys, "", "k", "f", "v/2") == COMPLETED


def test_released_key_can_be_claimed_again(keys: IdempotencyKeys) -> None:
    claim(keys, "", "k", "f", "w/1")
    end(keys, "", "k", "w/2")
    assert claim(keys, "", "k", "f", "w/3") == IN_PROGRESS
    for _ in range(2):
        end(keys, "", "k", "w/1")
    end(keys, "", "k", "w/1", RESPONSE)
    assert claim(keys, "", "k", "g", "w/3") == CLAIMED


def test_large_response_is_stored(keys: IdempotencyKeys) -> None:
    claim(keys, "", "k", "f", "w/1")
    large = StoredResponse(200, {"Content-Type": "application/json"}, b"x" * 12_000_000)
    end(keys, "", "k", "w/1", large)
    assert claim(keys, "", "k", "f", "w/2") == KeyClaimResult("completed", large)


def test_concurrent_claims_give_the_key_to_one_request(keys: IdempotencyKeys) -> None:
    gate = threading.Barrier(8)

    def claim_all(number: int) -> list[str]:
        gate.wait()
        return [claim(keys, "", f"k{each}", "f", f"w/{number}").state for each in range(50)]

    with ThreadPoolExecutor(8) as pool:
        states = [state for each in pool.map(claim_all, range(8)) for state in each]
    assert Counter(states) == {"claimed": 50, "in_progress": 350}


def test_memory_removes_responses_after_the_retention() -> None:
    keys = MemoryIdempotencyKeys(0.05)
    for name in "kl":
        claim(keys, "", name, "f", "w/1")
    end(keys, "", "k", "w/1", RESPONSE)
    wait_for(lambda: claim(keys, "", "k", "g", "w/2") == CLAIMED, 5)
    assert claim(keys, "", "l", "f", "w/2") == IN_PROGRESS


class Stored(StoredKeys):
    """The keys of a store whose workers are not gone."""

    def update_keys(self, claims: Sequence[ClaimRequest], ends: Sequence[ClaimEnd]) -> list[KeyClaimResult]:
        return self.update(claims, ends, lambda _: False)


def test_batch_gives_a_key_to_the_first_of_its_claims(keys: IdempotencyKeys) -> None:
    claim(keys, "", "done", "f", "w/0")
    end(keys, "", "done", "w/0", RESPONSE)
    claims = [
        ClaimRequest("", name, fingerprint, f"w/{number}")
        for number, (name, fingerprint) in enumerate(["kf", "lf", "kf", "kg", "mf", ("done", "f"), ("done", "g"), "lf"])
    ]
    results = [CLAIMED, CLAIMED, IN_PROGRESS, MISMATCH, CLAIMED, COMPLETED, MISMATCH, IN_PROGRESS]
    assert keys.update_keys(claims, []) == results
    assert keys.update_keys(claims, []) == results  # a lost response: the call is repeated


def test_batch_ends_claims_and_claims_others(keys: IdempotencyKeys) -> None:
    keys.update_keys([ClaimRequest("", name, "f", f"w/{name}") for name in "abc"], [])
    ends = [
        *(ClaimEnd("", "a", "w/a", RESPONSE), ClaimEnd("", "b", "w/b", None)),
        *(ClaimEnd("", "c", "w/x", RESPONSE), ClaimEnd("", "c", "w/x", None), ClaimEnd("", "new", "w/x", RESPONSE)),
    ]
    assert keys.update_keys([ClaimRequest("", "d", "f", "w/d")], ends) == [CLAIMED]
    claims = [ClaimRequest("", name, "f", "w/2") for name in ("a", "b", "c", "d", "new")]
    assert keys.update_keys(claims, []) == [COMPLETED, CLAIMED, IN_PROGRESS, IN_PROGRESS, CLAIMED]


def test_batch_of_replays_returns_the_first_that_fit_in_a_message(database: Database) -> None:
    store = Stored(database, "n1")
    large = StoredResponse(200, {"Content-Type": "application/json"}, b"x" * 12_000_000)
    names = "abc"
    store.update_keys([ClaimRequest("", each, "f", "w/1") for each in names], [])
    for each in names:
        end(store, "", each, "w/1", large)
    claims = [ClaimRequest("", each, "f", "w/2") for each in ("new", *names)]
    assert store.update_keys(claims, []) == [CLAIMED, KeyClaimResult("completed", large)]
    idempotency = IdempotencyService(store, lambda: "w")
    assert [idempotency.claim("", each, "f").result(10) for each in names] == [large] * 3
    idempotency.close(1)


def test_keys_of_an_ended_worker_can_be_claimed_in_a_batch_by_one_request(database: Database) -> None:
    workers = {"v"}
    keys = node(database, workers=workers, return_seconds=60)
    claim(keys, "", "k", "f", "w/1")
    claims = [ClaimRequest("", "k", "g", f"v/{number}") for number in range(2)]
    wait_for(lambda: (results := keys.update_keys(claims, [])) and results == [CLAIMED, IN_PROGRESS], 5)


def test_batch_on_a_full_disk_ends_claims_and_replays(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only new keys are refused: they would take the space for the responses of others."""
    store = Stored(database, "n1")
    store.update_keys([ClaimRequest("", name, "f", "w/1") for name in "ab"], [])
    end(store, "", "a", "w/1", RESPONSE)
    with monkeypatch.context() as patched:
        patched.setattr(database, "check_space", Mock(side_effect=Unavailable("The disk is almost full.")))
        claims = [ClaimRequest("", name, "f", "w/2") for name in "abc"]
        results = store.update_keys(claims, [ClaimEnd("", "b", "w/1", RESPONSE)])
    assert results == [COMPLETED, IN_PROGRESS, KeyClaimResult("unavailable")]
    assert claim(store, "", "b", "f", "w/2") == COMPLETED


def count(database: Database) -> int:
    return database.write(lambda connection: connection.scalar(select(func.count()).select_from(idempotency_keys)) or 0)


def age(database: Database, seconds: float) -> None:
    older = update(idempotency_keys).values(created=idempotency_keys.c.created - seconds)
    database.write(lambda connection: connection.execute(older))


def test_response_is_not_replayed_after_the_retention(database: Database) -> None:
    store = Stored(database, "n1", retention=60)
    claim(store, "", "k", "f", "w/1")
    end(store, "", "k", "w/1", RESPONSE)
    age(database, 50)
    assert claim(store, "", "k", "g", "w/2") == MISMATCH
    age(database, 11)
    assert claim(store, "", "k", "g", "w/2") == CLAIMED
    assert claim(store, "", "k", "g", "w/3") == IN_PROGRESS


def test_remove_old_deletes_expired_responses_in_batches(database: Database) -> None:
    store = Stored(database, "n1", retention=60)
    for name in "abcde":
        claim(store, "", name, "f", "w/1")
        if name != "a":
            end(store, "", name, "w/1", RESPONSE)
    assert store.remove_expired(10) == 0
    age(database, 61)
    assert [store.remove_expired(3) for _ in range(3)] == [3, 1, 0]
    assert count(database) == 1  # of a request that is under way


def test_keys_of_an_ended_worker_can_be_claimed(database: Database) -> None:
    workers = {"w", "v"}
    keys = node(database, workers=workers)
    for worker in workers:
        claim(keys, "", worker, "f", f"{worker}/1")
    claim(keys, "", "kept", "f", "w/1")
    end(keys, "", "kept", "w/1", RESPONSE)
    workers.remove("w")
    assert claim(keys, "", "w", "g", "v/2") == CLAIMED
    assert claim(keys, "", "v", "f", "v/2") == IN_PROGRESS
    assert claim(keys, "", "kept", "f", "v/2") == COMPLETED
    end(keys, "", "w", "w/1", RESPONSE)
    assert claim(keys, "", "w", "g", "v/3") == IN_PROGRESS
    keys.close()


def test_keys_of_an_ended_worker_are_deleted(database: Database) -> None:
    workers = {"w", "v"}
    keys = node(database, workers=workers)
    for worker in ("w", "v"):
        claim(keys, "", worker, "f", f"{worker}/1")
    workers.remove("w")
    wait_for(lambda: count(database) == 1, 5)
    assert claim(keys, "", "v", "f", "v/2") == IN_PROGRESS
    assert StoredKeys(database, "n1").has_running()
    keys.close()
    assert not StoredKeys(database, "n1").has_running()


def test_restarted_daemon_waits_for_workers_before_it_frees_their_keys(database: Database) -> None:
    claim(node(database), "", "k", "f", "w/1")
    keys = node(database, workers=("v",), return_seconds=0.5)
    assert claim(keys, "", "k", "f", "v/1") == IN_PROGRESS
    wait_for(lambda: claim(keys, "", "k", "f", "v/1") == CLAIMED, 5)
    keys.close()


def test_keys_of_another_node_can_be_claimed_after_its_lease_has_expired(database: Database) -> None:
    first, second = node(database, "n1"), node(database, "n2")
    lease = StoredNodes(database, "n1", "http://one")
    lease.renew_lease()
    for name in "kl":
        claim(first, "", name, "f", "w/1")
    end(first, "", "l", "w/1", RESPONSE)
    assert claim(second, "", "k", "f", "w/2") == IN_PROGRESS
    over = update(nodes).values(leased_until=nodes.c.leased_until - LEASE_SECONDS)
    database.write(lambda connection: connection.execute(over))
    assert claim(second, "", "k", "f", "w/2") == CLAIMED
    assert claim(second, "", "l", "f", "w/2") == COMPLETED
    assert claim(first, "", "k", "f", "w/3") == CLAIMED  # the second has no lease at all
    first.close()
    second.close()


class Keys:
    """`IdempotencyKeys` that record their calls and can fail or block."""

    def __init__(self) -> None:
        self.state = CLAIMED
        self.error: KafkaHttpError | None = None
        self.calls: list[tuple[Sequence[ClaimRequest], Sequence[ClaimEnd]]] = []
        self.threads: set[str] = set()
        self.entered, self.leave = threading.Event(), threading.Event()
        self.leave.set()

    @property
    def ends(self) -> list[ClaimEnd]:
        return [end for _, ends in self.calls for end in ends]

    def update_keys(self, claims: Sequence[ClaimRequest], ends: Sequence[ClaimEnd]) -> list[KeyClaimResult]:
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.leave.wait(10)
        if self.error is not None:
            raise self.error
        self.calls.append((claims, ends))
        return [self.state] * len(claims)


DOWN = Unavailable("The file /secret cannot be opened.")


@pytest.fixture
def stub() -> Keys:
    return Keys()


@pytest.fixture
def idempotency(stub: Keys) -> Iterator[IdempotencyService]:
    service = IdempotencyService(stub, lambda: "w")
    yield service
    service.close(0)


def claimed(idempotency: IdempotencyService, name: str = "k") -> KeyClaim:
    claim = idempotency.claim("", name, "f").result(5)
    assert isinstance(claim, KeyClaim)
    return claim


def test_each_claim_has_its_own_holder(stub: Keys, idempotency: IdempotencyService) -> None:
    claimed(idempotency).complete(RESPONSE).result(5)
    claimed(idempotency).release().result(5)
    ((first,), _), (_, (kept,)), ((second,), _), (_, (freed,)) = stub.calls
    assert (first.caller, first.name, first.fingerprint) == (second.caller, second.name, second.fingerprint)
    assert (first.caller, first.name, first.fingerprint) == ("", "k", "f")
    assert first.holder != second.holder
    assert (first.holder[:2], len(first.holder)) == ("w/", 18)
    assert (kept, freed) == (ClaimEnd("", "k", first.holder, RESPONSE), ClaimEnd("", "k", second.holder, None))


def test_claim_of_a_used_key_replays_or_raises(stub: Keys, idempotency: IdempotencyService) -> None:
    stub.state = COMPLETED
    assert idempotency.claim("", "k", "f").result(5) is RESPONSE
    for stub.state, error in ((IN_PROGRESS, IdempotencyKeyInUse), (MISMATCH, IdempotencyKeyMismatch)):
        with pytest.raises(error):
            idempotency.claim("", "k", "f").result(5)


def test_claim_while_store_is_down_raises_unavailable(
    stub: Keys, idempotency: IdempotencyService, caplog: pytest.LogCaptureFixture
) -> None:
    stub.error = DOWN
    with pytest.raises(Unavailable, match=r"The server's state store.*does not respond. Nothing was written") as raised:
        idempotency.claim("", "k", "f").result(5)
    assert not idempotency.is_responding
    assert "secret" not in raised.value.message
    assert "secret" in caplog.text


def test_claim_without_space_raises_unavailable(stub: Keys, idempotency: IdempotencyService) -> None:
    stub.state = KeyClaimResult("unavailable")
    with pytest.raises(Unavailable, match="Nothing was written"):
        idempotency.claim("", "k", "f").result(5)


def test_calls_that_arrive_during_a_call_share_the_next_one(stub: Keys, idempotency: IdempotencyService) -> None:
    open_claims = [claimed(idempotency, name) for name in "ab"]
    stub.calls.clear()
    stub.entered.clear()
    stub.leave.clear()
    first = idempotency.claim("", "first", "f")
    assert stub.entered.wait(5)
    pending: list[PendingItem[Any, Any]] = [idempotency.claim("", name, "f") for name in "cd"]
    pending += [open_claims[0].complete(RESPONSE), open_claims[1].release(), idempotency.claim("", "e", "f")]
    assert not any(each.is_done for each in (first, *pending))
    stub.leave.set()
    assert [type(each.result(5)) for each in pending] == [KeyClaim, KeyClaim, type(None), type(None), KeyClaim]
    shared = [([each.name for each in claims], [each.name for each in ends]) for claims, ends in stub.calls]
    assert shared == [(["first"], []), (["c", "d", "e"], ["a", "b"])]


def test_claims_of_a_main_loop_wait_for_the_end_of_its_round(stub: Keys, idempotency: IdempotencyService) -> None:
    idempotency.attach()
    first = idempotency.claim("", "a", "f")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(claimed, idempotency, "of a thread").result(5)
    second = idempotency.claim("", "b", "f")
    assert not first.is_done
    idempotency.end_round()
    second.result(5)
    assert [[each.name for each in claims] for claims, _ in stub.calls] == [["of a thread"], ["a", "b"]]


def test_each_request_of_a_failed_batch_gets_its_response(stub: Keys, idempotency: IdempotencyService) -> None:
    """Its responses and releases are repeated without its claims, which got a 503."""
    first, second = claimed(idempotency, "1"), claimed(idempotency, "2")
    idempotency.attach()
    stub.calls.clear()
    stub.error = DOWN
    pending = [idempotency.claim("", name, "f") for name in "abc"]
    ended = [first.complete(RESPONSE), second.release()]
    idempotency.end_round()
    for each in pending:
        with pytest.raises(Unavailable, match="Nothing was written"):
            each.result(5)
    assert [each.result(5) for each in ended] == [None, None]
    stub.error = None
    wait_for(lambda: len(stub.ends) == 2, 5)
    assert stub.calls == [((), [ClaimEnd("", "1", ANY, RESPONSE), ClaimEnd("", "2", ANY, None)])]


def test_claims_of_a_call_whose_repetition_failed_are_released(stub: Keys, idempotency: IdempotencyService) -> None:
    """The store has claimed all keys, but has returned the results of the first only."""
    idempotency.attach()
    update, calls = stub.update_keys, 0

    def update_once(claims: Sequence[ClaimRequest], ends: Sequence[ClaimEnd]) -> list[KeyClaimResult]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise DOWN
        return update(claims, ends)[:1]

    stub.update_keys = update_once  # type: ignore[method-assign]
    first, second = (idempotency.claim("", name, "f") for name in "ab")
    idempotency.end_round()
    assert isinstance(first.result(5), KeyClaim)
    with pytest.raises(Unavailable):
        second.result(5)
    wait_for(lambda: stub.ends, 5)
    assert stub.ends == [ClaimEnd("", "b", ANY, None)]


def test_complete_and_release_are_retried_until_the_store_responds(stub: Keys, idempotency: IdempotencyService) -> None:
    first, second = claimed(idempotency, "1"), claimed(idempotency, "2")
    stub.error = DOWN
    first.complete(RESPONSE).result(5)
    second.release().result(5)
    stub.error = None
    wait_for(lambda: len(stub.ends) == 2, 5)
    assert [(each.name, each.response) for each in stub.ends] == [("1", RESPONSE), ("2", None)]


def test_end_of_a_claim_that_the_store_rejects_does_not_stop_the_others(
    stub: Keys, idempotency: IdempotencyService, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = claimed(idempotency), claimed(idempotency)
    stub.error = KafkaHttpError("It is broken.")
    with pytest.raises(KafkaHttpError):
        first.complete(RESPONSE).result(5)
    wait_for(lambda: "ERROR" in caplog.text, 5)
    stub.error = None
    second.release().result(5)
    assert [each.response for each in stub.ends] == [None]


def test_complete_does_not_block(stub: Keys, idempotency: IdempotencyService) -> None:
    claim = claimed(idempotency)
    stub.leave.clear()
    pending = claim.complete(RESPONSE)
    assert not pending.is_done
    stub.leave.set()
    idempotency.close(5)
    assert pending.is_done
    assert [each.response for each in stub.ends] == [RESPONSE]
    assert stub.threads == {"idempotency-keys"}


def test_exception_in_a_callback_does_not_stop_the_others(
    stub: Keys, idempotency: IdempotencyService, caplog: pytest.LogCaptureFixture
) -> None:
    stub.leave.clear()
    pending = idempotency.claim("", "k", "f")
    pending.add_done_callback(lambda: print(1 // 0))
    stub.leave.set()
    claimed(idempotency).release()
    idempotency.close(5)
    assert [each.response for each in stub.ends] == [None]
    assert "ZeroDivisionError" in caplog.text


def test_close_returns_after_its_timeout(stub: Keys, idempotency: IdempotencyService) -> None:
    claim = claimed(idempotency)
    stub.error = DOWN
    claim.complete(RESPONSE)
    began = time.monotonic()
    idempotency.close(0.2)
    assert 0.1 < time.monotonic() - began < scaled(1)
    with pytest.raises(Unavailable, match="shutting down"):
        claim.release()


def test_close_waits_until_a_failed_response_is_stored(stub: Keys, idempotency: IdempotencyService) -> None:
    claim = claimed(idempotency)
    stub.error = DOWN
    claim.complete(RESPONSE).result(5)
    stub.error = None
    idempotency.close(5)
    assert [each.response for each in stub.ends] == [RESPONSE]


def test_fingerprint_depends_on_the_boundaries_of_parts() -> None:
    assert len(fingerprint([b"a", b"bc"])) == 64
    assert len({fingerprint(each) for each in ([b"a", b"bc"], [b"ab", b"c"], [b"abc"], [b"abc", b""])}) == 4
