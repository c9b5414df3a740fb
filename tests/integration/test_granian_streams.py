"""Streams under granian, where each has a thread."""

from collections.abc import Iterator

import pytest

from kafka_http.demo.embedded import EmbeddedKafka
from tests.integration.conftest import running
from tests.integration.service import Service
from tests.integration.test_streams import (
    KEEPALIVE,
    MAX_STREAMS,
    test_a_client_that_is_gone_makes_room_within_the_keep_alive,  # noqa: F401
    test_a_slow_client_delays_nobody_and_loses_nothing,  # noqa: F401
    test_a_topic_that_goes_ends_its_streams,  # noqa: F401
    test_an_export_is_good_to_import,  # noqa: F401
    test_messages_come_as_they_are_published,  # noqa: F401
)


@pytest.fixture(scope="module")
def streaming(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {"workers": 1, "max_streams": MAX_STREAMS, "stream_keepalive": KEEPALIVE, "server": "granian"}
    with running(Service(tmp_path_factory.mktemp("streaming"), kafka.bootstrap_servers, **settings)) as service:
        yield service
