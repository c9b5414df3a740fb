"""Fixtures: Flask's test client over a fake broker."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

import kafka_http.app
from kafka_http.app import create_app
from kafka_http.app_lifecycle import NodeResources
from kafka_http.broker_protocols import Broker
from kafka_http.config import Config
from kafka_http.config.sources import load_config
from tests.support.described_responses import DescribedClient
from tests.support.fake_broker import FakeBroker
from tests.support.fast_path_app import FastPathMiddleware
from tests.support.planted_secrets import plant_settings
from tests.support.thread_queues import ThreadQueues

ClientFactory = Callable[..., FlaskClient]


@pytest.fixture
def broker() -> FakeBroker:
    """A cluster with the topics `t` (one partition) and `three` (three)."""
    broker = FakeBroker()
    broker.create_topic("t")
    broker.create_topic("three", partitions=3)
    return broker


@pytest.fixture
def is_fast_path() -> bool:
    """Whether publishes take the fast path, as in a server's main loop, or the views. Publish tests try both."""
    return False


@pytest.fixture
def make_client(
    broker: FakeBroker, is_fast_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClientFactory]:
    """`make_client(**settings)` gives a client of an application with these settings.

    All responses must be as `kafka_http/web/openapi.json` describes them.
    """
    made: list[Flask] = []
    undescribed: list[str] = []
    queues: list[ThreadQueues] = []
    inline_node = kafka_http.app._inline_node

    def node_with_loop_queues(config: Config, broker: Broker) -> NodeResources:
        node = inline_node(config, broker)
        queues.append(ThreadQueues(node.queues))
        return node._replace(loop_queues=queues[-1])

    if is_fast_path:
        monkeypatch.setattr(kafka_http.app, "_inline_node", node_with_loop_queues)

    def make(**settings: Any) -> FlaskClient:
        plant_settings(settings)
        data_dir = str(tmp_path / f"data-{len(made)}")
        app = create_app(load_config({"data_dir": data_dir, **settings}, environ={}), broker)
        app.testing = False
        made.append(app)
        if is_fast_path:
            app.wsgi_app = FastPathMiddleware(app)  # type: ignore[method-assign]
        app.test_client_class = partial(DescribedClient, problems=undescribed)  # type: ignore[assignment]
        return app.test_client()

    yield make
    broker.down = False
    for app in made:
        app.extensions["kafka_http"].close(1)
    for each in queues:
        each.close()
    assert undescribed == [], "kafka_http/web/openapi.json does not describe it"


@contextlib.contextmanager
def changed_environ(client: FlaskClient, **changes: str | None) -> Iterator[None]:
    """Change the WSGI environ of the client's requests; None removes a key. The client itself cannot send every host,
    since it parses the URL of each request.
    """
    app = client.application
    wsgi = app.wsgi_app

    def changed(environ: Any, start_response: Any) -> Any:
        environ = {**environ, **changes}
        return wsgi({key: value for key, value in environ.items() if value is not None}, start_response)

    app.wsgi_app = changed  # type: ignore[method-assign]
    try:
        yield
    finally:
        app.wsgi_app = wsgi  # type: ignore[method-assign]


@pytest.fixture
def client(make_client: ClientFactory) -> FlaskClient:
    return make_client()
