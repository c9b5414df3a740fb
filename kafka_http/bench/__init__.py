"""The load generator: how much gets through a server, beside what the machine can do without it."""
