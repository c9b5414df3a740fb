"""The embedded Apache Kafka and schema registry, for `kafka-http demo`, `kafka-http bench` and the tests."""
