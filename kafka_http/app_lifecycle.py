"""The life of the application in a process: what is started, driven and closed, and in which order."""

import gc
import logging
import os
from collections.abc import Callable
from threading import Thread
from typing import NamedTuple

from kafka_http import metrics
from kafka_http.broker import KafkaBroker
from kafka_http.broker.open_file_limit import OpenFileLimit
from kafka_http.broker_protocols import Broker
from kafka_http.config import Config, ConfigError
from kafka_http.consumers.instance_service import InstanceLocator, InstanceService
from kafka_http.consumers.queue_service import LoopQueues, QueueLocator, QueueService
from kafka_http.errors import KafkaHttpError, Unavailable
from kafka_http.event_loop import EventLoop
from kafka_http.metrics_files import MetricFiles
from kafka_http.node.data_directory import DataDirectory
from kafka_http.publish.deferred_publish import TaskSubmitter
from kafka_http.publish.idempotency_keys import IdempotencyService
from kafka_http.security.acl_cache import AclCache
from kafka_http.security.check_point import CheckPoint
from kafka_http.security.server_tls import ServerTls
from kafka_http.security.shared_counters import SharedCounters
from kafka_http.security.trusted_networks import TrustedNetworks
from kafka_http.tasks import Tasks
from kafka_http.web.browser_guard import BrowserGuard
from kafka_http.web.cors import CrossOriginSharing
from kafka_http.web.fast_path import FastPathRequests
from kafka_http.web.idempotent_publish import IdempotentPublish
from kafka_http.web.metrics_exposition import MetricsExposition, MetricsServer
from kafka_http.web.metrics_routes import MetricsRoutes
from kafka_http.web.queue_pages import QueuePages
from kafka_http.web.request_bodies import ReceivePolicy, RequestBodies
from kafka_http.web.services import Services

log = logging.getLogger(__name__)

_SUBMIT_SECONDS = 5.0
"""Seconds at the end of the process to hand the last tasks to the outbox."""
_KEY_STORE_SECONDS = 2.0
"""Seconds at the end of the process to store the last responses for idempotency keys."""


class Security(NamedTuple):
    """What decides who may call. A reload replaces the state of the check point, the ACLs and the TLS contexts."""

    check_point: CheckPoint
    shared: SharedCounters
    acls: AclCache
    trusted: TrustedNetworks
    guard: BrowserGuard
    cors: CrossOriginSharing
    tls: ServerTls | None
    """None without `tls_cert`."""
    node_tls: ServerTls | None
    """That of calls to other nodes."""


class NodeResources(NamedTuple):
    """State that outlives a request. The node's daemon holds it for all workers, or this process holds it inline."""

    instances: InstanceService
    queues: QueueService
    tasks: Tasks
    idempotency: IdempotencyService
    start: Callable[[], None]
    close_before_broker: Callable[[], None]
    """Called at the end while this process is still connected to Kafka."""
    close_after_broker: Callable[[], None]
    locator: InstanceLocator | None = None
    """Finds the node of a consumer instance; None if there is only one node."""
    queue_locator: QueueLocator | None = None
    """Finds the node of a lease; None if there is only one node."""
    is_daemon_hung: Callable[[], bool] = lambda: False
    loop_queues: LoopQueues | None = None
    """The queues for a main loop; None if this process holds them."""
    attach: Callable[[EventLoop], None] = lambda _: None
    """Lets a main loop make calls to the daemon. Its thread calls this."""


class AppLifecycle:
    """Starts and stops the application in a worker process. The server calls it as its `ServerHooks`.

    `create_app` creates it before the fork; each worker calls `start`, `stop` and `close` in its main thread.
    """

    security: Security
    request_policy: ReceivePolicy
    idempotent_publish: IdempotentPublish
    fast_path: FastPathRequests | None
    """None if the fast path is switched off."""
    tls: ServerTls | None
    """None without `tls_cert`."""
    bodies: RequestBodies

    def __init__(
        self,
        config: Config,
        broker: Broker,
        services: Services,
        node: NodeResources,
        submitter: TaskSubmitter,
        *,
        metric_files: MetricFiles | None,
    ) -> None:
        """`metric_files` is None if the metrics of this process are all that there are."""
        self._config = config
        self._broker = broker
        self._services = services
        self._node = node
        self._submitter = submitter
        self._open_files = OpenFileLimit(1, "streams")
        self._metric_files = metric_files
        self.queue_pages = QueuePages(node.queues)
        self._exposition = MetricsExposition(metrics.own_numbers if metric_files is None else metric_files.read)
        self._metrics_server = _metrics_server(config, self._exposition)
        self._process = 0
        self._created_in = os.getpid()
        self._arbiter_reloads = False
        """Whether the arbiter reads the security settings again at a SIGHUP, so that later workers inherit them."""

    def start(self) -> None:
        """Start serving requests in this process, after the fork. Does not block. Repeated calls have no effect.

        Raises `ConfigError` if the files have changed since the application was created, and are faulty.
        """
        if self._process == os.getpid():
            return
        if os.getpid() != self._created_in and not self._arbiter_reloads:
            self.reload()  # a SIGHUP to gunicorn with preload_app only makes new workers
        self._process = os.getpid()
        if self._metric_files is not None:
            self._metric_files.open()
        self.update_gauges()
        if self._metrics_server is not None:
            self._metrics_server.start()
        try:
            self._open_files.check(self._services.streams.limit)
        except Unavailable as error:
            log.warning("%s", error.message)
        gc.freeze()  # garbage collections then skip all objects that exist now
        if self._config.access_rules == "kafka":
            self.security.acls.start()
        self._node.start()

    def start_with_request(self) -> None:
        """Start when the first request arrives, for a WSGI server that does not call `start` and uses no `tls`."""
        if self._process != os.getpid() and self.tls is not None:
            log.warning("tls_cert has no effect: this WSGI server does not use it.")
        try:
            self.start()
        except ConfigError as error:
            log.error("This process accepts no requests: %s", error)
            raise Unavailable("The settings of this server are faulty. See its log. Nothing was done.") from None

    def attach(self, loop: EventLoop) -> None:
        """Let a main loop drive the publishes. Its thread calls this before the first request."""
        self._broker.producer.attach(loop)
        self.idempotent_publish.attach(loop)
        self._submitter.attach()
        self._node.attach(loop)

    def end_round(self) -> None:
        """Send what was published in this round of the main loop. Does not block."""
        self._broker.producer.end_round()
        self.idempotent_publish.end_round()
        self._submitter.end_round()

    @property
    def next_deadline(self) -> float:
        """When `end_round` must be called at the latest, on the monotonic clock."""
        return self._broker.producer.next_deadline

    def update_gauges(self) -> None:
        """Set the gauges of what this process holds. Does not block. The server calls it about once a second."""
        metrics.update_process("worker")
        metrics.STREAMS.set(self._services.streams.count)
        metrics.BYTES_IN_FLIGHT.set(self.bodies.in_flight)

    def metrics_routes(self) -> MetricsRoutes:
        """Return the view of the metrics."""
        return MetricsRoutes(self._exposition, self._config.metrics_bind, self.update_gauges)

    def release_memory(self) -> None:
        """Drop records that were fetched ahead for readers that did not come. Any thread may call."""
        self._broker.release_memory()

    @property
    def has_authentication(self) -> bool:
        """Whether requests need credentials."""
        return self.security.check_point.is_on

    def reload(self) -> None:
        """Read the security settings and their files again. Raises `ConfigError`: nothing has changed then."""
        loaded = [(each, each.load()) for each in (self.tls, self.security.node_tls) if each is not None]
        self.security.check_point.reload()
        for tls, context in loaded:
            tls.context = context
        self.security.acls.refresh()
        if self._process != os.getpid():  # the workers would repeat it
            self._log_warnings()

    def _log_warnings(self) -> None:
        for warning in self.security.check_point.warnings:
            log.warning("%s", warning)

    def check_before_fork(self) -> None:
        """Log settings without effect, and read the cluster's ACLs if they are the access rules.

        Only the arbiter of `kafka-http serve` calls this, which reloads by itself.
        Blocks while it connects to Kafka, for some seconds at most. Raises `ConfigError`.
        """
        self._arbiter_reloads = True
        self._log_warnings()
        if self._metric_files is not None:
            self._metric_files.prepare()
        if self._metrics_server is not None:
            self._metrics_server.listen()
        if self._config.access_rules == "kafka":
            broker = KafkaBroker(self._config)  # workers must not inherit its connections
            try:
                self.security.acls.check(broker.acls)
            finally:
                broker.close(0)

    def check_brokers(self) -> None:
        """Log the configured brokers and, a moment later, whether they answer. Does not block.

        It connects in this process only and does not change whether requests are accepted.
        """
        servers = ", ".join(self._config.bootstrap_servers)
        log.info("Kafka brokers: %s. Checking once; the server does not wait for them.", servers)
        Thread(target=self._check_brokers, name="broker check", daemon=True).start()

    def _check_brokers(self) -> None:
        try:
            count = len(self._broker.log.brokers())
        except KafkaHttpError as error:
            log.warning("%s The server keeps running and connects when a request needs Kafka.", error.message)
        else:
            log.info("Kafka answers: %d broker%s in the cluster.", count, "" if count == 1 else "s")

    def stop(self) -> None:
        """Respond within a second to requests that wait for messages, and end streams. Does not block."""
        self._services.stop()

    def close(self, timeout: float) -> None:
        """Flush pending messages to Kafka for up to `timeout` seconds, then close. No request may be in flight."""
        self._submitter.close(_SUBMIT_SECONDS)
        self.queue_pages.close()
        self.security.acls.close()
        self._node.close_before_broker()
        self._broker.close(timeout)
        self._node.idempotency.close(_KEY_STORE_SECONDS)
        self._node.close_after_broker()
        self.security.shared.open_counts.close()
        if self._metric_files is not None:
            self._metric_files.close()

    def end(self) -> None:
        """Remove what the workers have left. The arbiter calls this when they have ended."""
        if self._metrics_server is not None:
            self._metrics_server.close()
        if self._metric_files is not None:
            self._metric_files.end()

    def stop_node(self, timeout: float) -> None:
        """Stop the daemon and wait up to `timeout` seconds for its end. No worker may run any more."""
        if self._config.daemon == "process":
            DataDirectory(self._config.data_dir).stop_daemon(timeout)


def _metrics_server(config: Config, exposition: MetricsExposition) -> MetricsServer | None:
    if not config.metrics_bind:
        return None
    host, _, port = config.metrics_bind.rpartition(":")
    return MetricsServer(exposition, host.strip("[]"), int(port))
