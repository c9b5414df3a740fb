"""Limits, and clients that are faulty or hostile: each gets a clear response and does not affect others."""

import gzip
import json
import operator
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory, running
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service, read_answers
from tests.support.v2_client import JSON_TYPE, ConsumerInstance

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture(scope="module")
def small_service(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server with one worker and four threads that accepts 1 MiB of bodies at a time."""
    limits = {"workers": 1, "threads": 4, "max_body_bytes": MIB, "max_in_flight": MIB}
    with running(Service(tmp_path_factory.mktemp("small"), kafka.bootstrap_servers, **limits)) as service:
        yield service


def head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def test_huge_content_length_is_rejected_before_body_is_sent(service: Service, topic: TopicFactory) -> None:
    with service.connect() as client:
        began = time.monotonic()
        client.sendall(head("PUT", f"/messages/{topic()}", "Content-Length: 100000000000"))
        ((status, headers, body),) = read_answers(client, 1)
        assert time.monotonic() - began < scaled(3)
    assert status == 413
    assert json.loads(body)["error"]["limit"] == 64 * MIB
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_ordinary_client_with_too_large_body_reads_413(
    small_service: Service, topic: TopicFactory, chunked: bool
) -> None:
    name = topic()
    size = 8 * MIB
    pieces = (b"x" * 65536 for _ in range(size // 65536))
    answer = small_service.put(f"/messages/{name}", pieces if chunked else b"x" * size)
    assert answer.status_code == 413
    assert answer.json()["error"] == {
        "code": 413, "message": "Body is larger than max_body_bytes, 1048576 bytes.", "limit": MIB,
    }  # fmt: skip
    assert small_service.put(f"/messages/{name}", b"x" * 1000).status_code == 200
    assert len(small_service.records(name)) == 1


def test_endless_body_is_disconnected(small_service: Service, topic: TopicFactory) -> None:
    with small_service.connect() as client:
        client.sendall(head("PUT", f"/messages/{topic()}", "Transfer-Encoding: chunked"))
        began, sent = time.monotonic(), 0

        def send_endlessly() -> None:
            nonlocal sent
            while time.monotonic() < began + 15:
                client.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536

        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_endlessly()
        assert sent < 200 * MIB
    assert small_service.get("/health").status_code == 200


def test_body_over_max_in_flight_returns_429(small_service: Service, topic: TopicFactory) -> None:
    name = topic()
    with slow_upload(small_service, name) as slow:
        answer = small_service.put(f"/messages/{name}", b"y" * 11)
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == 42901
        assert int(answer.headers["Retry-After"]) >= 1
        assert small_service.get(f"/messages/{name}/me/earliest").status_code == 200
        slow.sendall(b"x")
        ((status, _, body),) = read_answers(slow, 1)
    assert status in (200, 413), body  # a value of about 1 MiB may be just over the broker's own limit
    assert small_service.put(f"/messages/{name}", b"y" * 11).status_code == 200


@contextmanager
def slow_upload(service: Service, topic: str) -> Iterator[socket.socket]:
    """Keep a client whose body of about 1 MiB lacks its last byte."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with service.connect() as client:
            client.sendall(head("PUT", f"/messages/{topic}", f"Content-Length: {MIB - 5}") + b"x" * (MIB - 6))
            while not select.select([client], [], [], 0)[0] and time.monotonic() < deadline:
                if service.put(f"/messages/{topic}", b"y" * 11).status_code == 429:
                    yield client
                    return
            # This request was rejected because of another body.
    raise AssertionError("it was never let in")


def test_incomplete_body_writes_nothing_and_frees_memory(small_service: Service, topic: TopicFactory) -> None:
    name = topic()
    for _ in range(5):
        with small_service.connect() as client:
            client.sendall(head("PUT", f"/messages/{name}", f"Content-Length: {MIB}") + b"x" * 1000)
        with small_service.connect() as client:
            client.sendall(head("PUT", f"/messages/{name}", "Transfer-Encoding: chunked") + b"400\r\n" + b"x" * 1000)
    wait_for(lambda: small_service.put(f"/messages/{name}", b"y" * 500_000).status_code != 429)
    assert [len(record["value"]) for record in small_service.records(name)] == [500_000]


def test_incomplete_body_gets_400(service: Service, topic: TopicFactory) -> None:
    name = topic()
    with service.connect() as client:
        client.sendall(head("PUT", f"/messages/{name}", "Content-Length: 1000") + b"x" * 10)
        client.shutdown(socket.SHUT_WR)
        ((status, _, body),) = read_answers(client, 1)
    assert status == 400
    assert "incomplete" in json.loads(body)["error"]["message"]
    assert service.records(name) == []


@pytest.mark.parametrize(
    "body",
    [b"zz\r\nhello\r\n", b"5\r\nhelloworld\r\n0\r\n\r\n", b"5\r\nhello\r\n", b"400\r\nhello", b""],
    ids=["no size", "longer than its size", "no last chunk", "shorter than its size", "none"],
)
def test_malformed_chunks_get_400_and_close_connection(service: Service, topic: TopicFactory, body: bytes) -> None:
    name = topic()
    smuggled = head("PUT", f"/messages/{name}", "Content-Length: 1") + b"1"
    with service.connect() as client:
        client.sendall(head("PUT", f"/messages/{name}", "Transfer-Encoding: chunked") + body)
        if body.startswith((b"zz", b"5\r\nhelloworld")):
            client.sendall(smuggled)
        client.shutdown(socket.SHUT_WR)
        ((status, _, answer),) = read_answers(client, 1)
        assert client.recv(1) == b"", "the start of the next request is unknown"
    assert status == 400
    assert "chunks are malformed" in json.loads(answer)["error"]["message"]
    assert service.records(name) == []


def test_waiting_requests_leave_threads_for_others(small_service: Service, topic: TopicFactory) -> None:
    name = topic()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(small_service.get, f"/messages/{name}/me/latest?wait=20") for _ in range(4)]
        wait_for(lambda: sum(each.done() for each in asked) == 2)
        assert small_service.put(f"/messages/{name}", "news").status_code == 200
        found = [[record["value"] for record in each.result(scaled(10)).json()["records"]] for each in asked]
    assert sorted(found) == [[], [], ["news"], ["news"]]


def test_disconnected_waiting_client_frees_its_slot(small_service: Service, topic: TopicFactory) -> None:
    name = topic()
    for _ in range(4):
        with small_service.connect() as client:
            client.sendall(head("GET", f"/messages/{name}/me/latest?wait=2"))
    publish = threading.Timer(3, small_service.put, (f"/messages/{name}", "news"))
    publish.start()
    deadline = time.monotonic() + 10
    while not (page := small_service.get(f"/messages/{name}/me/0:0?wait=5").json())["records"]:
        assert time.monotonic() < deadline
    publish.join()
    assert page["records"][0]["value"] == "news"


def test_position_of_550_partitions_fits_request_line(service: Service, topic: TopicFactory) -> None:
    name = topic(550)
    service.put(f"/messages/{name}?partition=549", "last")
    # Kafka reports leaders of a new topic before they know about it.
    page = wait_for(lambda: (answer := service.get(f"/messages/{name}/me/earliest")).ok and answer.json())
    assert [record["value"] for record in page["records"]] == ["last"]
    assert page["next"].startswith("0:0,1:0,")
    assert page["next"].endswith(",549:1,*:earliest")

    def line(length: int) -> bytes:
        pairs = [f"{partition}:{'0' * 9}" for partition in range(550)]
        path = f"/messages/{name}/me/{','.join(pairs)}?wait="
        return f"GET {path}{'0' * (length - len(path) - 13)} HTTP/1.1".encode()

    assert answer_to(service, line(8190))[0] == 200
    status, body = answer_to(service, line(8191))
    assert status == 414
    assert json.loads(body)["error"]["code"] == 414


def answer_to(service: Service, request_line: bytes) -> tuple[int, bytes]:
    with service.connect() as client:
        client.sendall(request_line + b"\r\nHost: x\r\n\r\n")
        ((status, _, body),) = read_answers(client, 1)
    return status, body


def test_pipelined_requests_are_answered_in_order(service: Service, topic: TopicFactory) -> None:
    name = topic()
    with service.connect() as client:
        for _ in range(2):
            requests_at_once = [
                head("PUT", f"/messages/{name}", "Content-Length: 5") + b"first",
                head("PUT", f"/messages/{name}", "Transfer-Encoding: chunked") + b"6\r\nsecond\r\n0\r\n\r\n",
                head("GET", "/nothing"),
                head("PUT", f"/messages/{name}?partition=9", "Content-Length: 5") + b"wrong",
                head("GET", f"/messages/{name}/me/-1"),
                head("DELETE", f"/messages/{name}/me/0:0"),
                head("GET", f"/messages/{name}/me"),
            ]
            client.sendall(b"".join(requests_at_once))
            answers = read_answers(client, len(requests_at_once))
            assert [status for status, _, _ in answers] == [200, 200, 404, 404, 200, 204, 200]
            assert json.loads(answers[4][2])["records"][0]["value"] == "second"
            assert json.loads(answers[6][2])["partitions"][0]["committed"] == 1
    assert [record["value"] for record in service.records(name)] == ["first", "second"] * 2


def test_request_in_small_pieces_is_answered(service: Service, topic: TopicFactory) -> None:
    name = topic()
    request = head("PUT", f"/messages/{name}", "Content-Length: 5") + b"drops"
    with service.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request:
            client.sendall(bytes([byte]))
        assert read_answers(client, 1)[0][0] == 200
    assert [record["value"] for record in service.records(name)] == ["drops"]


def test_expect_100_continue_gets_100_and_response(service: Service, topic: TopicFactory) -> None:
    name = topic()
    with service.connect() as client:
        client.sendall(head("PUT", f"/messages/{name}", "Content-Length: 5", "Expect: 100-continue"))
        assert read_answers(client, 1)[0][0] == 100
        client.sendall(b"hello")
        assert read_answers(client, 1)[0][0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n", 400),  # TLS to a plain port
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /messages HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
        (head("PUT", "/messages/t", "Content-Length: -1"), 400),
        (head("PUT", "/messages/t", "Content-Length: 1", "Content-Length: 2") + b"ab", 400),
        (head("PUT", "/messages/t", "Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
        (head("PUT", "/messages/t", "Transfer-Encoding: gzip"), 400),
        (head("PUT", "/messages/t", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 501),
        (b"GET /messages HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * 10_000 + b"\r\n\r\n", 431),
        (b"GET /messages HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 200 + b"\r\n", 431),
    ],
)  # fmt: skip
def test_invalid_http_gets_error_in_json(service: Service, sent: bytes, status: int) -> None:
    with service.connect() as client:
        client.sendall(sent)
        ((got, headers, body),) = read_answers(client, 1)
        assert client.recv(1) == b"", "the connection is closed"
    assert got == status
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["error"]["code"] == status
    assert "/" not in json.loads(body)["error"]["message"].replace("HTTP/", "")


def test_disconnecting_clients_do_not_affect_others(service: Service, topic: TopicFactory) -> None:
    name = topic()
    openings = [
        b"",
        b"\x00",
        b"PU",
        b"PUT /messages/t HTTP/1.1\r\nHost",
        head("PUT", f"/messages/{name}", "Content-Length: 100") + b"half",
        head("GET", f"/messages/{name}/me/earliest"),
        head("GET", f"/messages/{name}/me/latest?wait=1"),
    ]
    for _ in range(20):
        for opening in openings:
            with service.connect() as client:
                client.sendall(opening)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # a reset
    workers = service.workers
    began = time.monotonic()
    for number in range(20):
        assert service.put(f"/messages/{name}", str(number)).status_code == 200
    assert time.monotonic() - began < scaled(5)
    assert [record["value"] for record in service.records(name)] == list(range(20))
    assert service.workers == workers


def test_client_that_does_not_read_does_not_affect_others(
    start_service: ServiceFactory, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    service = start_service(kafka.bootstrap_servers, workers=1, threads=4)
    name = topic()
    for _ in range(8):
        service.post(f"/messages/{name}", json=["x" * 900_000])
    with service.connect() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(3):
            greedy.sendall(head("GET", f"/messages/{name}/me/earliest?max_bytes=60000000"))
        began = time.monotonic()
        for _ in range(10):
            assert service.put(f"/messages/{name}", "y").status_code == 200
        assert time.monotonic() - began < scaled(5)


def test_paths_with_additional_slashes_work(service: Service, topic: TopicFactory) -> None:
    name = topic()
    with service.connect() as client:
        client.sendall(head("PUT", f"//messages//{name}/", "Content-Length: 1") + b"1")
        client.sendall(head("GET", f"/messages/{name}//me/earliest/?"))
        client.sendall(head("GET", "/../../etc/passwd"))
        assert [status for status, _, _ in read_answers(client, 3)] == [200, 200, 404]
    assert service.request("HEAD", f"/messages/{name}/me/earliest").status_code == 405


@contextmanager
def peak_growth(service: Service) -> Iterator[list[int]]:
    """Measure a worker's peak memory in the context, minus its memory at the start: the only item of the list."""
    workers = [psutil.Process(each) for each in service.workers]
    before = [each.memory_info().rss for each in workers]
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            now = [each.memory_info().rss for each in workers]
            most[0] = max(most[0], *map(operator.sub, now, before))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


JSON_V2 = "application/vnd.kafka.json.v2+json"
MILLIONS = {
    "array": ("messages", "application/json", "identity", b"[" + b"1," * 5_000_000 + b"1]"),
    "gzip": ("messages", "application/json", "gzip", b"[" + b"1," * 5_000_000 + b"1]"),
    "v2 without end": ("topics", JSON_V2, "identity", b'{"records":[' + b"{}," * 5_000_000 + b"{}]"),
    "twice": (
        "messages", "application/json", "identity",
        b'{"records":[' + b'{"value":1},' * 1_500_000 + b'{"value":1}],"records":[{"value":1}]}',
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MILLIONS.values(), ids=list(MILLIONS))
def test_millions_of_records_return_413_in_little_memory(
    service: Service, topic: TopicFactory, case: tuple[str, str, str, bytes]
) -> None:
    """Such requests took 4.1 GB and got no response within 170 s."""
    name, (path, content_type, encoding, body) = topic(), case
    sent = gzip.compress(body, 1) if encoding == "gzip" else body
    with peak_growth(service) as grown:
        began = time.monotonic()
        headers = {"Content-Type": content_type, "Content-Encoding": encoding}
        answer = service.post(f"/{path}/{name}", sent, headers=headers)
        took = time.monotonic() - began
    assert answer.status_code == 413
    assert "100000 records (max_records)" in answer.text
    if path == "messages":
        assert answer.json()["error"]["limit"] == 100_000
    assert took < scaled(10)
    assert grown[0] < 100_000_000
    assert service.records(name) == []


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_compressed_body_is_limited_by_its_decompressed_size(
    small_service: Service, topic: TopicFactory, chunked: bool
) -> None:
    name, headers = topic(), {"Content-Encoding": "gzip"}
    for size, status in ((MIB // 2, 200), (200 * MIB, 413)):
        packed = gzip.compress(bytes(size))
        with peak_growth(small_service) as grown:
            answer = small_service.put(f"/messages/{name}", iter([packed]) if chunked else packed, headers=headers)
        assert answer.status_code == status
        assert grown[0] < 20_000_000
    answer = small_service.put(f"/messages/{name}", b"x", headers={"Content-Encoding": "br"})
    assert (answer.status_code, answer.headers["Accept-Encoding"]) == (415, "gzip, deflate, zstd")
    assert [len(record["value"]) for record in small_service.records(name)] == [MIB // 2]


def test_max_in_flight_counts_received_bytes_not_content_length(small_service: Service, topic: TopicFactory) -> None:
    name = topic()
    with small_service.connect() as client:
        client.sendall(head("PUT", f"/messages/{name}", f"Content-Length: {MIB}") + b"x" * 1000)
        for _ in range(3):
            assert small_service.put(f"/messages/{name}", b"y" * 500_000).status_code == 200


def test_large_chunked_body_after_100_continue_is_accepted(service: Service, topic: TopicFactory) -> None:
    name = topic()
    with service.connect() as client:
        client.sendall(head("PUT", f"/messages/{name}", "Transfer-Encoding: chunked", "Expect: 100-continue"))
        assert read_answers(client, 1)[0][0] == 100
        for _ in range(9):
            client.sendall(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
        client.sendall(b"0\r\n\r\n")
        client.sendall(head("GET", f"/messages/{name}/me/-1"))
        (first, _, _), (second, _, body) = read_answers(client, 2)
        assert (first, second) == (200, 200)
        assert len(json.loads(body)["records"][0]["value"]) == 900_000


def test_too_large_body_gets_no_100_continue(small_service: Service, topic: TopicFactory) -> None:
    with small_service.connect() as client:
        client.sendall(head("PUT", f"/messages/{topic()}", f"Content-Length: {2 * MIB}", "Expect: 100-continue"))
        assert read_answers(client, 1)[0][0] == 413


def test_unread_pages_are_limited_in_sum_and_delay_no_other(
    start_service: ServiceFactory, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    """80 clients that requested pages of 64 MB and did not read them took 8 GB."""
    service = start_service(kafka.bootstrap_servers, workers=1, threads=4, max_answers_in_flight=16 * MIB)
    name = topic()
    for _ in range(8):
        service.post(f"/messages/{name}", json=["x" * 900_000])
    with ExitStack() as stack:
        greedy = []
        for _ in range(24):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", service.port))
            client.sendall(head("GET", f"/messages/{name}/me/earliest?max_bytes=60000000"))
            greedy.append(client)
        wait_for(lambda: sum(bool(select.select([each], [], [], 0)[0]) for each in greedy) == len(greedy), 30)
        for _ in range(10):
            assert service.put(f"/messages/{name}", "y", timeout=20).status_code == 200
            assert service.get("/health", timeout=20).status_code == 200
        answers = []
        for each in greedy:
            each.settimeout(30)
            answers += read_answers(each, 1)
    assert {status for status, _, _ in answers} == {200, 503}
    assert all("retry-after" in headers for status, headers, _ in answers if status == 503)
    taken = [len(body) for status, _, body in answers if status == 200]
    assert sum(taken) < 32 * MIB
    assert min(taken) < max(taken)


def test_unread_v2_page_is_delivered_again(
    start_service: ServiceFactory, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    service = start_service(kafka.bootstrap_servers, workers=1, threads=4)
    name = topic()
    for _ in range(8):
        service.post(f"/messages/{name}", json=["x" * 900_000])
    instance = ConsumerInstance(lambda: service.url, f"g-{name}")
    assert instance.create(**{"auto.offset.reset": "earliest"}).status_code == 200
    assert instance.assign(name, 0).status_code == 204
    with socket.socket() as gone:
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        gone.connect(("127.0.0.1", service.port))
        gone.sendall(head("GET", f"{instance.path}/records?max_bytes=60000000", f"Accept: {JSON_TYPE}"))
        assert gone.recv(100).startswith(b"HTTP/1.1 200 ")
    again = wait_for(lambda: instance.records(2000), 20)
    assert again[0]["offset"] == 0


@pytest.mark.slow
def test_worker_frees_memory_after_large_pages(
    start_service: ServiceFactory, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    """After values of 1 MB and large pages a worker kept more than 217 MiB."""
    service = start_service(kafka.bootstrap_servers, workers=1)
    name = topic()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: service.put(f"/messages/{name}", "x" * 900_000).status_code, range(60))) == {200}
        path = f"/messages/{name}/me/earliest?max_bytes=60000000"
        assert set(pool.map(lambda _: service.get(path).status_code, range(12))) == {200}
    (worker,) = service.workers
    wait_for(lambda: resident(worker) < 120 * MIB, 60)


def resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()
