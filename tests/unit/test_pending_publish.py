"""A request's records between their hand-over to Kafka's client and its last word on them."""

import time
from collections.abc import Callable, Sequence
from typing import cast

import pytest
from kafka.errors import KafkaTimeoutError

from kafka_http.broker.batch_append import AppendResult
from kafka_http.broker.patched_producer import PatchedProducer, PendingAppend
from kafka_http.broker.pending_publish import KafkaPendingPublish
from kafka_http.errors import KafkaHttpError, OutcomeUnknown
from kafka_http.records import NewRecord

COUNT = 1000


class Unanswered:
    """A producer of which each record has the same fate."""

    is_delivered = False
    addresses_tried = "127.0.0.1:9092"

    def __init__(self, result: AppendResult) -> None:
        self._result = result

    def omits_timestamps(self, topic: str) -> bool:
        return False

    def append(
        self,
        topic: str,
        partition: int,
        records: Sequence[NewRecord],
        done: Callable[[PendingAppend], None],
        *,
        is_untimed: bool = False,
    ) -> "Unanswered":
        return self

    def results(self) -> list[AppendResult]:
        return [self._result] * COUNT


@pytest.mark.parametrize("result", [None, KafkaTimeoutError("The batch was not acknowledged in its time")])
def test_records_of_a_request_that_timed_out_share_one_error(result: AppendResult) -> None:
    """One error for each of a million records takes a gigabyte."""
    sender = cast("PatchedProducer", Unanswered(result))
    pending = KafkaPendingPublish(sender, "t", [NewRecord(b"x")] * COUNT, time.monotonic() + 1, lambda _: None)
    pending.begin([0] * COUNT)
    outcomes = pending.results()
    assert len(outcomes) == COUNT
    assert len({id(each) for each in outcomes}) == 1
    assert isinstance(outcomes[0], OutcomeUnknown)
    assert isinstance(outcomes[0], KafkaHttpError)
