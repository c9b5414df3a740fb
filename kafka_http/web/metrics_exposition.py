"""The metrics in the formats of Prometheus, and the address `metrics_bind` that serves only them."""

import logging
import os
import platform
import re
import socket
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.server import ThreadingHTTPServer
from importlib.metadata import version
from itertools import accumulate
from threading import Thread
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from kafka_http import metrics
from kafka_http.config import ConfigError

log = logging.getLogger(__name__)

BUILD_INFO = "kafka_http_build_info"
BUILD_LABELS = ("version", "python")
BUILD_HELP = "The version of kafka_http and of Python; always 1."
_BOUNDS = (*map(str, metrics.BOUNDS), "+Inf")
_NOT_A_VERSION = re.compile(r";\s*version=(?=[^;])(?![0-9]{1,9}(\.[0-9]{1,9})*\s*(;|$))")
_CLIENT_SECONDS = 10.0
"""Time of each wait for a client of `metrics_bind`."""
_Parts = Mapping[str, float]
"""The numbers of one combination of labels, by part: those of `metrics.Metric.numbers`."""


class MetricsExposition(Collector):
    """Shows the metrics of the node. Any thread may call."""

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        """`read` returns the numbers by key, as `metrics_files.MetricFiles.read` does."""
        self._read = read
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the text and its media type: that of Prometheus, or OpenMetrics if the Accept header prefers it."""
        encode, media_type = choose_encoder(_valid_accept(accept))
        return encode(self.registry), media_type

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registration must not read the metrics."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, also those without numbers."""
        numbers: dict[str, dict[tuple[str, ...], dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for each in metrics.samples(self._read()):
            numbers[each.metric.name][each.values][each.part] = each.number
        for metric in metrics.all_metrics():
            yield _family(metric, numbers[metric.name])
        build = GaugeMetricFamily(BUILD_INFO, BUILD_HELP, labels=BUILD_LABELS)
        build.add_metric([version("kafka_http"), platform.python_version()], 1.0)
        yield build


def _family(metric: metrics.Metric, numbers: Mapping[tuple[str, ...], _Parts]) -> Metric:
    if isinstance(metric, metrics.Histogram):
        histogram = HistogramMetricFamily(metric.name, metric.help_text, labels=metric.labels)
        for values, parts in sorted(numbers.items()):
            counts = accumulate(parts.get(str(bucket), 0.0) for bucket in range(len(_BOUNDS)))
            histogram.add_metric(values, list(zip(_BOUNDS, counts, strict=True)), parts.get("sum", 0.0))
        return histogram
    kind = CounterMetricFamily if isinstance(metric, metrics.Counter) else GaugeMetricFamily
    family = kind(metric.name, metric.help_text, labels=metric.labels)
    for values, parts in sorted(numbers.items()):
        family.add_metric(values, parts[""])
    return family


def _valid_accept(accept: str) -> str:
    """Return an Accept header without the media types whose version is no number: `choose_encoder` fails for them."""
    return ",".join(each for each in accept.split(",") if not _NOT_A_VERSION.search(each))


class MetricsServer:
    """Serves the metrics on an address of their own, in a thread of each process.

    The arbiter calls `listen` before the fork. The workers inherit the socket, and each accepts connections.
    """

    def __init__(self, exposition: MetricsExposition, host: str, port: int) -> None:
        self._exposition = exposition
        self._address = host, port
        self._socket: socket.socket | None = None

    def listen(self) -> None:
        """Open the socket. Raises `ConfigError`."""
        host, port = self._address
        try:
            self._socket = socket.create_server(
                self._address, family=socket.AF_INET6 if ":" in host else socket.AF_INET
            )
        except OSError as error:
            raise ConfigError(
                f"metrics_bind: cannot listen on {host}:{port}: {os.strerror(error.errno or 0).lower()}. Stop the "
                "program that uses this address, or choose another one."
            ) from None
        shown = f"[{host}]" if ":" in host else host
        log.info("Metrics: http://%s:%d/metrics", shown, self._socket.getsockname()[1])

    def start(self) -> None:
        """Accept connections in this process. Does nothing without `listen`: another WSGI server runs."""
        if self._socket is None:
            log.warning("metrics_bind has no effect: this WSGI server does not use it.")
            return
        server = _HttpServer(self._socket, self._exposition.registry)
        Thread(target=server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Close the socket of this process."""
        if self._socket is not None:
            self._socket.close()


class _Handler(MetricsHandler):
    """Answers a scrape on any path."""

    def do_GET(self) -> None:  # noqa: N802
        accept = _valid_accept(self.headers.get("Accept", ""))
        del self.headers["Accept"]
        self.headers.add_header("Accept", accept)
        super().do_GET()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, registry: CollectorRegistry) -> None:
        handler = type("Handler", (_Handler,), {"registry": registry, "timeout": _CLIENT_SECONDS})
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        listener.settimeout(_CLIENT_SECONDS)  # another worker may accept a connection that this one was told of

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error of a scrape. The base class prints a traceback, also for each client that disconnects."""
        error = sys.exception()
        level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
        log.log(level, "A scrape of metrics_bind failed: %r", error)
