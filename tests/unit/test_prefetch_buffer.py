"""What is kept of a fetch for the reader who goes on: for whom, how long and how much."""

from kafka_http.broker.batch_codec import BatchReader
from kafka_http.broker.prefetch_buffer import MAX_AGE_SECONDS, PrefetchBuffer, PrefetchedBatches, ReadConditions
from kafka_http.records import TopicPartition
from tests.support.record_batches import batch

PLACE = TopicPartition("t", 0)
ANYBODY = ReadConditions({"t": "id-1"}, "read_uncommitted")
LIMIT = 400_000


class Kept:
    """A `PrefetchBuffer` at a time that the test tells."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.now = 100.0
        self.ahead = PrefetchBuffer(limit, clock=lambda: self.now)

    def put(
        self, offset: int = 5, place: TopicPartition = PLACE, reading: ReadConditions = ANYBODY, size: int = 100
    ) -> None:
        batches = BatchReader(batch(0, [b"v" * size] * 10), place, offset)
        self.ahead.put({place: PrefetchedBatches(batches, 10, self.now)}, reading)

    def take(self, offset: int = 5, place: TopicPartition = PLACE, reading: ReadConditions = ANYBODY) -> list[int]:
        """The offsets in what is found there."""
        rests = self.ahead.take({place: offset}, reading)
        return [each.offset for rest in rests.values() for each in rest.reader.take(100, 1 << 30, 0)[0]]


def test_take_at_the_next_offset_returns_records_once() -> None:
    kept = Kept()
    kept.put()
    assert kept.take() == [5, 6, 7, 8, 9]
    assert kept.take() == []
    assert kept.ahead.size == 0


def test_take_with_other_offset_partition_or_isolation_returns_nothing() -> None:
    kept = Kept()
    kept.put()
    assert kept.take(offset=4) == kept.take(offset=6) == []
    assert kept.take(place=TopicPartition("t", 1)) == []
    assert kept.take(reading=ANYBODY._replace(isolation="read_committed")) == []
    assert kept.take(reading=ANYBODY._replace(topic_ids={"t": "id-2"})) == []  # made anew under its name
    assert kept.take() == [5, 6, 7, 8, 9]


def test_take_after_the_lifetime_returns_nothing() -> None:
    kept = Kept()
    kept.put()
    kept.now += MAX_AGE_SECONDS
    assert kept.take() == []


def test_lifetime_counts_from_the_first_fetch() -> None:
    kept = Kept()
    kept.put(offset=0)
    for offset in range(5):
        rests = kept.ahead.take({PLACE: offset}, ANYBODY)
        rests[PLACE].reader.take(1, 1 << 30, 0)
        kept.ahead.put(rests, ANYBODY)
        kept.now += MAX_AGE_SECONDS / 5
    assert kept.take() == []


def test_full_buffer_drops_the_oldest() -> None:
    kept = Kept()
    for number in range(20):
        kept.put(place=TopicPartition("t", number), size=6000)
        assert kept.ahead.size <= LIMIT
    found = [bool(kept.take(place=TopicPartition("t", number))) for number in range(20)]
    assert found == sorted(found)
    assert 3 < sum(found) < 8


def test_expired_records_are_dropped() -> None:
    kept = Kept()
    for number in range(4):
        kept.put(place=TopicPartition("t", number), size=6000)
    kept.now += MAX_AGE_SECONDS
    kept.put()
    assert kept.ahead.size < 10_000


def test_drop_expired_frees_memory_without_another_read() -> None:
    kept = Kept()
    kept.put()
    kept.ahead.drop_expired()
    assert kept.ahead.size > 0
    kept.now += MAX_AGE_SECONDS
    kept.ahead.drop_expired()
    assert kept.ahead.size == 0


def test_read_over_its_share_is_not_buffered() -> None:
    kept = Kept()
    kept.put(place=TopicPartition("t", 1))
    kept.put(size=LIMIT // 20)
    assert kept.take() == []
    assert kept.take(place=TopicPartition("t", 1))


def test_limit_zero_buffers_nothing() -> None:
    kept = Kept(limit=0)
    kept.put()
    assert kept.take() == []
