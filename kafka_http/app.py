"""The composition root: creates all objects of the application and passes them to each other.

Read `create_app` first: it shows which parts there are and what each of them uses.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from flask import Blueprint, Flask, Response, request

from kafka_http import metrics
from kafka_http.app_lifecycle import AppLifecycle, NodeResources, Security
from kafka_http.broker import KafkaBroker
from kafka_http.broker.client_settings import check_client_settings
from kafka_http.broker_protocols import Broker
from kafka_http.config import Config
from kafka_http.config.reloading import reloaded_config
from kafka_http.config.settings import deprecation_warnings
from kafka_http.consumers.instance_registry import InstanceRegistry
from kafka_http.consumers.instance_service import MemoryInstanceStore
from kafka_http.consumers.queue_registry import QueueRegistry
from kafka_http.environ import REQUEST_FACTS, REQUEST_STARTED
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
from kafka_http.security.server_tls import load_node_tls, load_server_tls
from kafka_http.security.shared_counters import SharedCounters
from kafka_http.security.trusted_networks import TrustedNetworks
from kafka_http.web.access_check import AccessCheck, check_all_routes_listed
from kafka_http.web.access_routes import AccessRoutes
from kafka_http.web.api_description import ApiDescription
from kafka_http.web.browser_guard import BrowserGuard
from kafka_http.web.console.console_routes import ConsoleRoutes
from kafka_http.web.content_coding import compress_response
from kafka_http.web.cors import CrossOriginSharing
from kafka_http.web.fast_path import FastPathRequests, FastPathRoute
from kafka_http.web.fast_path_publish import FastPathPublishes
from kafka_http.web.fast_path_queue import FastPathQueues
from kafka_http.web.groups import GroupRoutes
from kafka_http.web.health import HealthRoutes
from kafka_http.web.idempotent_publish import IdempotentPublish
from kafka_http.web.instance_routes import InstanceRoutes
from kafka_http.web.manual_pages import ManualRoutes
from kafka_http.web.messages.message_routes import MessageRoutes
from kafka_http.web.node_calls import NodeCalls
from kafka_http.web.page_memory import PageMemoryBudget
from kafka_http.web.publish_view import PublishView
from kafka_http.web.queue import QueueRoutes
from kafka_http.web.queue_nodes import QueueNodes
from kafka_http.web.queue_pages import QueuePages
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


def create_app(config: Config, broker: Broker | None = None) -> Flask:
    """Create the WSGI application.

    It connects to nothing before the first request, so you may call this before a fork. `broker` replaces Kafka in
    tests. `app.extensions["kafka_http"]` is the `AppLifecycle`, which the server calls. Raises `ConfigError`.
    """
    _check_settings(config)
    is_fake = broker is not None
    broker = broker or KafkaBroker(config)
    # A daemon is another process, which cannot use the broker object of a test
    node = _inline_node(config, broker) if is_fake or config.daemon == "inline" else _daemon_node(config)
    services = _new_services(config, broker)
    security = _new_security(config, broker)
    limits = _new_limits(config)
    submitter = new_task_submitter(node.tasks)
    publish_view, publish = _new_publish(config, broker, services, node, limits.bodies, submitter=submitter)

    # Tests with a broker of their own run many applications in one process
    metric_files = None if is_fake else MetricFiles(config.data_dir, DataDirectory(config.data_dir).create)
    lifecycle = AppLifecycle(config, broker, services, node, submitter, metric_files=metric_files)
    lifecycle.bodies, lifecycle.idempotent_publish = limits.bodies, publish
    lifecycle.security, lifecycle.tls = security, security.tls
    hints = TopicHints(config)
    app = _new_app(config, lifecycle, security, limits.page_memory)
    hints.register(app)
    forwarded = ForwardedCalls(node.locator.node_secret) if node.locator else None
    check = AccessCheck(app, security.check_point, security.trusted, forwarded)
    app.before_request(lambda: check_target(request))
    lifecycle.request_policy = ReceivePolicy(config, limits.bodies, check.admit_early, check.admit_connection)
    shared: dict[str, Any] = {"security": security, "limits": limits, "hints": hints}
    for blueprint in _blueprints(config, services, node, broker=broker, publish=publish, **shared):
        app.register_blueprint(blueprint)
    queues, queues_on_loop = _new_queues(services, node, lifecycle.queue_pages, forwarded=forwarded, **shared)
    app.register_blueprint(queues.blueprint())
    publishes = FastPathPublishes(publish_view, publish, services.formats, config, hints)
    lifecycle.fast_path = _fast_path([publishes, queues_on_loop], config, security)
    app.register_blueprint(lifecycle.metrics_routes().blueprint())
    check_all_routes_listed(app)
    return app


class RequestLimits(NamedTuple):
    """Limits that all routes share: bodies and pages in memory, and waiting requests."""

    bodies: RequestBodies
    waiting: WaitLimiter
    page_memory: PageMemoryBudget


def _new_limits(config: Config) -> RequestLimits:
    bodies, waiting = RequestBodies(config.max_in_flight), WaitLimiter(config.threads)
    return RequestLimits(bodies, waiting, PageMemoryBudget(config.max_answers_in_flight))


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


def _fast_path(routes: Sequence[FastPathRoute], config: Config, security: Security) -> FastPathRequests | None:
    """Return what answers requests without a thread; None if the setting is off."""
    if not config.fast_path:
        return None
    return FastPathRequests(
        routes,
        config,
        guard=security.guard,
        cors=security.cors,
        check_point=security.check_point,
        trusted=security.trusted,
    )


def _blueprints(
    config: Config,
    services: Services,
    node: NodeResources,
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


def _new_queues(
    services: Services,
    node: NodeResources,
    pages: QueuePages,
    *,
    security: Security,
    limits: RequestLimits,
    forwarded: ForwardedCalls | None,
    hints: TopicHints,
) -> tuple[QueueRoutes, FastPathQueues]:
    """Return the views of queues, and what calls them on the fast path."""
    nodes = QueueNodes(node.queues, node.queue_locator, NodeCalls("the message", security.node_tls), forwarded)
    shared: dict[str, Any] = {"page_memory": limits.page_memory, "check_point": security.check_point}
    return (
        QueueRoutes(services, node.queues, nodes, pages, wait_limiter=limits.waiting, **shared),
        FastPathQueues(node.loop_queues, services, nodes, pages, **shared, hints=hints),
    )


def _inline_node(config: Config, broker: Broker) -> NodeResources:
    """Hold consumer instances, queues and idempotency keys in this process, until it ends."""
    from kafka_http.node.node_outbox import InlineOutbox  # workers with a daemon do not need its imports

    registry = InstanceRegistry(
        broker, MemoryInstanceStore(), limit=config.max_consumer_instances, idle_timeout=config.consumer_idle_timeout
    )
    queues = QueueRegistry(broker, attempts=config.queue_attempts)
    tasks = InlineOutbox(config, broker.producer)
    idempotency = IdempotencyService(MemoryIdempotencyKeys(config.idempotency_retention), lambda: "")

    def close() -> None:
        queues.close()
        tasks.close()
        registry.close(leave=True)

    return NodeResources(registry, queues, tasks, idempotency, tasks.start, close, lambda: None)


def _daemon_node(config: Config) -> NodeResources:
    """Use the daemon's consumer instances, queues, tasks and idempotency keys."""
    daemon = DaemonClient(config)
    idempotency = IdempotencyService(daemon.keys, lambda: daemon.worker, is_responding=False)
    return NodeResources(
        daemon.instances,
        daemon.queues,
        daemon.tasks,
        idempotency,
        start=daemon.start,
        close_before_broker=lambda: None,
        close_after_broker=daemon.close,
        locator=daemon.nodes if config.store_url else None,
        queue_locator=daemon.queue_nodes if config.store_url else None,
        is_daemon_hung=lambda: daemon.is_hung,
        loop_queues=daemon.loop_queues,
        attach=daemon.attach,
    )


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


def _new_publish(
    config: Config,
    broker: Broker,
    services: Services,
    node: NodeResources,
    bodies: RequestBodies,
    *,
    submitter: TaskSubmitter,
) -> tuple[PublishView, IdempotentPublish]:
    deferred = _deferred_publisher(config, broker, services, submitter)
    view = PublishView(services.publisher, deferred, config.max_records, bodies.reserve)
    servers = ", ".join(config.bootstrap_servers)
    return view, IdempotentPublish(node.idempotency, view, bodies.reserve, config.threads, servers)


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
