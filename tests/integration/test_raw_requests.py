"""Requests as bytes, where WSGI and clients would change them: targets, repeated headers, Host; and status lines."""

import json
from base64 import b64encode
from typing import Any

import pytest
from kafka import KafkaAdminClient

from tests.conftest import TopicFactory
from tests.support.server_process import Service


def send(service: Service, line: str, *headers: str, body: bytes = b"") -> tuple[str, Any]:
    """The status line of an answer, and its JSON."""
    if not any(each.startswith("Host") for each in headers):
        headers = ("Host: x", *headers)
    length = f"Content-Length: {len(body)}"
    head = "\r\n".join([f"{line} HTTP/1.1", "Connection: close", length, *headers, "", ""])
    with service.connect() as client:
        client.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    status_line, _, rest = answer.partition(b"\r\n")
    said = rest.partition(b"\r\n\r\n")[2]
    return status_line.decode(), json.loads(said) if said else None


@pytest.mark.parametrize(
    ("encoded", "name"), [("a%2Fb", "a/b"), ("%2Flead", "/lead"), ("trail%2F", "trail/"), ("a%252Fb", "a%2Fb")]
)
def test_consumer_name_with_encoded_slash_is_that_group_in_kafka(
    service: Service, admin: KafkaAdminClient, topic: TopicFactory, encoded: str, name: str
) -> None:
    messages = topic()
    assert service.post(f"/messages/{messages}", json=[1, 2, 3]).ok
    group, wanted = f"{encoded}-{messages}", f"{name}-{messages}"
    if encoded.endswith("%2F"):
        group, wanted = f"{messages}-{encoded}", f"{messages}-{name}"
    assert send(service, f"DELETE /messages/{messages}/{group}/0:1")[0] == "HTTP/1.1 204 No Content"
    (committed,) = admin.list_group_offsets([wanted])[wanted].values()
    assert committed.offset == 2
    line, page = send(service, f"GET /messages/{messages}/{group}/committed")
    assert (line, page["consumer"]) == ("HTTP/1.1 200 OK", wanted)
    assert [each["value"] for each in page["records"]] == [3]


@pytest.mark.parametrize("target", ["/messages/t/a%FF", "/messages/{}/a%FE/earliest", "/topics/{}?x=%FF", "/%80"])
def test_target_that_is_not_utf8_returns_400(service: Service, topic: TopicFactory, target: str) -> None:
    line, said = send(service, f"GET {target.format(topic())}")
    assert line == "HTTP/1.1 400 Bad Request"
    assert "UTF-8" in json.dumps(said)


def test_key_that_is_not_utf8_returns_400_that_names_the_base64_header(service: Service, topic: TopicFactory) -> None:
    name = topic()
    assert send(service, f"PUT /messages/{name}?key=first")[0] == "HTTP/1.1 200 OK"
    line, said = send(service, f"PUT /messages/{name}?key=%FF")
    assert (line, said["error"]["field"]) == ("HTTP/1.1 400 Bad Request", "key")
    assert "Kafka-Key-Base64" in said["error"]["message"]
    key = b64encode(b"\xff").decode()
    assert send(service, f"PUT /messages/{name}", f"Kafka-Key-Base64: {key}")[0] == "HTTP/1.1 200 OK"
    assert len(service.records(name)) == 2


def test_repeated_message_header_is_stored_twice(service: Service, topic: TopicFactory) -> None:
    name = topic()
    headers = ("Kafka-Header-X: 1", "kafka-header-x: 2", "Kafka-Header-Y: 3, 4", "Kafka-Header-Base64-X: NQ==")
    for path in (f"POST /messages/{name}", f"PUT /messages/{name}?timeout=7"):
        assert send(service, path, *headers, body=b"x")[0] == "HTTP/1.1 200 OK"
    for record in service.records(name):
        assert sorted(record["headers"]) == [["x", "1"], ["x", "2"], ["x", "5"], ["y", "3, 4"]]


@pytest.mark.parametrize("header", ["Kafka-Key", "Kafka-Key-Base64", "Kafka-Partition", "Kafka-Timestamp"])
def test_repeated_attribute_returns_400(service: Service, topic: TopicFactory, header: str) -> None:
    name = topic()
    for value in ("0000", "0001"):
        line, said = send(service, f"POST /messages/{name}", f"{header}: 0000", f"{header}: {value}", body=b"x")
        assert (line, said["error"]["field"]) == ("HTTP/1.1 400 Bad Request", header)
    assert service.records(name) == []


def test_repeat_with_idempotency_key_compares_repeated_headers(service: Service, topic: TopicFactory) -> None:
    name = topic()
    key = f"Idempotency-Key: {name}"
    line = f"POST /messages/{name}"
    assert send(service, line, key, "Kafka-Header-X: 1", "Kafka-Header-X: 2", body=b"x")[0] == "HTTP/1.1 200 OK"
    for others in (["Kafka-Header-X: 1,2"], ["Kafka-Header-X: 2", "Kafka-Header-X: 1"]):
        assert send(service, line, key, *others, body=b"x")[0] == "HTTP/1.1 422 Unprocessable Entity"
    assert len(service.records(name)) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Host:"], "400 Bad Request"),
        (["Host: a b"], "400 Bad Request"),
        (["Host: evil.example"], "421 Misdirected Request"),
        (["Host: evil.example", "X-Forwarded-Host: x", "Forwarded: host=x"], "421 Misdirected Request"),
        (["Host: localhost:1"], "200 OK"),
        (["Origin: http://evil.example"], "403 Forbidden"),
        (["Sec-Fetch-Site: cross-site"], "403 Forbidden"),
        (["Origin: http://x"], "200 OK"),
    ],
)
def test_publish_with_a_foreign_host_or_origin_writes_nothing(
    service: Service, topic: TopicFactory, headers: list[str], status: str
) -> None:
    name = topic()
    for line in (f"POST /messages/{name}", f"PUT /messages/{name}?timeout=5"):
        for _ in range(2):
            assert send(service, line, *headers, body=b"x")[0] == f"HTTP/1.1 {status}"
    assert len(service.records(name)) == (4 if status == "200 OK" else 0)


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("http://evil.example/messages", ["Host: localhost"], "421 Misdirected Request"),
        ("http://localhost/messages", ["Host: evil.example"], "200 OK"),
        ("http://[1::2::3]/messages", ["Host: localhost"], "400 Bad Request"),
        ("/messages", ["Host: [1::2::3]"], "400 Bad Request"),
        ("/messages", ["Host: a..localhost"], "400 Bad Request"),
        ("/messages", ["Host: a_b.localhost:"], "200 OK"),
    ],
)
def test_absolute_target_overrides_the_host_header(
    service: Service, target: str, headers: list[str], status: str
) -> None:
    assert send(service, f"GET {target}", *headers)[0] == f"HTTP/1.1 {status}"


def test_request_without_host_returns_400(service: Service, topic: TopicFactory) -> None:
    name = topic()
    for line in ("GET /messages", f"PUT /messages/{name}"):
        with service.connect() as client:
            client.sendall(f"{line} HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == 400
    with service.connect() as client:
        client.sendall(b"GET /messages HTTP/1.0\r\n\r\n")
        assert client.recv(65536).split(b" ", 1)[1].startswith(b"200 OK")


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("GET /messages/{}", [], "200 OK"),
        ("PUT /messages/{}", [], "200 OK"),
        ("PUT /messages/{}", ["Prefer: respond-async"], "202 Accepted"),
        ("DELETE /messages/{}/c", [], "204 No Content"),
        ("GET /messages/nope", [], "404 Not Found"),
        ("PUT /messages/nope", [], "404 Not Found"),
        ("GET /nope", [], "404 Not Found"),
        ("PATCH /messages/{}/c", [], "405 Method Not Allowed"),
        ("GET /messages/{}/c/earliest", ["Accept: text/html"], "406 Not Acceptable"),
        ("GET /messages/{}/c/99?partition=0", [], "416 Requested Range Not Satisfiable"),
        ("POST /topics/{}", ["Content-Type: application/vnd.kafka.v3+json"], "415 Unsupported Media Type"),
        ("GET /messages/{}/c/earliest", ["Accept: text/event-stream", "Last-Event-ID: x"], "400 Bad Request"),
        ("GET /messages/{}/c/earliest?until=end", ["Accept: text/event-stream"], "200 OK"),
        ("GET /messages", ["Bad header"], "400 Bad Request"),
        ("GET /messages", ["X: " + "x" * 9000], "431 Request Header Fields Too Large"),
        ("GET /" + "x" * 9000, [], "414 URI Too Long"),
        ("PUT /messages/{}", ["Transfer-Encoding: foo"], "501 Not Implemented"),
    ],
)
def test_status_lines_have_standard_reason_phrases(
    service: Service, topic: TopicFactory, line: str, headers: list[str], status: str
) -> None:
    name = topic()
    head = "\r\n".join([f"{line.format(name)} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""])
    if "Transfer" not in head:
        head = head.replace("Host: x", "Host: x\r\nContent-Length: 0")
    for _ in range(2):  # the first publish to a topic takes a thread
        with service.connect() as client:
            client.sendall(head.encode())
            answer = client.recv(65536)
        assert answer.partition(b"\r\n")[0].decode() == f"HTTP/1.1 {status}"


JAVA = "Accept: text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
"""Of Java's HttpURLConnection, up to version 11."""


def test_java_http_client_gets_its_responses(service: Service, topic: TopicFactory) -> None:
    name = topic()
    json_v2 = "Content-Type: application/vnd.kafka.json.v2+json"
    lines = [
        ("GET /topics", "", 200),
        (f"POST /topics/{name}", '{"records": [{"value": 1}]}', 200),
        (f"GET /messages/{name}/c/earliest", "", 200),
        (f"POST /consumers/{name}", '{"name": "c", "format": "json"}', 200),
        (f"POST /consumers/{name}/instances/c/subscription", f'{{"topics": ["{name}"]}}', 204),
        (f"GET /consumers/{name}/instances/c/records?timeout=100", "", 200),
        (f"DELETE /consumers/{name}/instances/c", "", 204),
        ("GET /", "", 200),
    ]
    for line, body, status in lines:
        answered, _ = send(service, line, JAVA, json_v2, body=body.encode())
        assert answered.split()[1] == str(status), line
