"""Messages of Kafka's protocol that kafka-python 3.0.12 lacks: share groups, and descriptions of newer groups.

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
    """Asks for the start offsets of share groups; `topics` is None for those of all topics. Since Kafka 4.1.

    Version 1 has the lag.
    """


class DescribeShareGroupOffsetsResponse(ApiMessage, load_json=__name__):
    """The start offsets of share groups by topic and partition; -1 where there is none."""


class DeleteShareGroupOffsetsRequest(ApiMessage, load_json=__name__):
    """Deletes the offsets of a share group for some topics. Since Kafka 4.1."""


class DeleteShareGroupOffsetsResponse(ApiMessage, load_json=__name__):
    """The results by topic."""


class ShareGroupHeartbeatRequest(ApiMessage, load_json=__name__):
    """Joins a share group (member epoch 0), stays in it, or leaves it (-1). Since Kafka 4.1."""


class ShareGroupHeartbeatResponse(ApiMessage, load_json=__name__):
    """The member's epoch, and its assignment if that has changed."""


class ShareFetchRequest(ApiMessage, load_json=__name__):
    """Acknowledges and acquires records of one leader, in a session. Version 2 is since Kafka 4.2."""


class ShareFetchResponse(ApiMessage, load_json=__name__):
    """The acquired records, and the errors of the acknowledgements by partition."""


class ShareAcknowledgeRequest(ApiMessage, load_json=__name__):
    """Acknowledges records of one leader, in a session; renews locks; closes the session (epoch -1)."""


class ShareAcknowledgeResponse(ApiMessage, load_json=__name__):
    """The errors by partition."""
