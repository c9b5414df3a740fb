"""The composition root: builds what the settings ask for and puts it together."""

import gc
import logging
import os
from collections.abc import Callable, Sequence
from threading import Thread
from typing import NamedTuple

from flask import Flask, Response, request

from kafka_http.broker import KafkaBroker
from kafka_http.broker.client_settings import check_client_settings
from kafka_http.broker.open_file_limit import OpenFileLimit
from kafka_http.broker_protocols import Broker
from kafka_http.config import Config
from kafka_http.consumers.instance_registry import InstanceRegistry
from kafka_http.consumers.instance_service import InstanceLocator, InstanceService, MemoryInstanceStore
from kafka_http.errors import KafkaHttpError, Unavailable
from kafka_http.node.callbacks import CallbackGuard
from kafka_http.node.daemon_client import DaemonClient
from kafka_http.node.store import parse_store_url
from kafka_http.publish.deferred_publish import DeferredPublisher, TaskSubmitter
from kafka_http.publish.idempotency_keys import IdempotencyService, MemoryIdempotencyKeys
from kafka_http.schemas.registry_settings import RegistrySettings
from kafka_http.schemas.serializers import load_serializers
from kafka_http.tasks import Tasks
from kafka_http.web.browser_guard import BrowserGuard
from kafka_http.web.console.console_routes import ConsoleRoutes
from kafka_http.web.content_coding import compress_answer
from kafka_http.web.fast_path_publish import FastPathPublishes
from kafka_http.web.health import HealthRoutes
from kafka_http.web.idempotent_publish import IdempotentPublish
from kafka_http.web.instance_routes import InstanceRoutes
from kafka_http.web.manual_pages import ManualRoutes
from kafka_http.web.messages.message_routes import MessageRoutes
from kafka_http.web.messages.publish_view import PublishView
from kafka_http.web.page_memory import PageMemoryBudget
from kafka_http.web.receive_policy import ReceivePolicy
from kafka_http.web.rendered_responses import STATUS_LINES, number_request, tags
from kafka_http.web.request_bodies import RequestBodies, drain
from kafka_http.web.responses import register_error_handlers
from kafka_http.web.rest_v2.consumer_routes import V2ConsumerRoutes
from kafka_http.web.rest_v2.instance_forwarding import Forwarding
from kafka_http.web.rest_v2.topic_routes import V2TopicRoutes
from kafka_http.web.root_page import RootRoutes
from kafka_http.web.services import Services
from kafka_http.web.task_routes import TaskRoutes
from kafka_http.web.trusted_proxies import TrustedProxies
from kafka_http.web.url_paths import NormalizedPaths, SegmentConverter, check_target
from kafka_http.web.wait_limiter import WaitLimiter

log = logging.getLogger(__name__)

_CONCLUDE_SECONDS = 2.0
"""How long the daemon may take for what Kafka said last."""


class NodeResources(NamedTuple):
    """What outlives a request, and what this process does about it at its start and its end."""

    instances: InstanceService
    tasks: Tasks
    idempotency: IdempotencyService
    start: Callable[[], None]
    close: Callable[[], None]
    """While Kafka is there still."""
    leave: Callable[[], None]
    """When it is not."""
    nodes: InstanceLocator | None = None
    is_daemon_silent: Callable[[], bool] = lambda: False


class AppLifecycle:
    """What a server tells the application of its start and its end."""

    def __init__(
        self,
        core: Services,
        broker: Broker,
        held: NodeResources,
        acceptor: TaskSubmitter,
        publishes: FastPathPublishes | None,
        *,
        servers: Sequence[str],
        receiving: ReceivePolicy,
    ) -> None:
        """`servers`: the brokers of the settings."""
        self.publishes = publishes
        """Takes publishes that need no thread, for a server that can do so."""
        self.receiving = receiving
        self._core = core
        self._broker = broker
        self._held = held
        self._acceptor = acceptor
        self._servers = servers
        self._descriptors = OpenFileLimit(1, "streams")
        self._process = 0

    def started(self) -> None:
        """This process, forked if it is to be, serves requests from now on. Does not block. Once is enough."""
        if self._process == os.getpid():
            return
        self._process = os.getpid()
        try:
            self._descriptors.check(self._core.streams.limit)
        except Unavailable as error:
            log.warning("%s", error.message)
        gc.freeze()  # what is there now stays: not to be walked again and again for each thousand records
        self._held.start()

    def check_brokers(self) -> None:
        """Log the brokers of the settings, and in a moment whether they answer. Does not block, connects in this
        process alone, and changes nothing: Kafka may come later."""
        log.info("Kafka brokers: %s. Checking once; the server does not wait for them.", ", ".join(self._servers))
        Thread(target=self._check_brokers, name="broker check", daemon=True).start()

    def _check_brokers(self) -> None:
        try:
            found = len(self._broker.log.brokers())
        except KafkaHttpError as error:
            log.warning("%s The server keeps running and connects when a request needs Kafka.", error.message)
        else:
            log.info("Kafka answers: %d broker%s in the cluster.", found, "" if found == 1 else "s")

    def stopping(self) -> None:
        """No new requests come; those that wait for messages are answered within a second, and streams end. Does not
        block."""
        self._core.stop()

    def close(self, timeout: float) -> None:
        """Flush what was handed to Kafka, for `timeout` seconds at most. No request may be in flight any more."""
        self._acceptor.close()
        self._held.close()
        self._broker.close(timeout)
        self._held.idempotency.close(_CONCLUDE_SECONDS)
        self._held.leave()


def create_app(config: Config, broker: Broker | None = None) -> Flask:
    """The WSGI application. Connects to nothing before its first request, so it may be made before a fork.

    `app.extensions["kafka_http"]` is its `AppLifecycle`. Raises `ConfigError`.
    """
    check_client_settings(config)
    if source := config.sources.get("server"):
        log.warning("The setting server (%s) has no effect: gunicorn is the only server.", source)
    if config.store_url:
        parse_store_url(config.store_url)
    inline = config.daemon == "inline" or broker is not None  # a daemon would not know of this broker
    broker = broker or KafkaBroker(config)
    registry = RegistrySettings.of(config.schema_registry, config.sources)
    core = Services(broker, load_serializers(config.serializers, registry), config.topics, config.max_streams)
    held = _in_this_process(config, broker) if inline else _in_the_daemon(config)
    bodies, waits = RequestBodies(config.max_in_flight), WaitLimiter(config.threads)
    acceptor = TaskSubmitter(held.tasks)
    deferred = _deferred_publisher(config, broker, core, acceptor)
    publishing = PublishView(core.publisher, deferred, config.max_records, bodies.hold)
    once = IdempotentPublish(held.idempotency, publishing)
    senders = (broker.producer.send, acceptor.send)
    guard = BrowserGuard(config)
    plain = FastPathPublishes(publishing, core.formats, config, bodies, senders, guard=guard)
    publishes = plain if config.threadless_publish else None
    answers = PageMemoryBudget(config.max_answers_in_flight)
    receiving = ReceivePolicy(config, bodies)
    servers = config.bootstrap_servers
    lifecycle = AppLifecycle(core, broker, held, acceptor, publishes, servers=servers, receiving=receiving)
    app = _new_app(config, lifecycle, guard, answers)
    app.register_blueprint(MessageRoutes(core, config, bodies, waits, once, answers=answers).blueprint())
    app.register_blueprint(V2TopicRoutes(core, config, bodies, once).blueprint())
    consumers = V2ConsumerRoutes(core, held.instances, config, bodies, waits, answers=answers).blueprint()
    if held.nodes is not None:
        consumers.before_request(Forwarding(held.nodes, bodies, waits).pass_on)
    app.register_blueprint(consumers)
    app.register_blueprint(InstanceRoutes(held.instances).blueprint())
    app.register_blueprint(TaskRoutes(held.tasks, waits, config.task_retention).blueprint())
    app.register_blueprint(HealthRoutes(broker.log, held.is_daemon_silent).blueprint())
    app.register_blueprint(RootRoutes(config).blueprint())
    app.register_blueprint(ManualRoutes().blueprint())
    if config.console:
        app.register_blueprint(ConsoleRoutes().blueprint())
    return app


def _new_app(config: Config, lifecycle: AppLifecycle, guard: BrowserGuard, answers: PageMemoryBudget) -> Flask:
    """The application without its views: what holds for each request."""
    app = Flask("kafka_http", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = config.max_body_bytes
    app.url_map.strict_slashes = False
    app.url_map.converters["default"] = SegmentConverter
    app.extensions["kafka_http"] = lifecycle
    app.before_request(lifecycle.started)  # for servers that do not say so
    app.before_request(_number)
    app.before_request(lambda: guard.check(request))
    app.before_request(lambda: check_target(request))
    app.after_request(_finish)
    app.after_request(answers.finish)
    register_error_handlers(app)
    app.wsgi_app = TrustedProxies(NormalizedPaths(app.wsgi_app), config.trusted_proxies)  # type: ignore[method-assign]
    return app


def _deferred_publisher(config: Config, broker: Broker, core: Services, acceptor: TaskSubmitter) -> DeferredPublisher:
    check_callback = CallbackGuard.from_config(config).check_url
    return DeferredPublisher(
        broker.log, core.formats, acceptor, check_callback, auto_create_topics=config.auto_create_topics
    )


def _in_this_process(config: Config, broker: Broker) -> NodeResources:
    """Consumer instances and idempotency keys that end with this process: it keeps nothing of them."""
    registry = InstanceRegistry(
        broker, MemoryInstanceStore(), limit=config.max_consumer_instances, idle_timeout=config.consumer_idle_timeout
    )
    from kafka_http.node.node_outbox import InlineOutbox  # no other worker needs what it imports

    tasks = InlineOutbox(config, broker.producer)
    idempotency = IdempotencyService(MemoryIdempotencyKeys(config.idempotency_retention), lambda: "")

    def close() -> None:
        tasks.close()
        registry.close(leave=True)

    return NodeResources(registry, tasks, idempotency, tasks.start, close, lambda: None)


def _in_the_daemon(config: Config) -> NodeResources:
    daemon = DaemonClient(config)
    idempotency = IdempotencyService(daemon.keys, lambda: daemon.worker)
    nodes = daemon.nodes if config.store_url else None
    return NodeResources(
        *(daemon.instances, daemon.tasks, idempotency, daemon.start, lambda: None, daemon.close, nodes),
        is_daemon_silent=lambda: daemon.is_hung,
    )


def _number() -> None:
    number_request(request.headers.get("X-Request-Id"))


def _finish(response: Response) -> Response:
    for name, value in tags():
        response.headers[name] = value
    response.status = STATUS_LINES.get(response.status_code, response.status)
    if response.status_code == 204:
        del response.headers["Content-Type"]
    return drain(request, compress_answer(request, response))
