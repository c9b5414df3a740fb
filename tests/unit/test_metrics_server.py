"""The address `metrics_bind`, which serves only the metrics."""

import logging
import re
import socket
import struct
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from kafka_http.web.metrics_exposition import MetricsExposition, MetricsServer
from tests.support.polling import wait_for

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
LARGE = {f'["kafka_http_kafka_errors_total", "", "{number:01000}"]': 1.0 for number in range(20_000)}
"""More than a socket holds, so that the server notices that its client is gone."""


@pytest.fixture
def address(caplog: pytest.LogCaptureFixture) -> Iterator[tuple[str, int]]:
    with caplog.at_level(logging.DEBUG, "kafka_http"):
        server = MetricsServer(MetricsExposition(lambda: LARGE), "127.0.0.1", 0)
        server.listen()
        server.start()
        found = re.search(r"127\.0\.0\.1:(\d+)/metrics", caplog.text)
        assert found is not None
        yield "127.0.0.1", int(found[1])
        server.close()


def test_scraper_that_disconnects_leaves_no_traceback_on_stderr(
    address: tuple[str, int], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The base class prints tracebacks, which are no log lines: with log_format=json they were not JSON."""
    with socket.create_connection(address) as scraper:
        scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
        scraper.recv(1)
        scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    wait_for(lambda: "A scrape of metrics_bind failed" in caplog.text)
    assert capfd.readouterr().err == ""
    assert [each.levelname for each in caplog.records if "failed" in each.message] == ["DEBUG"]


def test_scraper_with_a_malformed_version_gets_the_plain_format(address: tuple[str, int]) -> None:
    connection = HTTPConnection(*address, timeout=30)
    connection.request("GET", "/metrics", headers={"Accept": "text/plain;version=x"})
    response = connection.getresponse()
    assert (response.status, response.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    connection.close()
