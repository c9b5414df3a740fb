"""GET /health and GET /ready: whether the process and Kafka respond."""

import threading
import time
from collections.abc import Callable

from flask import Blueprint, Response, request

from kafka_http.broker_protocols import Log
from kafka_http.environ import REQUEST_STARTED
from kafka_http.errors import KafkaHttpError
from kafka_http.web.responses import json_response

HEALTH, READY = "/health", "/ready"
FRESH_SECONDS = 2.0
"""Seconds for which `/ready` relies on the last response of Kafka."""


class HealthRoutes:
    """The views for load balancers and monitoring."""

    def __init__(self, log: Log, is_daemon_hung: Callable[[], bool]) -> None:
        """`is_daemon_hung` must not block."""
        self._log = log
        self._is_daemon_hung = is_daemon_hung
        self._answered = self._failed = float("-inf")
        self._error: KafkaHttpError | None = None
        self._lock = threading.Lock()

    def blueprint(self) -> Blueprint:
        health = Blueprint("health", __name__)
        health.add_url_rule(HEALTH, view_func=self.health)
        health.add_url_rule(READY, view_func=self.ready)
        return health

    def health(self) -> Response:
        """GET /health: the process responds. Does not block: the worker's main loop may call it."""
        return json_response({"status": "ok"})

    def ready(self) -> Response:
        """GET /ready: a broker has answered within the last seconds. Otherwise 503 with the reason."""
        arrived = request.environ.get(REQUEST_STARTED, time.monotonic())
        with self._lock:  # one of many concurrent requests asks Kafka
            if self._error is not None and self._failed >= arrived:
                raise self._error
            if time.monotonic() - self._answered > FRESH_SECONDS:
                self._ask_kafka()
        return json_response({"status": "ready"} | ({"daemon": "not responding"} if self._is_daemon_hung() else {}))

    def _ask_kafka(self) -> None:
        try:
            self._log.check_reachable()
        except KafkaHttpError as error:
            self._failed, self._error = time.monotonic(), error
            raise
        self._answered = time.monotonic()
