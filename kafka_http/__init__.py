"""Apache Kafka behind HTTP."""
