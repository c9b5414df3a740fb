"""The load generator of `kafka-http bench`: throughput and CPU of a server, and the costs of its streams."""
