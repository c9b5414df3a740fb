"""GET /metrics: what Prometheus scrapes."""

from collections.abc import Callable

from flask import Blueprint, Response, request

from kafka_http.errors import MetricsElsewhere
from kafka_http.web.metrics_exposition import MetricsExposition
from kafka_http.web.query_parameters import QueryParameters
from kafka_http.web.url_paths import new_blueprint

METRICS = "/metrics"


class MetricsRoutes:
    """The view of the metrics."""

    def __init__(self, exposition: MetricsExposition, bind: str, update: Callable[[], None]) -> None:
        """`bind` is the address that serves the metrics; empty: this view does. `update` updates the gauges."""
        self._exposition = exposition
        self._bind = bind
        self._update = update

    def blueprint(self) -> Blueprint:
        return new_blueprint("metrics", {METRICS: {"GET": self.show}})

    def show(self) -> Response:
        """GET /metrics: the metrics of this node."""
        if self._bind:
            raise MetricsElsewhere(self._bind)
        QueryParameters(request.args, ())
        self._update()
        text, media_type = self._exposition.render(request.headers.get("Accept", ""))
        return Response(text, content_type=media_type)
