"""What the server does, whoever asks: no HTTP, no Kafka client."""

from collections.abc import Mapping
from typing import Any

from kafka_http.core.broker import Broker
from kafka_http.core.consumers import Consumers
from kafka_http.core.formats import Formats
from kafka_http.core.positions import Resolver
from kafka_http.core.publishing import Publisher
from kafka_http.core.reading import Reader
from kafka_http.core.streaming import Streams
from kafka_http.core.tails import Tails
from kafka_http.core.topics import Topics
from kafka_http.core.uploading import Uploader
from kafka_http.serializers import Serializers


class Core:
    """The nouns of the API, over one broker."""

    def __init__(
        self,
        broker: Broker,
        serializers: Serializers,
        topics: Mapping[str, Any] | None = None,
        max_streams: int = 1000,
    ) -> None:
        """`topics` are the settings of formats by topic. Raises `ConfigError`."""
        self.formats = Formats(serializers, topics)
        self.topics = Topics(broker.log)
        self.resolver = Resolver(broker.log, broker.groups, self.topics)
        self.consumers = Consumers(broker.log, broker.groups, self.topics, self.resolver)
        self.publisher = Publisher(broker.producer, self.formats)
        self.uploader = Uploader(broker.producer, self.formats)
        self.reader = Reader(broker.log)
        self.tails = Tails(self.reader)
        self.streams = Streams(broker.log, self.reader, self.tails, max_streams)

    def stop(self) -> None:
        """From now on wait for nothing: reads return within a second, streams and uploads end. Does not block."""
        self.reader.stop()
        self.tails.wake()
        self.uploader.stop()
