"""granian from within: `serve` starts it. All of this package needs what the extra `granian` brings."""

from kafka_http.server.granian.application import serve

__all__ = ["serve"]
