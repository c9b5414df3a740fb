"""The outbox of a node, as the settings want it."""

from kafka_http.broker_protocols import Producer
from kafka_http.config import Config
from kafka_http.node.callbacks import CallbackSender
from kafka_http.node.store import Database, StoredCallbacks, StoredTasks
from kafka_http.publish.outbox import Outbox

_REPORT_SECONDS = 30.0
"""What the note of a callback may take after its attempt."""


def make_outbox(config: Config, database: Database, node_id: str, producer: Producer) -> Outbox:
    """On this database, before this Kafka. Nothing is started yet."""
    callbacks = StoredCallbacks(database, config.callback_timeout + _REPORT_SECONDS)
    return Outbox(
        StoredTasks(database, node_id),
        producer,
        CallbackSender.from_config(config, callbacks),
        max_bytes=config.outbox_max_bytes,
        retention=config.task_retention,
    )
