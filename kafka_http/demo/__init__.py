"""The embedded Apache Kafka: from a list of jars to a broker that answers, for `kafka-http demo` and for the tests."""
