"""The locks of a queue's messages, in random order: what clients, Kafka, dead letters and time do to them."""

import random

import pytest

from kafka_http.consumers.held_messages import HeldMessage
from kafka_http.consumers.message_leases import LeaseCall
from kafka_http.consumers.message_locks import MessageLocks
from kafka_http.errors import LeaseLost, OutcomeUnknown, Unavailable
from kafka_http.records import Record, RecordColumns
from kafka_http.share_groups import Acknowledgement, AckType, AcquiredRecords, ShareGroupSettings
from tests.support.clock import Clock

LOCK = 30.0


class Play:
    """A `MessageLocks`, and a Kafka that answers when the play says so."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.locks = MessageLocks(ShareGroupSettings(4, LOCK, 4000), "0.abc", self.clock)
        self.attempts: dict[int, int] = {}
        self.in_flight: dict[int, Acknowledgement] = {}
        self.letters: list[HeldMessage] = []
        self.leases: list[str] = []
        self.calls: list[LeaseCall] = []
        self.ended: dict[int, AckType] = {}
        self.written: set[int] = set()

    def step(self) -> None:
        steps = (self.acquire, self.lease, self.settle, self.answer, self.answer, self.write, self.wait, self.lose)
        self.random.choice(steps)()
        self.take_effects()
        assert self.locks.leased == sum(each.is_leased for each in self.locks.held)

    def take_effects(self) -> None:
        effects = self.locks.take_effects()
        for each in effects.acknowledgements:
            assert each.offset not in self.in_flight, "two acknowledgements of a message are in flight"
            assert each.offset not in self.ended, "a message was acknowledged twice"
            message = self.locks.held.get(0, each.offset)
            assert message is not None
            if each.type is AckType.REJECT and message.dead:
                assert each.offset in self.written, "a message was dropped without its dead letter"
            self.in_flight[each.offset] = each
        self.letters += effects.letters

    def acquire(self) -> None:
        """Acquire messages that are new or were released. Kafka has answered all acknowledgements of them before."""
        known = {*self.ended, *self.in_flight}
        free = [each for each in range(40) if self.locks.held.get(0, each) is None and each not in known]
        offsets = sorted(self.random.sample(free, min(len(free), 5)))
        if not offsets:
            return
        for each in offsets:
            self.attempts[each] = self.attempts.get(each, 0) + 1
        records = [Record("t", 0, each, None, None, b"", ()) for each in offsets]
        attempts = [self.attempts[each] for each in offsets]
        batch = AcquiredRecords(RecordColumns.from_records(records), attempts, self.clock.now + LOCK)
        self.locks.add(batch)
        self.locks.schedule_new(batch)

    def lease(self) -> None:
        lock, dead = self.random.choice((1, 10, LOCK, 100)), self.random.choice(("", "dead"))
        messages = self.locks.lease(self.random.randint(1, 5), lock, dead)
        self.leases += [each.lease for each in messages]

    def settle(self) -> None:
        leases = self.random.sample(self.leases, min(len(self.leases), 3))
        if self.random.random() < 0.1:
            self.locks.take_back(leases)
            return
        call = LeaseCall(leases, int, LeaseCall.complete)
        settlement = self.random.choice(("acknowledge", "reject", "release", "extend"))
        for each in leases:
            self.locks.settle(each, settlement, call, self.random.choice((1, 20, 200)))
        self.calls.append(call)

    def answer(self, error: bool = True) -> None:
        offsets = list(self.in_flight)
        for offset in self.random.sample(offsets, len(offsets) if not error else min(len(offsets), 3)):
            acknowledgement = self.in_flight.pop(offset)
            result = self.random.choice((None, None, LeaseLost(), OutcomeUnknown(""))) if error else None
            if result is None and acknowledgement.type in (AckType.ACCEPT, AckType.REJECT):
                self.ended[offset] = acknowledgement.type
            self.locks.acknowledged([(acknowledgement, result)])

    def write(self, error: bool = True) -> None:
        letters, self.letters = self.letters, []
        for each in letters:
            if error and self.random.random() < 0.5:
                self.locks.letter_failed(each, Unavailable(""), 2.0)
            else:
                self.written.add(each.record.offset)
                self.locks.letter_published(each)

    def wait(self, seconds: float | None = None) -> None:
        self.clock.now += self.random.choice((0.2, 1, 5, 40)) if seconds is None else seconds
        self.locks.check_due()

    def lose(self) -> None:
        if self.random.random() < 0.2:
            self.in_flight.clear()
            self.locks.lose([0])

    def finish(self) -> None:
        """Let Kafka answer all, and all locks end."""
        for _ in range(60):
            self.wait(5)
            self.take_effects()
            self.write(error=False)
            self.take_effects()
            self.answer(error=False)
            self.take_effects()


@pytest.mark.parametrize("seed", range(30))
def test_each_message_ends_once_and_each_call_is_answered(seed: int) -> None:
    play = Play(seed)
    for _ in range(300):
        play.step()
    play.finish()

    assert all(call.is_done for call in play.calls)
    # A message in its last attempt waits for a client, however long
    assert all(not each.lease and each.attempt == 3 for each in play.locks.held)
    assert play.locks.spare == len(list(play.locks.held))


@pytest.mark.parametrize(("dead", "kept"), [("", None), ("dead", b"large")])
def test_contents_of_sent_messages_are_kept_for_dead_letters_only(dead: str, kept: bytes | None) -> None:
    """Messages may be held for hours, each with up to a megabyte."""
    clock = Clock()
    locks = MessageLocks(ShareGroupSettings(4, LOCK, 4000), "0.abc", clock)
    records = RecordColumns.from_records([Record("t", 0, 0, None, b"key", b"large", ())])
    locks.add(AcquiredRecords(records, [1], clock.now + LOCK))
    [message] = locks.lease(1, LOCK, dead)

    locks.forget_contents([message.lease])

    assert message.record.value == kept
    assert (message.record.topic, message.record.partition, message.record.offset) == ("t", 0, 0)
