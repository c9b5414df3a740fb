"""A thousand random requests over the wire: a clear answer to each, and a server that is as well as before."""

import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import TopicFactory
from tests.support.server_process import Service

METHODS = [*[b"GET"] * 4, *[b"POST"] * 6, *[b"PUT"] * 4, *[b"DELETE"] * 2, b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT"]
OFFSETS = [
    *(b"0", b"9223372036854775807", b"0:9223372036854775807", b"0:99999999999999999999", b"-9223372036854775808"),
    *(b"@9223372036854775807", b"@99999999999999999999", b"@0001-01-01T00:00:00+23:59", b"@9999-12-31T23:59:59-23:59"),
    *(b"*:latest,0:1", b"0:1,0:2", b"0:0%2C1:1", b"earliest?max_bytes=9223372036854775807&limit=100000", b"\xff"),
    *(b"earliest?wait=nan", b"earliest?wait=1e3", b"latest?ack=previous", b"committed?reset=x", b"earliest?%ff=%00"),
]
PATHS = [
    *(b"{}/c/" + offset for offset in OFFSETS),
    *[b"{}"] * 20,
    *(b"{}/c", b"{};a=b", b"{}/%00/0", b"{}/\xff/0", b"{}/%F0%9F%98%80/0:0", b"{}/c%0d%0aX:1/0", b"{}/../0"),
    *(b"{}?partition=2147483647", b"{}?timestamp=9223372036854775807", b"{}?key=%ff%fe", b"{}?key=a&key=b"),
    *(b"/messages", b"/messages/%ff", b"/messages/\xff", b"/messages/" + b"x" * 250, b"*", b"/", b"/topics", b"//x/y"),
    *(b"http://elsewhere{}", b"/messages/__consumer_offsets/c/-1", b"/messages/never%20there"),
]
HEADERS = [
    *(b"Kafka-Key: \xff", b"Kafka-Key-Base64: !", b"Kafka-Timestamp: -1", b"Kafka-Partition: 0x0", b"Kafka-Header-: x"),
    *(b"Content-Type: multipart/mixed", b"Content-Type: multipart/mixed; boundary=x", b"Content-Type: \xff/\xfe"),
    *(b"Content-Type: application/json", b"Content-Type: application/json; charset=utf-16", b"Content-Encoding: gzip"),
    *(b"Content-Type: application/x-ndjson", b"Content-Type: application/vnd.kafka.avro.v2+json", b"Accept: x"),
    *(b"Content-Type: application/vnd.kafka.json.v2+json", b"Accept: application/octet-stream", b"Accept: text/html"),
    *(b'X-Forwarded-Host: a"b>', b"X-Forwarded-Prefix: ><", b'Forwarded: host="x y";proto=z', b"Host: <>", b"Host:"),
    *(b"Upgrade: websocket\r\nConnection: Upgrade", b"Expect: 200-maybe", b"X-Request-Id: \xff", b"Range: bytes=0-1"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Content-Length: 1", b"Prefer: respond-async"),
]
BODIES = [
    *(b"", b"x", b"[", b"[]", b"[1]", b"[" * 5000, b'{"a":' * 3000, b"\xff\xfe", b'["\\ud800"]', b"[1e999999]"),
    *(b'{"records":1}', b'{"records":[{}]}', b'{"records":[{"value":1}]}', b"--x\r\n\r\na\r\n--x--", b"--x\r\na: b"),
    *(b'{"records":[{"value":1,"key":"\\ud800"}]}', b'{"records":[{"value":1,"headers":{"\\ud800":"x"}}]}'),
    *(b'{"records":[{"value":1,"timestamp":-1}]}', b'{"records":[{"value":1,"partition":4000000000}]}', b"0\r\n\r\n"),
]


def random_request(choices: random.Random, topic: str) -> bytes:
    path = choices.choice(PATHS).replace(b"{}", f"/messages/{topic}".encode())
    headers = choices.sample(HEADERS, choices.randint(0, 2))
    body = choices.choice(BODIES)
    if choices.random() < 0.8:
        headers.append(b"Content-Length: %d" % len(body))
    head = b"%b %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" % (choices.choice(METHODS), path)
    return head + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


def answer_to(service: Service, request: bytes) -> bytes:
    with service.connect() as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize("seed", [1, 2])
def test_random_requests_get_clear_answers_and_harm_no_worker(service: Service, topic: TopicFactory, seed: int) -> None:
    name, workers = topic(), service.workers
    choices = random.Random(seed)
    sent = [random_request(choices, name) for _ in range(500)]
    with ThreadPoolExecutor(8) as pool:
        for request, answer in zip(sent, pool.map(lambda each: answer_to(service, each), sent), strict=True):
            head, _, body = answer.partition(b"\r\n\r\n")
            status = int(head.split()[1])
            assert head.startswith(b"HTTP/1.1 "), (request, answer)
            assert status < 500, (request, answer)
            if status >= 400 and not request.startswith(b"HEAD "):
                said = json.loads(body)
                assert said.get("error", said).keys() & {"code", "error_code"}, (request, answer)
    assert service.put(f"/messages/{name}", "well").ok
    assert service.workers == workers
