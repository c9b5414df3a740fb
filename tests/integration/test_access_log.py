"""The access log of a server before a real Kafka: each path has the same facts."""

import json
from typing import Any

import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.polling import wait_for
from tests.support.server_process import Service

NDJSON = "application/x-ndjson"
V2, JSON_V2 = "application/vnd.kafka.v2+json", "application/vnd.kafka.json.v2+json"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def entry(service: Service, request_id: str) -> dict[str, Any]:
    """Return the line about a request, which is written after its response."""

    def found() -> dict[str, Any] | None:
        lines = [line for line in service.access_log.splitlines() if f'"request_id": "{request_id}"' in line]
        assert len(lines) <= 1
        return json.loads(lines[0]) if lines else None

    return dict(wait_for(found))


def test_each_path_logs_topic_records_bytes_and_the_time_of_kafka(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers, log_format="json")
    name = topic()
    url = f"{service.url}/messages/{name}"

    def send(request_id: str, method: str, url: str, data: Any = None, **headers: str) -> requests.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()} | {"X-Request-Id": request_id}
        answer = requests.request(method, url, data=data, headers=given, timeout=30)
        assert answer.ok, answer.text
        return answer

    send("fast", "PUT", url, b"hello", traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-01")
    send("thread", "PUT", f"{url}?timeout=9", b"hello")
    send("upload", "POST", url, iter([b"1\n", b"2\n"]), Content_Type=NDJSON, Accept=NDJSON)
    page = send("page", "GET", f"{url}/me/0")
    stream = send("stream", "GET", f"{url}/me/0?until=end", Accept="text/event-stream")
    consumers = f"{service.url}/consumers/{name}"
    send("create", "POST", consumers, b'{"name": "i"}', Content_Type=V2)
    send("subscribe", "POST", f"{consumers}/instances/i/subscription", json.dumps({"topics": [name]}), Content_Type=V2)
    send("records", "GET", f"{consumers}/instances/i/records?timeout=20000")

    expected = {
        "fast": ("/messages/<topic>", 1, 5),
        "thread": ("/messages/<topic>", 1, 5),
        "upload": ("/messages/<topic>", 2, 4),
        "page": ("/messages/<topic>/<consumer>/<offset>", 4, 0),
        "stream": ("/messages/<topic>/<consumer>/<offset>", 4, 0),
        "records": ("/consumers/<group>/instances/<name>/records", 4, 0),
    }
    for request_id, (route, records, bytes_in) in expected.items():
        line = entry(service, request_id)
        assert (line["route"], line["topic"], line["records"], line["bytes_in"]) == (route, name, records, bytes_in)
        assert 0 < line["kafka_seconds"] < line["seconds"], line
    assert entry(service, "page")["bytes_out"] == len(page.content)
    assert entry(service, "stream")["bytes_out"] == len(stream.content)
    assert entry(service, "fast")["trace_id"] == TRACE_ID
    assert "kafka_seconds=" not in service.access_log
    for log in (service.log, (service.data_dir / "daemon.log").read_text()):
        assert all("message" in json.loads(line) for line in log.splitlines())


def test_stream_of_a_client_that_leaves_has_a_line_with_what_it_got(service: Service, topic: TopicFactory) -> None:
    name = topic()
    assert service.put(f"/messages/{name}", b"hello").ok
    headers = {"Accept": NDJSON, "X-Request-Id": f"left-{name}"}
    with requests.get(f"{service.url}/messages/{name}/me/0", headers=headers, stream=True, timeout=30) as answer:
        lines = answer.iter_lines()  # a temporary iterator would close the connection once it is garbage
        line = next(lines)
        assert f"left-{name}" not in service.access_log, "the stream is open"
    wait_for(lambda: f"left-{name} gunicorn.access: " in service.access_log)
    (written,) = [each for each in service.access_log.splitlines() if f"left-{name}" in each]
    assert f" 200 {len(line) + 1} bytes " in written
    assert f"route=/messages/<topic>/<consumer>/<offset> topic={name} records=1 bytes_in=0 " in written
