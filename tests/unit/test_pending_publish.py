"""The memory of a publish that was handed to the producer."""

import gc
from collections.abc import Iterator

import pytest

from kafka_http.broker.pending_publish import KafkaPendingPublish, SliceResult
from kafka_http.records import BareValues


@pytest.fixture
def no_garbage() -> Iterator[None]:
    """There is no garbage at the start, and none is collected during the test."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_completed_publish_is_freed_without_garbage_collection(no_garbage: None) -> None:
    """A reference cycle kept the values of each publish until Python collected garbage: 200 MB of a worker."""
    pending = KafkaPendingPublish("t", BareValues([b"a", b"b"]), 0, 0, str)
    appends = [pending.append(number, [number], has_timestamps=False) for number in range(2)]
    for each in appends:
        each.add_result(SliceResult(0, 1, 5, 0, -1, None))
    assert len(pending.result(0)) == 2
    del pending, appends, each
    assert gc.collect() == 0
