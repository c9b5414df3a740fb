"""The composition root: creates all objects of the application and passes them to each other.

Read `create_app` first: it shows which parts there are and what each of them uses.
"""

import gc
import logging
import os
import time
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any, NamedTuple

from flask import Blueprint, Flask, Response, request

from kafka_http import metrics
from kafka_http.broker import KafkaBroker
from kafka_http.broker.client_settings import check_client_settings
from kafka_http.broker.open_file_limit import OpenFileLimit
from kafka_http.broker_protocols import Broker
from kafka_http.config import Config, ConfigError
from kafka_http.config.reloading import reloaded_config
from kafka_http.config.settings import deprecation_warnings
from kafka_http.consumers.instance_registry import InstanceRegistry
from kafka_http.consumers.instance_service import InstanceLocator, InstanceService, MemoryInstanceStore
from kafka_http.environ import REQUEST_FACTS, REQUEST_STARTED
from kafka_http.errors import KafkaHttpError, Unavailable
from kafka_http.event_loop import EventLoop
from kafka_http.metrics_files import MetricFiles
from kafka_http.node.callbacks import CallbackGuard
from kafka_http.node.daemon_client import DaemonClient
from kafka_http.node.data_directory import DataDirectory
from kafka_http.node.store import parse_store_url
from kafka_http.publish.deferred_publish import DeferredPublisher, TaskSubmitter, new_task_submitter
from kafka_http.publish.idempotency_keys import IdempotencyService, MemoryIdempotencyKeys
from kafka_http.request_facts import RequestFacts, request_facts
from kafka_http.schemas.registry_settings import RegistrySettings
from kafka_http.schemas.serializers import load_serializers
from kafka_http.security.acl_cache import AclCache
from kafka_http.security.check_point import CheckPoint
from kafka_http.security.forwarded_calls import ForwardedCalls
from kafka_http.security.security_state import load_security
from kafka_http.security.server_tls import ServerTls, load_node_tls, load_server_tls
from kafka_http.security.shared_counters import SharedCounters
from kafka_http.security.trusted_networks import TrustedNetworks
from kafka_http.tasks import Tasks
from kafka_http.web.access_check import AccessCheck, check_all_routes_listed
from kafka_http.web.access_routes import AccessRoutes
from kafka_http.web.api_description import ApiDescription
from kafka_http.web.browser_guard import BrowserGuard
from kafka_http.web.console.console_routes import ConsoleRoutes
from kafka_http.web.content_coding import compress_response
from kafka_http.web.cors import CrossOriginSharing
from kafka_http.web.fast_path_publish import FastPathPublishes
from kafka_http.web.groups import GroupRoutes
from kafka_http.web.health import HealthRoutes
from kafka_http.web.idempotent_publish import IdempotentPublish
from kafka_http.web.instance_routes import InstanceRoutes
from kafka_http.web.manual_pages import ManualRoutes
from kafka_http.web.messages.message_routes import MessageRoutes
from kafka_http.web.metrics_exposition import MetricsExposition, MetricsServer
from kafka_http.web.metrics_routes import MetricsRoutes
from kafka_http.web.page_memory import PageMemoryBudget
from kafka_http.web.publish_view import PublishView
from kafka_http.web.request_bodies import ReceivePolicy, RequestBodies, drain_body
from kafka_http.web.responses import STATUS_LINES, common_headers, register_error_handlers, set_request_id
from kafka_http.web.rest_v2.consumer_routes import V2ConsumerRoutes
from kafka_http.web.rest_v2.topic_routes import V2TopicRoutes
from kafka_http.web.root_page import RootRoutes
from kafka_http.web.services import Services
from kafka_http.web.task_routes import TaskRoutes
from kafka_http.web.topic_hints import TopicHints
from kafka_http.web.topics import TopicRoutes
from kafka_http.web.url_paths import SegmentConverter, check_target
from kafka_http.web.wait_limiter import WaitLimiter

log = logging.getLogger(__name__)

_SUBMIT_SECONDS = 5.0
"""Seconds at the end of the process to hand the last tasks to the outbox."""
_KEY_STORE_SECONDS = 2.0
"""Seconds at the end of the process to store the last responses for idempotency keys."""


def create_app(config: Config, broker: Broker | None = None) -> Flask:
    """Create the WSGI application.

    It connects to nothing before the first request, so you may call this before a fork. `broker` replaces Kafka in
    tests. `app.extensions["kafka_http"]` is the `AppLifecycle`, which the server calls. Raises `ConfigError`.
    """
    _check_settings(config)
    # A daemon is another process, which cannot use the broker object of a test
    is_fake = broker is not None
    is_inline = config.daemon == "inline" or is_fake
    broker = broker or KafkaBroker(config)
    node = _inline_node(config, broker) if is_inline else _daemon_node(config)
    services = _new_services(config, broker)
    security = _new_security(config, broker)
    limits = RequestLimits(
        RequestBodies(config.max_in_flight),
        WaitLimiter(config.threads),
        PageMemoryBudget(config.max_answers_in_flight),
    )
    submitter = new_task_submitter(node.tasks)
    deferred = _deferred_publisher(config, broker, services, submitter)
    publish_view = PublishView(services.publisher, deferred, config.max_records, limits.bodies.reserve)
    servers = ", ".join(config.bootstrap_servers)
    publish = IdempotentPublish(node.idempotency, publish_view, limits.bodies.reserve, config.threads, servers)

    # Tests with a broker of their own run many applications in one process
    metric_files = None if is_fake else MetricFiles(config.data_dir, DataDirectory(config.data_dir).create)
    lifecycle = AppLifecycle(config, broker, services, node, submitter, metric_files=metric_files)
    lifecycle.bodies = limits.bodies
    lifecycle.security, lifecycle.idempotent_publish = security, publish
    lifecycle.tls = security.tls
    lifecycle.fast_path = None
    hints = TopicHints(config)
    if config.fast_path:
        lifecycle.fast_path = _fast_path(config, services, security, publish_view, publish, hints=hints)
    app = _new_app(config, lifecycle, security, limits.page_memory)
    hints.register(app)
    forwarded = ForwardedCalls(node.locator.node_secret) if node.locator else None
    check = AccessCheck(app, security.check_point, security.trusted, forwarded)
    app.before_request(lambda: check_target(request))
    lifecycle.request_policy = ReceivePolicy(config, limits.bodies, check.admit_early, check.admit_connection)
    for blueprint in _blueprints(
        config, services, node, broker=broker, security=security, limits=limits, publish=publish, hints=hints
    ):
        app.register_blueprint(blueprint)
    app.register_blueprint(lifecycle.metrics_routes().blueprint())
    check_all_routes_listed(app)
    return app


class RequestLimits(NamedTuple):
    """Limits that all routes share: bodies and pages in memory, and waiting requests."""

    bodies: RequestBodies
    waiting: WaitLimiter
    page_memory: PageMemoryBudget


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


def _new_security(config: Config, broker: Broker) -> Security:
    shared, acls = SharedCounters.create(), AclCache(broker.acls)
    check_point = CheckPoint(lambda: load_security(reloaded_config(config), shared, acls))
    acls.on_change = check_point.expire_decisions
    return Security(
        check_point,
        shared,
        acls,
        TrustedNetworks(config.trusted_proxies),
        BrowserGuard(config, check_point),
        CrossOriginSharing(check_point),
        load_server_tls(config),
        load_node_tls(config),
    )


def _fast_path(
    config: Config,
    services: Services,
    security: Security,
    publish_view: PublishView,
    publish: IdempotentPublish,
    *,
    hints: TopicHints,
) -> FastPathPublishes:
    return FastPathPublishes(
        publish_view,
        publish,
        services.formats,
        config,
        guard=security.guard,
        cors=security.cors,
        check_point=security.check_point,
        trusted=security.trusted,
        hints=hints,
    )


def _blueprints(
    config: Config,
    services: Services,
    node: "NodeResources",
    *,
    broker: Broker,
    security: Security,
    limits: RequestLimits,
    publish: IdempotentPublish,
    hints: TopicHints,
) -> Iterator[Blueprint]:
    """Yield all routes."""
    bodies, waiting, page_memory = limits
    shared: dict[str, Any] = {"page_memory": page_memory, "check_point": security.check_point}
    yield MessageRoutes(services, config, bodies, waiting, publish, **shared, hints=hints).blueprint()
    yield TopicRoutes(services, broker.topic_admin, config, bodies).blueprint()
    yield V2TopicRoutes(services, config, bodies, publish).blueprint()
    nodes: dict[str, Any] = {"locator": node.locator, "node_tls": security.node_tls}
    yield V2ConsumerRoutes(services, node.instances, config, bodies, waiting, **shared, **nodes).blueprint()
    yield GroupRoutes(services.groups).blueprint()
    yield InstanceRoutes(node.instances).blueprint()
    yield TaskRoutes(node.tasks, waiting, config.task_retention).blueprint()
    yield AccessRoutes(services.formats.names, has_topic_admin=config.topic_admin).blueprint()
    yield HealthRoutes(broker.log, node.is_daemon_hung).blueprint()
    yield RootRoutes(config).blueprint()
    yield ManualRoutes().blueprint()
    yield ApiDescription(config).blueprint()
    if config.console:
        yield ConsoleRoutes().blueprint()


class NodeResources(NamedTuple):
    """State that outlives a request. The node's daemon holds it for all workers, or this process holds it inline."""

    instances: InstanceService
    tasks: Tasks
    idempotency: IdempotencyService
    start: Callable[[], None]
    close_before_broker: Callable[[], None]
    """Called at the end while this process is still connected to Kafka."""
    close_after_broker: Callable[[], None]
    locator: InstanceLocator | None = None
    """Finds the node of a consumer instance; None if there is only one node."""
    is_daemon_hung: Callable[[], bool] = lambda: False


def _inline_node(config: Config, broker: Broker) -> NodeResources:
    """Hold consumer instances and idempotency keys in this process, until it ends."""
    from kafka_http.node.node_outbox import InlineOutbox  # workers with a daemon do not need its imports

    registry = InstanceRegistry(
        broker, MemoryInstanceStore(), limit=config.max_consumer_instances, idle_timeout=config.consumer_idle_timeout
    )
    tasks = InlineOutbox(config, broker.producer)
    idempotency = IdempotencyService(MemoryIdempotencyKeys(config.idempotency_retention), lambda: "")

    def close() -> None:
        tasks.close()
        registry.close(leave=True)

    return NodeResources(registry, tasks, idempotency, tasks.start, close, lambda: None)


def _daemon_node(config: Config) -> NodeResources:
    """Use the daemon's consumer instances, tasks and idempotency keys."""
    daemon = DaemonClient(config)
    idempotency = IdempotencyService(daemon.keys, lambda: daemon.worker, is_responding=False)
    return NodeResources(
        daemon.instances,
        daemon.tasks,
        idempotency,
        start=daemon.start,
        close_before_broker=lambda: None,
        close_after_broker=daemon.close,
        locator=daemon.nodes if config.store_url else None,
        is_daemon_hung=lambda: daemon.is_hung,
    )


class AppLifecycle:
    """Starts and stops the application in a worker process. The server calls it as its `ServerHooks`.

    `create_app` creates it before the fork; each worker calls `start`, `stop` and `close` in its main thread.
    """

    security: Security
    request_policy: ReceivePolicy
    idempotent_publish: IdempotentPublish
    fast_path: FastPathPublishes | None
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


def _check_settings(config: Config) -> None:
    """Log deprecated settings. Raise `ConfigError` for settings that only the libraries that use them can check."""
    check_client_settings(config)
    for warning in deprecation_warnings(config):
        log.warning("%s", warning)
    if config.store_url:
        parse_store_url(config.store_url)


def _new_services(config: Config, broker: Broker) -> Services:
    registry = RegistrySettings.from_config(config.schema_registry, config.sources)
    return Services(broker, load_serializers(config.serializers, registry), config.topics, config.max_streams)


def _deferred_publisher(
    config: Config, broker: Broker, services: Services, submitter: TaskSubmitter
) -> DeferredPublisher:
    check_callback = CallbackGuard.from_config(config).check_url
    return DeferredPublisher(
        broker.log, services.formats, submitter, check_callback, auto_create_topics=config.auto_create_topics
    )


def _new_app(config: Config, lifecycle: AppLifecycle, security: Security, page_memory: PageMemoryBudget) -> Flask:
    """Create the Flask application without routes: URL rules, and the steps before and after each request."""
    app = Flask("kafka_http", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = config.max_body_bytes
    app.url_map.strict_slashes = False
    app.url_map.converters["default"] = SegmentConverter
    app.extensions["kafka_http"] = lifecycle
    app.before_request(lifecycle.start_with_request)
    app.before_request(_set_request_id)
    app.before_request(_set_request_facts)
    app.before_request(lambda: security.guard.check(request))
    app.before_request(lambda: security.cors.answer_preflight(request))
    app.teardown_request(_end_request)
    app.after_request(_finish_response)
    app.after_request(lambda response: security.cors.finish(request, response))
    app.after_request(page_memory.track_response)
    register_error_handlers(app)
    return app


def _metrics_server(config: Config, exposition: MetricsExposition) -> MetricsServer | None:
    if not config.metrics_bind:
        return None
    host, _, port = config.metrics_bind.rpartition(":")
    return MetricsServer(exposition, host.strip("[]"), int(port))


def _set_request_id() -> None:
    set_request_id(request.headers.get("X-Request-Id"))


def _set_request_facts() -> None:
    route = "none" if request.url_rule is None else request.url_rule.rule
    facts = RequestFacts(route, (request.view_args or {}).get("topic", ""))
    request.environ[REQUEST_FACTS] = facts
    request_facts.set(facts)
    request.environ.setdefault(REQUEST_STARTED, time.monotonic())
    metrics.REQUESTS_IN_FLIGHT.add(1, "view")


def _end_request(_: BaseException | None) -> None:
    if REQUEST_FACTS in request.environ:
        metrics.REQUESTS_IN_FLIGHT.add(-1, "view")


def _finish_response(response: Response) -> Response:
    for name, value in common_headers():
        response.headers.setdefault(name, value)
    response.status = STATUS_LINES.get(response.status_code, response.status)
    if response.status_code == 204:
        del response.headers["Content-Type"]
    response = drain_body(request, compress_response(request, response))
    _count_request(response)
    return response


def _count_request(response: Response) -> None:
    """Count a request, before the server sends the response."""
    environ = request.environ
    seconds = time.monotonic() - environ.get(REQUEST_STARTED, time.monotonic())
    facts: RequestFacts = environ.get(REQUEST_FACTS) or RequestFacts()
    metrics.count_request(facts.route, request.method, response.status_code, seconds)
