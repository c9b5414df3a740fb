"""The capabilities that the views call. They know neither HTTP nor the Kafka client."""

from collections.abc import Mapping
from typing import Any

from kafka_http.broker_protocols import Broker
from kafka_http.consumers.consumer_offsets import ConsumerOffsets
from kafka_http.consumers.group_progress import GroupProgress
from kafka_http.publish.publisher import Publisher
from kafka_http.publish.upload_session import UploadPublisher
from kafka_http.read.page_reader import PageReader
from kafka_http.read.start_positions import PositionResolver
from kafka_http.read.topic_follower import TopicFollowers
from kafka_http.read.topic_stream import TopicStreams
from kafka_http.schemas.formats import Formats
from kafka_http.schemas.serializers import Serializers
from kafka_http.topics import Topics


class Services:
    """Publishing, reading, topics and consumers, created once for one broker. Any thread may use them."""

    def __init__(
        self,
        broker: Broker,
        serializers: Serializers,
        topics: Mapping[str, Any] | None = None,
        max_streams: int = 1000,
    ) -> None:
        """Create the services. `topics` has the formats of each topic from the settings. Raises `ConfigError`."""
        self.formats = Formats(serializers, topics)
        self.topics = Topics(broker.log)
        self.resolver = PositionResolver(broker.log, broker.groups, self.topics)
        self.consumers = ConsumerOffsets(broker.log, broker.groups, self.topics, self.resolver)
        self.groups = GroupProgress(broker.groups, self.topics)
        self.publisher = Publisher(broker.producer, self.formats)
        self.uploader = UploadPublisher(broker.producer, broker.log, self.formats)
        self.reader = PageReader(broker.log)
        self.followers = TopicFollowers(self.reader)
        self.streams = TopicStreams(broker.log, self.reader, self.followers, max_streams)

    def stop(self) -> None:
        """Stop waiting for messages: reads return within a second, streams and uploads end. Does not block."""
        self.reader.stop()
        self.followers.wake()
        self.uploader.stop()
