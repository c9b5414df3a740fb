"""GET /metrics, and what each kind of request counts."""

from collections.abc import Callable, Iterator

import pytest
from flask.testing import FlaskClient

from kafka_http import metrics
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.metric_samples import total

Increase = Callable[..., float]


@pytest.fixture(autouse=True)
def numbers_from_zero() -> Iterator[None]:
    metrics.use_sink(None)
    yield
    metrics.use_sink(None)


def scrape(client: FlaskClient, **headers: str) -> str:
    response = client.get("/metrics", headers=headers)
    assert response.status_code == 200
    return response.text


def test_requests_are_counted_by_rule_and_never_by_path(client: FlaskClient) -> None:
    client.get("/messages/t")
    client.get("/messages/three")
    client.get("/messages/missing")
    client.get("/no/such/path")
    client.post("/health")
    client.open("/messages", method="BREW")
    text = scrape(client)

    def requests(**labels: str) -> float:
        return total(text, "kafka_http_requests_total", **labels)

    assert requests(route="/messages/<topic>", method="GET", status="200") == 2
    assert requests(route="/messages/<topic>", status="404") == 1
    assert requests(route="none", method="GET", status="404") == 1
    assert requests(route="none", method="POST", status="405") == 1
    assert requests(route="none", method="other", status="405") == 1
    assert requests() == 6
    assert total(text, "kafka_http_request_seconds_count", route="/messages/<topic>") == 3
    assert "such" not in text
    assert "three" not in text


def test_topic_that_does_not_exist_takes_no_label(client: FlaskClient) -> None:
    client.put("/messages/missing", data=b"1")
    client.get("/messages/missing/-/earliest")

    assert "missing" not in scrape(client)


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("/messages/t/-/earliest", "application/json"),
        ("/messages/t/-/earliest?until=end", "application/x-ndjson"),
        ("/messages/t/-/earliest?until=end", "text/event-stream"),
    ],
)
def test_records_that_are_sent_to_clients_are_counted(client: FlaskClient, path: str, accept: str) -> None:
    client.post("/messages/t?key=k1", json=["a", "bcd"])
    _ = client.get(path, headers={"Accept": accept}).data
    text = scrape(client)

    assert total(text, "kafka_http_consumed_records_total", topic="t") == 2
    assert total(text, "kafka_http_consumed_bytes_total", topic="t") == len('"a"k1"bcd"k1')


def test_records_of_consumer_instances_are_counted(client: FlaskClient) -> None:
    v2 = {"Content-Type": "application/vnd.kafka.v2+json"}
    client.post("/messages/t", json=["a", "b"])
    created = client.post("/consumers/g", json={"name": "i", "format": "json"}, headers=v2)
    assert created.status_code == 200
    path = "/consumers/g/instances/i"
    client.post(f"{path}/assignments", json={"partitions": [{"topic": "t", "partition": 0}]}, headers=v2)
    client.post(f"{path}/positions/beginning", json={"partitions": [{"topic": "t", "partition": 0}]}, headers=v2)
    records = client.get(f"{path}/records", headers={"Accept": "application/vnd.kafka.json.v2+json"}).get_json()
    assert len(records) == 2

    assert total(scrape(client), "kafka_http_consumed_records_total", topic="t") == 2


def test_metrics_on_another_address_are_not_here(make_client: ClientFactory) -> None:
    response = make_client(metrics_bind="127.0.0.1:9100").get("/metrics")

    assert response.status_code == 404
    assert "127.0.0.1:9100 (metrics_bind)" in response.get_json()["error"]["message"]


def test_scraper_gets_the_format_that_it_prefers(client: FlaskClient) -> None:
    assert "# EOF" not in scrape(client)
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert response.content_type.startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


@pytest.mark.parametrize("version", ["x", "1.x", "1e3", "\xb2", "-1", "9" * 5000])
@pytest.mark.parametrize("media_type", ["application/openmetrics-text", "text/plain"])
def test_scraper_with_a_malformed_version_gets_the_plain_format(
    client: FlaskClient, media_type: str, version: str
) -> None:
    """prometheus_client raises TypeError for a version that is no number, which was a 500."""
    response = client.get("/metrics", headers={"Accept": f"{media_type};version={version}"})
    assert (response.status_code, response.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")


def test_unknown_parameter_is_rejected(client: FlaskClient) -> None:
    assert client.get("/metrics?name=x").status_code == 400


def test_idempotency_keys_are_counted_by_result(client: FlaskClient) -> None:
    for body in (b"1", b"1", b"2"):
        client.put("/messages/t", data=body, headers={"Idempotency-Key": "k"})
    text = scrape(client)

    for result in ("claimed", "completed", "mismatch"):
        assert total(text, "kafka_http_idempotency_key_claims_total", result=result) == 1


def test_requests_in_flight_end_with_their_views(client: FlaskClient, broker: FakeBroker) -> None:
    client.get("/messages/t")
    broker.down = True
    client.get("/messages/t")
    broker.down = False

    assert total(scrape(client), "kafka_http_requests_in_flight", handler="view") == 1  # the scrape itself
