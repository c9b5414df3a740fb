"""The state machine of a partition against a broker that is played by hand.

Each line of the table of Kafka's answers has a test, and so has each bug that was found. Random sequences of all of
them check the promises: what is acknowledged is in the log once, at its offset and in order; what is reported as not
written is not in the log; nothing is there twice; each record gets a result.
"""

import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from kafka_http.broker.partition_queue import MAX_EPOCH, ProducerIdentity
from kafka_http.errors import (
    InvalidValue,
    NotAuthorized,
    OutcomePending,
    OutcomeUnknown,
    TooLarge,
    TopicNotFound,
)
from kafka_http.records import AppendedRecords, NewRecord, RecordMetadata
from tests.support.partition_play import (
    DUPLICATE,
    INVALID_EPOCH,
    OUT_OF_ORDER,
    UNKNOWN_PRODUCER,
    Answer,
    PartitionPlay,
)

UNKNOWN_SERVER_ERROR, CORRUPT, UNKNOWN_TOPIC, NOT_LEADER, TIMED_OUT, TOO_LARGE = -1, 2, 3, 6, 7, 10
LIST_TOO_LARGE, NOT_ENOUGH_REPLICAS, NOT_ENOUGH_AFTER_APPEND, TOPIC_REFUSED, INVALID_TIMESTAMP = 18, 19, 20, 29, 32
INVALID_REQUEST, UNSUPPORTED_FORMAT, STORAGE_ERROR, INVALID_RECORD, UNRECOGNIZED = 42, 43, 56, 87, 999

NEVER_WRITTEN = (CORRUPT, UNKNOWN_TOPIC, NOT_ENOUGH_REPLICAS)
PERHAPS_WRITTEN = (UNKNOWN_SERVER_ERROR, NOT_LEADER, TIMED_OUT, NOT_ENOUGH_AFTER_APPEND, STORAGE_ERROR)
UNNAMED = (INVALID_REQUEST, UNRECOGNIZED)
"""Errors that do not say whether the batch was written."""
SEQUENCE_ERRORS = (OUT_OF_ORDER, INVALID_EPOCH, UNKNOWN_PRODUCER)
REFUSALS = (*SEQUENCE_ERRORS, TOO_LARGE, LIST_TOO_LARGE, TOPIC_REFUSED, UNSUPPORTED_FORMAT, *UNNAMED)
NAMING = (INVALID_RECORD, INVALID_TIMESTAMP)

SEEDS, STEPS = 2000, 40


@pytest.fixture
def play() -> Iterator[PartitionPlay]:
    """At the end, everything is sent, and all promises are checked."""
    play = PartitionPlay()
    yield play
    play.finish()
    play.check()


# Kafka's answers, line by line


def test_acknowledged_records_have_consecutive_offsets(play: PartitionPlay) -> None:
    first, second = play.publish(b"a", b"b"), play.publish(NewRecord(b"c", key=b"k", headers=[("h", None)]))
    play.acknowledge()
    assert [each.offset for each in first.result(0)] == [0, 1]  # type: ignore[union-attr]
    assert list(second.result(0)) == [RecordMetadata(0, 2, second.created_ms)]


def test_all_waiting_publishes_share_a_batch(play: PartitionPlay) -> None:
    publishes = [play.publish(b"%d" % each) for each in range(10)]
    play.acknowledge()
    assert all(each.is_done for each in publishes)


def test_one_batch_is_in_flight_at_a_time(play: PartitionPlay) -> None:
    play.publish(b"a")
    assert play.send()
    play.publish(b"b")
    assert play.queue.next_batch(float("inf")) is None


def test_duplicate_sequence_number_is_written_at_an_unknown_offset(play: PartitionPlay) -> None:
    pending = play.publish(b"a", b"b")
    play.send()
    play.write()
    play.lose_connection()
    play.send()
    play.answer(DUPLICATE)
    assert list(pending.result(0)) == [RecordMetadata(0, -1, pending.created_ms)] * 2


def test_resent_batch_gets_the_offset_of_its_first_writing(play: PartitionPlay) -> None:
    play.publish(b"a")
    play.acknowledge()
    pending = play.publish(b"b")
    play.send()
    play.write()
    play.lose_connection()
    play.acknowledge()
    assert list(pending.result(0)) == [RecordMetadata(0, 1, pending.created_ms)]


def test_resent_batch_keeps_the_timestamps_of_its_records(play: PartitionPlay) -> None:
    """Kafka answers a duplicate with the batch's largest timestamp, as if the topic had LogAppendTime."""
    pending = play.publish(NewRecord(b"a", timestamp=1), NewRecord(b"b", timestamp=9), NewRecord(b"c"))
    play.send()
    play.write()
    play.lose_connection()
    play.acknowledge()
    assert [each.timestamp for each in pending.result(0)] == [1, 9, pending.created_ms]  # type: ignore[union-attr]


@pytest.mark.parametrize("is_resent", [False, True])
def test_append_time_of_the_broker_is_the_timestamp(is_resent: bool) -> None:
    play = PartitionPlay(append_time=1 << 50)
    pending = play.publish(NewRecord(b"a", timestamp=1), NewRecord(b"b"))
    play.send()
    if is_resent:
        play.write()
        play.lose_connection()
    play.acknowledge()
    assert list(pending.result(0)) == [RecordMetadata(0, 0, 1 << 50), RecordMetadata(0, 1, 1 << 50)]


@pytest.mark.parametrize("error", [UNKNOWN_TOPIC, NOT_LEADER, STORAGE_ERROR])
def test_moved_leader_is_retried_after_new_metadata(play: PartitionPlay, error: int) -> None:
    pending = play.publish(b"a")
    play.send()
    assert play.answer(error)
    play.acknowledge()
    assert list(pending.result(0)) == [RecordMetadata(0, 0, pending.created_ms)]


@pytest.mark.parametrize("error", [NOT_ENOUGH_REPLICAS, CORRUPT, UNKNOWN_SERVER_ERROR, TIMED_OUT])
def test_transient_error_is_retried_without_new_metadata(play: PartitionPlay, error: int) -> None:
    play.publish(b"a")
    play.send()
    assert not play.answer(error)
    play.acknowledge()


def test_refusal_after_an_error_before_the_append_is_not_written(play: PartitionPlay) -> None:
    pending = play.publish(b"a")
    play.send()
    play.answer(NOT_ENOUGH_REPLICAS)
    play.send()
    play.answer(TOPIC_REFUSED)
    assert isinstance(pending.result(0)[0], NotAuthorized)


@pytest.mark.parametrize("error", PERHAPS_WRITTEN)
def test_refusal_after_an_error_that_may_follow_the_append_is_unknown(play: PartitionPlay, error: int) -> None:
    """A leader that has appended a batch and then loses its role answers "not leader", too (DelayedProduce)."""
    pending = play.publish(b"a")
    play.send()
    play.write()
    play.answer(error)
    play.send()
    play.answer(TOPIC_REFUSED)
    assert isinstance(pending.result(0)[0], OutcomeUnknown)


@pytest.mark.parametrize("error", SEQUENCE_ERRORS)
def test_sequence_error_is_sent_again_in_the_next_epoch(play: PartitionPlay, error: int) -> None:
    play.publish(b"a")
    play.acknowledge()
    pending = play.publish(b"b")
    play.send()
    play.answer(error)
    assert play.queue.epoch == 1
    play.acknowledge()
    assert list(pending.result(0)) == [RecordMetadata(0, 1, pending.created_ms)]


@pytest.mark.parametrize("error", SEQUENCE_ERRORS)
def test_sequence_error_after_a_lost_connection_is_unknown(play: PartitionPlay, error: int) -> None:
    pending = play.publish(b"a")
    play.send()
    play.write()
    play.lose_connection()
    play.send()
    play.answer(error)
    assert isinstance(pending.result(0)[0], OutcomeUnknown)


def test_batch_that_ends_between_two_epochs_leaves_the_sequence_at_0(play: PartitionPlay) -> None:
    """Its numbers are of the epoch before: in the new one, Kafka expects 0."""
    play.publish(b"a")
    play.acknowledge()
    play.publish(b"b", lifetime=1)
    play.send()
    play.answer(INVALID_EPOCH)
    play.let_pass(2)
    pending = play.publish(b"c")
    play.send()
    assert play.in_flight is not None
    assert (play.in_flight.identity.epoch, play.in_flight.sequence) == (1, 0)
    play.answer(play.write())
    assert isinstance(pending.result(0)[0], RecordMetadata)


@pytest.mark.parametrize("error", [TOO_LARGE, LIST_TOO_LARGE])
def test_too_large_batch_is_split(play: PartitionPlay, error: int) -> None:
    pending = play.publish(*[b"%d" % each * 100 for each in range(10)])
    play.send()
    play.answer(error)
    play.send()
    assert play.in_flight is not None
    assert 1 <= play.in_flight.count < 10
    play.answer(play.write())
    assert any(isinstance(each, OutcomePending) for each in pending.result(0))
    play.finish()
    assert [each.offset for each in pending.result(0)] == list(range(10))  # type: ignore[union-attr]


def test_records_that_wait_again_stay_before_later_ones(play: PartitionPlay) -> None:
    play.publish(b"a" * 100, b"b" * 100)
    play.send()
    play.publish(b"later")
    play.answer(TOO_LARGE)
    play.finish()
    assert [each.name[:1] for each in play.log.records] == [b"a", b"b", b"l"]


def test_batch_size_stays_small_after_a_batch_was_too_large(play: PartitionPlay) -> None:
    records = [b"%d" % each * 100 for each in range(10)]
    play.publish(*records)
    play.send()
    play.answer(TOO_LARGE)
    play.finish()
    play.publish(*[b"again" + each for each in records])
    play.send()
    assert play.in_flight is not None
    assert play.in_flight.count < 10


def test_too_large_record_is_rejected(play: PartitionPlay) -> None:
    pending = play.publish(b"a")
    play.send()
    play.answer(TOO_LARGE)
    assert isinstance(pending.result(0)[0], TooLarge)


@pytest.mark.parametrize("error", NAMING)
def test_named_records_are_rejected_and_the_others_are_written(play: PartitionPlay, error: int) -> None:
    first = play.publish(NewRecord(b"a"), NewRecord(b"bad", timestamp=1))
    second = play.publish(NewRecord(b"c"))
    play.send()
    play.answer(error, 1)
    play.acknowledge()
    assert isinstance(first.result(0)[1], InvalidValue)
    assert [each.name for each in play.log.records] == [b"a", b"c"]
    assert isinstance(second.result(0)[0], RecordMetadata)


def test_invalid_record_that_is_not_named_is_searched_one_by_one(play: PartitionPlay) -> None:
    """Brokers before Kafka 2.4 do not name the records."""
    pending = play.publish(b"a", b"bad", b"c")
    play.send()
    play.answer(INVALID_RECORD)
    play.acknowledge()
    play.send()
    play.answer(INVALID_RECORD)
    play.acknowledge()
    results = pending.result(0)
    assert [isinstance(each, InvalidValue) for each in results] == [False, True, False]
    assert [each.name for each in play.log.records] == [b"a", b"c"]


def test_records_after_the_search_share_batches_again(play: PartitionPlay) -> None:
    play.publish(b"a", b"b")
    play.send()
    play.answer(INVALID_RECORD)
    play.acknowledge()
    play.acknowledge()
    play.publish(b"c", b"d")
    play.send()
    assert play.in_flight is not None
    assert play.in_flight.count == 2


def test_indexes_outside_the_batch_name_no_record(play: PartitionPlay) -> None:
    """Such an answer was retried at once and without end."""
    pending = play.publish(b"a", b"b")
    for _ in range(3):
        play.send()
        play.answer(INVALID_RECORD, 7)
    assert isinstance(pending.result(0)[1], InvalidValue)


def test_rejected_time_of_this_server_is_omitted(play: PartitionPlay) -> None:
    pending = play.publish(NewRecord(b"a"), NewRecord(b"b", timestamp=5))
    play.send()
    play.answer(INVALID_TIMESTAMP, 0)
    play.finish()
    assert list(pending.result(0)) == [RecordMetadata(0, 0, None), RecordMetadata(0, 1, 5)]


def test_unnamed_invalid_timestamp_rejects_only_the_record_that_has_it(play: PartitionPlay) -> None:
    """The reason may be this server's clock, and then the records with a timestamp of their own are valid."""
    pending = play.publish(NewRecord(b"a"), NewRecord(b"b", timestamp=5), NewRecord(b"bad", timestamp=6))
    play.send()
    play.answer(INVALID_TIMESTAMP)
    play.acknowledge()  # without a timestamp
    play.send()
    play.answer(INVALID_TIMESTAMP)  # b and bad
    play.acknowledge()
    play.send()
    play.answer(INVALID_TIMESTAMP)
    assert [isinstance(each, InvalidValue) for each in pending.result(0)] == [False, False, True]


def test_refused_batch_is_not_written_and_its_numbers_are_used_again(play: PartitionPlay) -> None:
    pending = play.publish(b"a")
    play.send()
    play.answer(TOPIC_REFUSED)
    assert isinstance(pending.result(0)[0], NotAuthorized)
    play.publish(b"b")
    play.acknowledge()
    assert play.queue.epoch == 0


@pytest.mark.parametrize("error", UNNAMED)
def test_error_that_does_not_exclude_the_append_is_unknown(play: PartitionPlay, error: int) -> None:
    """The next batch must not pass for this one: it was acknowledged as a duplicate, and lost."""
    pending = play.publish(b"a")
    play.send()
    play.write()
    play.answer(error)
    assert isinstance(pending.result(0)[0], OutcomeUnknown)
    play.publish(b"b")
    play.acknowledge()


def test_batch_of_a_lost_connection_is_written_once(play: PartitionPlay) -> None:
    play.publish(b"a")
    play.send()
    play.lose_connection(is_delayed=True)
    play.acknowledge()
    play.deliver_delayed()


def test_batch_past_its_deadline_is_unknown_and_the_epoch_rises(play: PartitionPlay) -> None:
    pending = play.publish(b"a", lifetime=1)
    play.send()
    play.lose_connection(is_delayed=True)
    play.let_pass(2)
    assert isinstance(pending.result(0)[0], OutcomeUnknown)
    assert play.queue.epoch == 1
    play.publish(b"b")
    play.acknowledge()
    play.deliver_delayed()
    assert [each.name for each in play.log.records] == [b"b"]


def test_batch_in_flight_ends_after_its_deadline_with_its_answer(play: PartitionPlay) -> None:
    pending = play.publish(b"a", lifetime=1)
    play.send()
    play.let_pass(2)
    assert isinstance(pending.result(0)[0], OutcomePending)
    play.answer(play.write())
    assert isinstance(pending.result(0)[0], RecordMetadata)


def test_batch_is_tried_until_the_last_deadline_of_its_publishes(play: PartitionPlay) -> None:
    first, second = play.publish(b"a", lifetime=1), play.publish(b"b", lifetime=10)
    play.send()
    play.lose_connection()
    play.let_pass(2)
    play.acknowledge()
    assert all(isinstance(each.result(0)[0], RecordMetadata) for each in (first, second))


def test_waiting_records_past_their_deadline_are_never_sent(play: PartitionPlay) -> None:
    play.publish(b"a", lifetime=1)
    kept = play.publish(b"b")
    play.let_pass(2)
    play.acknowledge()
    assert [each.name for each in play.log.records] == [b"b"]
    assert kept.is_done


def test_missing_topic_fails_what_is_not_in_flight(play: PartitionPlay) -> None:
    in_flight = play.publish(b"a")
    play.send()
    waiting = play.publish(b"b")
    play.queue.fail(TopicNotFound("t"))
    with pytest.raises(TopicNotFound):
        waiting.result(0)
    play.answer(play.write())
    assert isinstance(in_flight.result(0)[0], RecordMetadata)


def test_missing_topic_makes_a_batch_that_may_be_written_unknown(play: PartitionPlay) -> None:
    pending = play.publish(b"a")
    play.send()
    play.write()
    play.lose_connection()
    play.queue.fail(TopicNotFound("t"))
    assert isinstance(pending.result(0)[0], OutcomeUnknown)


def test_no_batch_is_sent_between_the_last_epoch_and_a_new_producer_id() -> None:
    play = PartitionPlay(epoch=MAX_EPOCH)
    play.publish(b"a")
    play.send()
    play.answer(OUT_OF_ORDER)
    assert play.queue.needs_identity
    assert not play.send()
    play.queue.set_identity(ProducerIdentity(8, 0))
    play.acknowledge()
    play.check()


# The bugs that random sequences found in the prototype


def test_refused_unsure_batch_does_not_give_its_sequence_numbers_back(play: PartitionPlay) -> None:
    """The next batch passed for a duplicate of it: acknowledged, and lost."""
    play.publish(b"a")
    play.send()
    play.write()
    play.lose_connection()
    play.send()
    play.answer(TOPIC_REFUSED)
    play.publish(b"b")
    play.acknowledge()
    assert [each.name for each in play.log.records] == [b"a", b"b"]


@pytest.mark.parametrize("refusal", [TOPIC_REFUSED, TOO_LARGE, UNSUPPORTED_FORMAT])
def test_refusal_after_a_lost_connection_is_unknown(play: PartitionPlay, refusal: int) -> None:
    """It was reported as not written, although the first attempt had been written."""
    pending = play.publish(b"a", b"b")
    play.send()
    play.write()
    play.lose_connection()
    play.send()
    play.answer(refusal)
    assert all(isinstance(each, OutcomeUnknown) for each in pending.result(0))


# The bytes of a batch


def test_records_of_one_request_share_one_result(play: PartitionPlay) -> None:
    """A result for each of a million records takes a gigabyte."""
    pending = play.publish(*[b"%d" % each for each in range(1000)])
    play.acknowledge()
    assert isinstance(pending.result(0), AppendedRecords)


def test_records_without_a_result_share_one_error(play: PartitionPlay) -> None:
    """An error for each of a million records takes a gigabyte."""
    pending = play.publish(*[b"%d" % each for each in range(1000)], lifetime=1)
    assert len({id(each) for each in pending.result(0)}) == 1
    play.let_pass(2)
    assert len({id(each) for each in pending.result(0)}) == 1


def test_batch_has_at_most_the_batch_size() -> None:
    play = PartitionPlay(batch_size=1000)
    for each in range(20):
        play.publish(b"%d" % each * 100, b"second %d" % each)
    while play.send():
        assert play.in_flight is not None
        assert len(play.in_flight.data) <= 1000 + 100
        play.answer(play.write())
    play.check()


def test_record_above_the_batch_size_is_sent_alone() -> None:
    play = PartitionPlay(batch_size=1000)
    play.publish(b"a", b"b" * 5000, b"c")
    play.finish()
    play.check()


def test_sequence_number_begins_at_0_after_the_largest(play: PartitionPlay) -> None:
    play.publish(b"a")
    play.acknowledge()
    play.queue._sequence = 0x7FFFFFFF
    play.publish(b"b", b"c", b"d")
    play.send()
    assert play.queue._sequence == 2
    play.answer(OUT_OF_ORDER)


# Random sequences


class RandomPlay:
    """Makes random steps."""

    def __init__(self, seed: int) -> None:
        self._random = choose = random.Random(seed)
        self.play = PartitionPlay(
            epoch=choose.choice((0, 0, MAX_EPOCH - 2)),
            is_old=choose.random() < 0.2,
            append_time=choose.choice((-1, -1, 1 << 50)),
            batch_size=choose.choice((1 << 20, 1 << 20, 300)),
        )
        self._fault_rate = choose.choice((0.0, 0.3, 0.6, 0.9))
        self._published = 0

    def step(self) -> None:
        play, choose = self.play, self._random
        for _ in range(choose.randrange(3)):
            self._publish()
        if choose.random() < 0.1 * self._fault_rate:
            play.let_pass(1)
        if choose.random() < 0.02 * self._fault_rate:
            play.queue.fail(TopicNotFound("t"))
        if play.delayed and choose.random() < 0.4:
            play.deliver_delayed(choose.randrange(len(play.delayed)))
        if choose.random() < 0.5:
            play.get_identity()
        if play.send():
            self._fault() if choose.random() < self._fault_rate else play.answer(play.write())

    def _publish(self) -> None:
        self._published += 1
        choose = self._random
        names = [b"%d-%d" % (self._published, each) for each in range(choose.randrange(1, 6))]
        lifetime = choose.choice((1.5, 3.5, 1e9))
        if choose.random() < 0.5:
            self.play.publish(*names, lifetime=lifetime)
        else:
            self.play.publish(*map(self._record, names), lifetime=lifetime)

    def _record(self, name: bytes) -> NewRecord:
        choose = self._random
        headers = choose.choice(((), (), (("h", b"v"), ("n", None))))
        timestamp = choose.choice((None, None, choose.randrange(1, 1000)))
        value, key = choose.choice(((name, None), (name, b"k"), (None, name)))
        return NewRecord(value, key, None, timestamp, headers)

    def _fault(self) -> None:
        play, choose = self.play, self._random
        is_written = choose.random() < 0.5
        kind = choose.choice(("lost", "delayed", "never", "perhaps", "refused", "unnamed", "named", "forgotten"))
        count = play.in_flight.count if play.in_flight is not None else 0
        if is_written and kind in ("lost", "perhaps", "unnamed", "forgotten"):
            answer = play.write()
            if kind == "forgotten" and not answer.error_code:
                answer = Answer(DUPLICATE)
        if kind == "lost":
            play.lose_connection()
        elif kind == "delayed":
            play.lose_connection(is_delayed=True)
        elif kind == "forgotten":
            play.answer(answer if is_written else NOT_ENOUGH_REPLICAS)
        elif kind == "named":
            play.answer(choose.choice(NAMING), *choose.sample(range(count), choose.randrange(min(count, 3) + 1)))
        else:
            codes = {"never": NEVER_WRITTEN, "perhaps": PERHAPS_WRITTEN, "refused": REFUSALS, "unnamed": UNNAMED}
            play.answer(choose.choice(codes[kind]))


def run_seed(seed: int) -> None:
    """Make random steps, and check the promises."""
    example = RandomPlay(seed)
    try:
        for _ in range(STEPS):
            example.step()
        example.play.finish()
        example.play.check()
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


@pytest.mark.parametrize("part", range(5))
def test_random_sequences_keep_all_promises(part: int) -> None:
    for seed in range(part * SEEDS // 5, (part + 1) * SEEDS // 5):
        run_seed(seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_many_random_sequences_keep_all_promises(part: int) -> None:
    for seed in range(10_000 + part * 2000, 10_000 + (part + 1) * 2000):
        run_seed(seed)


def is_in_flight(machine: "QueueMachine") -> bool:
    return machine.play.in_flight is not None


class QueueMachine(RuleBasedStateMachine):
    """The same steps, chosen by hypothesis, which shortens a sequence that breaks a promise."""

    @initialize(
        epoch=st.sampled_from([0, MAX_EPOCH - 1]),
        is_old=st.booleans(),
        append_time=st.sampled_from([-1, 1 << 50]),
        batch_size=st.sampled_from([1 << 20, 300]),
    )
    def begin(self, epoch: int, is_old: bool, append_time: int, batch_size: int) -> None:
        self.play = PartitionPlay(epoch=epoch, is_old=is_old, append_time=append_time, batch_size=batch_size)
        self.count = 0

    def _names(self, count: int) -> list[bytes]:
        self.count += 1
        return [b"%d-%d" % (self.count, each) for each in range(count)]

    @rule(count=st.integers(1, 4), lifetime=st.sampled_from([1.5, 1e9]))
    def publish_values(self, count: int, lifetime: float) -> None:
        self.play.publish(*self._names(count), lifetime=lifetime)

    @rule(timestamps=st.lists(st.none() | st.integers(0, 99), min_size=1, max_size=4), is_keyed=st.booleans())
    def publish_records(self, timestamps: list[int | None], is_keyed: bool) -> None:
        names = self._names(len(timestamps))
        key = b"k" if is_keyed else None
        headers = (("h", b"v"), ("n", None)) if is_keyed else ()
        self.play.publish(
            *[NewRecord(name, key, None, time, headers) for name, time in zip(names, timestamps, strict=True)]
        )

    @rule()
    def send(self) -> None:
        self.play.get_identity()
        self.play.send()

    @precondition(is_in_flight)
    @rule()
    def acknowledge(self) -> None:
        self.play.answer(self.play.write())

    @precondition(is_in_flight)
    @rule(error=st.sampled_from([*NEVER_WRITTEN, *REFUSALS]))
    def refuse(self, error: int) -> None:
        self.play.answer(error)

    @precondition(is_in_flight)
    @rule(error=st.sampled_from([*PERHAPS_WRITTEN, *UNNAMED]))
    def write_and_fail(self, error: int) -> None:
        self.play.write()
        self.play.answer(error)

    @precondition(is_in_flight)
    @rule(error=st.sampled_from(NAMING), indexes=st.lists(st.integers(0, 4), max_size=2))
    def reject_records(self, error: int, indexes: list[int]) -> None:
        self.play.answer(error, *indexes)

    @precondition(is_in_flight)
    @rule(is_written=st.booleans())
    def lose_connection(self, is_written: bool) -> None:
        if is_written:
            self.play.write()
        self.play.lose_connection(is_delayed=not is_written)

    @precondition(lambda self: self.play.delayed)
    @rule()
    def deliver_delayed(self) -> None:
        self.play.deliver_delayed()

    @rule()
    def let_pass(self) -> None:
        self.play.let_pass(1)

    @rule()
    def lose_topic(self) -> None:
        self.play.queue.fail(TopicNotFound("t"))

    def teardown(self) -> None:
        if hasattr(self, "play"):
            self.play.finish()
            self.play.check()


def run_machine(examples: int, *, is_random: bool) -> None:
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            derandomize=not is_random,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_sequences_of_hypothesis_keep_all_promises() -> None:
    run_machine(150, is_random=False)


@pytest.mark.slow
def test_many_sequences_of_hypothesis_keep_all_promises() -> None:
    run_machine(5000, is_random=True)
