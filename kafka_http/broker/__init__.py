"""Apache Kafka, as core asks for it. The only place that imports kafka."""

from kafka_http.broker.kafka_broker import KafkaBroker

__all__ = ["KafkaBroker"]
