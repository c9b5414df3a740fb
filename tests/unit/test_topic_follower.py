"""The shared reader at the end of a topic."""

import time
from types import SimpleNamespace
from typing import cast

from kafka_http.read.page_reader import PageReader
from kafka_http.read.topic_follower import FollowedTopic, TopicFollower
from tests.support.polling import scaled


def test_stream_that_begins_to_wait_after_a_stop_returns_at_once() -> None:
    """The stop wakes waiting streams once. A stream that waited a moment later held its worker for 25 s."""
    reader = cast("PageReader", SimpleNamespace(is_stopping=True))
    follower = TopicFollower(FollowedTopic("t", None, "read_uncommitted"), reader, lambda: None)
    began = time.monotonic()

    assert follower.batch(0, 30) is None
    assert time.monotonic() - began < scaled(10)
