"""The embedded Apache Kafka: it starts, keeps its data, says what is wrong, and leaves no process behind."""

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from kafka_http.demo.admin import create_topics
from kafka_http.demo.embedded import EmbeddedKafka


def test_data_outlives_a_kill_and_a_restart(fresh_kafka: EmbeddedKafka) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    producer = KafkaProducer(bootstrap_servers=fresh_kafka.bootstrap_servers)
    assert producer.send("t", b"kept").get(10).offset == 0
    producer.close()

    fresh_kafka.kill()
    fresh_kafka.start()

    consumer = KafkaConsumer(bootstrap_servers=fresh_kafka.bootstrap_servers)
    try:
        assert consumer.end_offsets([TopicPartition("t", 0)]) == {TopicPartition("t", 0): 1}
    finally:
        consumer.close()
