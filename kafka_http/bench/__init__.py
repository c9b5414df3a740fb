"""The load generator of `kafka-http bench`: throughput, memory and CPU of a server, and of Kafka's clients alone."""
