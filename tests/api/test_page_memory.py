"""The limit `max_answers_in_flight` on the memory of pages."""

import pytest

from kafka_http.web.page_memory import PageMemoryBudget
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.v2_consumer import Consumer, write

MIB = 1 << 20
VALUE = b"x" * (MIB // 4)


@pytest.fixture
def filled(broker: FakeBroker) -> FakeBroker:
    """16 MiB in the topic `t`."""
    write(broker, *[VALUE] * 64)
    return broker


def test_pages_shrink_then_return_503_until_responses_are_read(make_client: ClientFactory, filled: FakeBroker) -> None:
    client = make_client(max_answers_in_flight=32 * MIB)
    path = "/messages/t/me/earliest?max_bytes=16777216"
    sizes, taken = [], []
    for _ in range(80):
        response = client.get(path, buffered=False)
        taken.append(response)
        if response.status_code == 503:
            break
        sizes.append(int(response.headers["Content-Length"]))
    assert sizes[0] > 7 * MIB
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] / 2
    assert sum(sizes) <= 32 * MIB
    assert "max_answers_in_flight" in taken[-1].json["error"]["message"]
    assert int(taken[-1].headers["Retry-After"]) >= 1
    for response in taken:
        response.close()
    again = client.get(path)
    assert int(again.headers["Content-Length"]) == sizes[0]


def test_small_page_is_granted_while_a_large_one_is_rejected(make_client: ClientFactory, filled: FakeBroker) -> None:
    client = make_client(max_answers_in_flight=4 * MIB)
    taken = [client.get("/messages/t/me/earliest?max_bytes=1048576", buffered=False) for _ in range(40)]
    assert taken[-1].status_code == 503
    small = client.get("/messages/t/me/earliest?max_bytes=1000")
    assert len(small.json["records"]) == 1
    for response in taken:
        response.close()


def test_rejected_and_failed_reads_release_their_memory(make_client: ClientFactory, filled: FakeBroker) -> None:
    client = make_client(max_answers_in_flight=16 * MIB)
    for path in ("/messages/t/me/9999?partition=0", "/messages/never/me/earliest", "/messages/t/me/0?format=no"):
        for _ in range(20):
            assert client.get(path).status_code >= 400
    assert client.get("/messages/t/me/earliest?max_bytes=4000000").status_code == 200


def test_v2_pages_count_in_the_page_memory(make_client: ClientFactory, filled: FakeBroker) -> None:
    client = make_client(max_answers_in_flight=8 * MIB)
    consumer = Consumer(client, format="binary").assigned()
    held = [client.get("/messages/t/me/earliest?max_bytes=8388608", buffered=False) for _ in range(40)]
    assert held[-1].status_code == 503
    path = f"{consumer.path}/records?max_bytes=8388608"
    refused = client.get(path)
    assert (refused.status_code, refused.json["error_code"]) == (503, 503)
    for each in held:
        each.close()
    assert consumer.records(max_bytes=8388608)


def test_page_that_waits_for_a_message_reserves_little(make_client: ClientFactory) -> None:
    app = make_client().application
    with app.test_request_context():
        budget = PageMemoryBudget(16 * MIB)
        reservation = budget.reserve(4 * MIB)
        assert reservation.size == 4 * MIB
        assert budget.page_size(4 * MIB) < MIB
        reservation.wait()
        assert reservation.size < MIB
        assert budget.page_size(4 * MIB) == 4 * MIB
