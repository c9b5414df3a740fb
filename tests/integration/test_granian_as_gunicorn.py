"""granian passes the same tests as gunicorn."""

from collections.abc import Iterator

import pytest

from kafka_http.demo.embedded import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import running
from tests.integration.granian_service import *  # noqa: F403
from tests.integration.service import Service, read_answers
from tests.integration.test_idempotency import (  # noqa: F401
    test_a_stop_waits_for_the_answer_to_be_kept,
    test_of_many_repeats_each_key_writes_one_message,
)
from tests.integration.test_messages import *  # noqa: F403
from tests.integration.test_outbox import (  # noqa: F401
    test_killed_while_it_publishes_it_loses_nothing,
    test_nothing_comes_twice_where_nothing_dies,
    test_the_task_says_where_the_message_is,
)
from tests.integration.test_publishing import *  # noqa: F403
from tests.integration.test_shutdown import *  # noqa: F403
from tests.integration.test_threadless import (  # noqa: F401
    CASES,
    Ways,
    both_ways,
    raw,
    test_a_client_that_reads_late_gets_all_of_a_large_answer,
    test_a_request_in_pieces,
    test_a_stop_answers_what_kafka_has_not_answered_yet,
    test_clients_that_leave_before_their_answer_take_nothing_along,
    test_many_on_few_connections_each_at_its_place,
    test_no_thread_waits_for_kafka,
    without_dates,
)
from tests.integration.test_uploads import test_a_body_with_a_length  # noqa: F401
from tests.integration.test_v2 import *  # noqa: F403
from tests.integration.test_v2_errors import *  # noqa: F403

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workers_4(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    given = {"workers": 4, "server": "granian"}
    with running(Service(tmp_path_factory.mktemp("v2"), kafka.bootstrap_servers, **given)) as service:
        yield service


@pytest.fixture(scope="module")
def ways(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    yield from both_ways(kafka, tmp_path_factory, server="granian")


@pytest.mark.parametrize("case", CASES)
def test_both_ways_answer_alike(ways: Ways, topic: TopicFactory, case: str) -> None:
    method, path, headers, body = CASES[case]
    answers = []
    for service in ways:
        name = topic(1, {"max.message.bytes": "2000"})
        assert service.put(f"/messages/{name}", b"the first").ok
        with service.connect() as client:
            client.sendall(raw(method, path.replace("{}", name), headers, body, f"id-of-{len(case)}"))
            ((status, said, text),) = read_answers(client, 1)
        said.pop("date")
        answers.append((status, said, without_dates(text, name)))
    assert answers[0] == answers[1]
