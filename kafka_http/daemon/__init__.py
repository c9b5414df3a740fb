"""The node's one background process, which holds consumer instances and the outbox, and how the workers reach it.

    python -m kafka_http.daemon --data-dir DIR

A worker imports `proxy` alone, or with `daemon = inline` `inline`; what the process needs is imported there.
"""

from kafka_http.daemon.proxy import NodeDaemon

__all__ = ["NodeDaemon"]
