"""The command `kafka-http`: one module for each of its commands."""
