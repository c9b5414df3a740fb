"""Messages of Kafka's protocol that kafka-python 3.0.12 lacks: the descriptions of groups of newer types.

The JSON files beside this module define the fields, in the form that kafka-python's own messages have.
"""

from kafka.protocol.api_message import ApiMessage


class ConsumerGroupDescribeRequest(ApiMessage, load_json=__name__):
    """Asks for consumer groups (KIP-848). Since Kafka 4.0."""


class ConsumerGroupDescribeResponse(ApiMessage, load_json=__name__):
    """Describes consumer groups and their members."""


class ShareGroupDescribeRequest(ApiMessage, load_json=__name__):
    """Asks for share groups (KIP-932). Since Kafka 4.1."""


class ShareGroupDescribeResponse(ApiMessage, load_json=__name__):
    """Describes share groups and their members."""


class DescribeShareGroupOffsetsRequest(ApiMessage, load_json=__name__):
    """Asks for the start offsets of share groups; `topics` is None for those of all topics. Since Kafka 4.1."""


class DescribeShareGroupOffsetsResponse(ApiMessage, load_json=__name__):
    """The start offsets of share groups by topic and partition; -1 where there is none."""
