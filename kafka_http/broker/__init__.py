"""Apache Kafka: implements `kafka_http.broker_protocols`. Only this package imports kafka-python and aiokafka."""

from kafka_http.broker.kafka_broker import KafkaBroker

__all__ = ["KafkaBroker"]
