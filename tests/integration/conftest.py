"""The whole service for the tests: a real server in front of a real Kafka."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from kafka import KafkaAdminClient

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.embedded_registry import EmbeddedRegistry
from tests.support.console_browser import OpenConsole, chromium, consoles
from tests.support.server_process import Service

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ServiceFactory = Callable[..., Service]


@contextmanager
def running(service: Service) -> Iterator[Service]:
    """Run the service. At the end print its log and check that it contains no traceback."""
    with stopping(service):
        service.start()
        yield service
    assert "Traceback" not in service.log


@contextmanager
def stopping(service: Service) -> Iterator[None]:
    """Stop the service at the end, and print its log even if the stop fails."""
    try:
        yield
    finally:
        try:
            service.stop()
        finally:
            print(service.log)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A Chromium. Tests that need flags have a fixture of their own."""
    with chromium() as found:
        yield found


@pytest.fixture
def console(browser: "Browser", server: Service) -> Iterator[OpenConsole]:
    """Open consoles of the fixture `server`, which each module has."""
    with consoles(browser, server.url) as open_:
        yield open_


@pytest.fixture
def hang_up() -> Iterator[None]:
    """Restore the default handling of SIGHUP for started processes; nohup ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def shared_service(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(Service(tmp_path_factory.mktemp("service"), kafka.bootstrap_servers)) as service:
        yield service


@pytest.fixture
def service(shared_service: Service) -> Iterator[Service]:
    """The server that all tests share, in front of the shared broker: two workers, the default settings."""
    logged = len(shared_service.log)
    yield shared_service
    new = shared_service.log[logged:]
    print(new)
    assert "Traceback" not in new


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[ServiceFactory]:
    """`start_service(bootstrap_servers, **settings)` starts a server for one test, which may stop and kill it."""
    yield from starting_services(tmp_path)


def starting_services(tmp_path: Path, **given: Any) -> Iterator[ServiceFactory]:
    """Yield a function that starts services with `given` settings. All are stopped at the end."""
    started: list[Service] = []
    with ExitStack() as stack:

        def start(bootstrap_servers: str, **settings: Any) -> Service:
            directory = tmp_path / f"service-{len(started)}"
            directory.mkdir()
            started.append(Service(directory, bootstrap_servers, **given | settings))
            stack.enter_context(stopping(started[-1]))
            started[-1].start()
            return started[-1]

        yield start
    assert not [service.log for service in started if "Traceback" in service.log]


@pytest.fixture(scope="session")
def admin(kafka: EmbeddedKafka) -> Iterator[KafkaAdminClient]:
    """An admin client of kafka-python for the shared broker."""
    with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)) as client:
        yield client


class Judge(SchemaRegistryClient):
    """Asks for no associations, which Apicurio does not have: of a hundred such requests it leaves one unanswered."""

    def get_associations_by_resource_name(self, *_: Any, **__: Any) -> list[Any]:
        return []


@pytest.fixture(scope="session")
def judge(registry: EmbeddedRegistry) -> Iterator[SchemaRegistryClient]:
    """A registry client of confluent-kafka for the shared schema registry."""
    with Judge({"url": registry.url, "timeout": 30}) as client:
        yield client
