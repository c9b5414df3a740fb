"""Fetches from a single topic."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kafka_http.broker_protocols import Broker
from kafka_http.records import Record, TopicPartition


class FetchedOfTopic(NamedTuple):
    """A `Fetched` whose keys are partition numbers."""

    records: Mapping[int, Sequence[Record]]
    next: Mapping[int, int]
    ended: frozenset[int]
    out_of_range: Mapping[int, tuple[int, int]]


def fetch(broker: Broker, topic: str, positions: Mapping[int, int], **how: Any) -> FetchedOfTopic:
    """Call `Log.fetch` for one topic."""
    fetched = broker.log.fetch({TopicPartition(topic, each): at for each, at in positions.items()}, **how)
    records, following, missing = (
        {place.partition: what for place, what in by_place.items()}
        for by_place in (fetched.records, fetched.next, fetched.out_of_range)
    )
    return FetchedOfTopic(records, following, frozenset(each.partition for each in fetched.ended), missing)
