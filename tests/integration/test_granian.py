"""`wsgi:app` under another WSGI server passes the same tests as `kafka-http serve`."""

import sys
from collections.abc import Iterator

import pytest

from kafka_http.demo.embedded import EmbeddedKafka
from tests.integration.service import Service
from tests.integration.test_messages import *  # noqa: F403
from tests.integration.test_publishing import *  # noqa: F403
from tests.integration.test_uploads import (  # noqa: F401
    test_a_body_with_a_length,
    test_expect_100_continue,
    test_order_within_a_partition,
    test_what_is_wrong_at_once_is_a_status,
)
from tests.integration.test_v2 import *  # noqa: F403
from tests.integration.test_v2_errors import *  # noqa: F403

pytestmark = pytest.mark.slow


class GranianService(Service):
    """granian, written in Rust: no thread of Python reads a request or writes an answer."""

    @property
    def command(self) -> list[str]:
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        size = ["--workers", str(self._worker_count), "--blocking-threads", "32", "--backpressure", "64"]
        return [sys.executable, "-m", "granian", "--interface", "wsgi", "--no-ws", *address, *size, "wsgi:app"]


@pytest.fixture(scope="module")
def granian(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = GranianService(tmp_path_factory.mktemp("granian"), kafka.bootstrap_servers, workers=2)
    try:
        service.start()
        yield service
    finally:
        service.stop()
        print(service.log)
    assert "Traceback" not in service.log


@pytest.fixture
def service(granian: Service) -> Service:
    return granian


@pytest.fixture
def workers_4(granian: Service) -> Service:
    return granian
