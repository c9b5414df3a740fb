"""Whether the process and Kafka answer."""

import threading
import time
from collections.abc import Callable

from flask import Blueprint, Response

from kafka_http.core.broker import Log
from kafka_http.web.responses import json_response

FRESH_SECONDS = 2.0


class Health:
    """The views for whoever watches over the service."""

    def __init__(self, log: Log, is_daemon_silent: Callable[[], bool]) -> None:
        """`is_daemon_silent` does not block."""
        self._log = log
        self._is_daemon_silent = is_daemon_silent
        self._answered = float("-inf")
        self._lock = threading.Lock()

    def blueprint(self) -> Blueprint:
        health = Blueprint("health", __name__)
        health.add_url_rule("/health", view_func=self.health)
        health.add_url_rule("/ready", view_func=self.ready)
        return health

    def health(self) -> Response:
        """GET /health: the process answers."""
        return json_response({"status": "ok"})

    def ready(self) -> Response:
        """GET /ready: a broker answered within the last seconds; 503 with the reason otherwise."""
        with self._lock:  # of many at once, one asks
            if time.monotonic() - self._answered > FRESH_SECONDS:
                self._log.alive()
                self._answered = time.monotonic()
        return json_response({"status": "ready"} | ({"daemon": "not responding"} if self._is_daemon_silent() else {}))
