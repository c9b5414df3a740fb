"""Fixtures that put granian in gunicorn's place."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kafka_http.demo.embedded import EmbeddedKafka
from tests.integration.conftest import ServiceFactory, running, starting_services
from tests.integration.service import Service


@pytest.fixture(scope="module")
def shared_service(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(Service(tmp_path_factory.mktemp("granian"), kafka.bootstrap_servers, server="granian")) as service:
        yield service


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[ServiceFactory]:
    yield from starting_services(tmp_path, server="granian")
