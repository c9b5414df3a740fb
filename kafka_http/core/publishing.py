"""The one write path: a request's records in, one outcome each out."""

from collections.abc import Sequence

from kafka_http.core.broker import Producer
from kafka_http.core.formats import Formats
from kafka_http.core.topics import check_topic_name
from kafka_http.records import Outcome, ProducerRecord


class Publisher:
    """Serialises and sends. Safe in many threads."""

    def __init__(self, producer: Producer, formats: Formats) -> None:
        self._producer = producer
        self._formats = formats

    def publish(self, topic: str, records: Sequence[ProducerRecord], timeout: float) -> list[Outcome]:
        """Publish a request's records and wait up to `timeout` seconds for Kafka's acknowledgement of all.

        A failure of one record is its outcome. What fails the request whole is raised, and then nothing was written:
        a bad name, a format that is not there, a value that its serialiser refuses, an unknown topic or partition,
        no broker.
        """
        check_topic_name(topic)
        return self._producer.produce(topic, self._formats.encode(topic, records).records, timeout)
