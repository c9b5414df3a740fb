"""TLS of a real server: curl, requests, Java's client and OpenSSL's; stalled handshakes; many streams."""

import base64
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.local_resources import find_java
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory, running
from tests.support.certificates import Authority, Issued
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service, read_answers

THREADS = 4
UPLOAD = (
    "POST /messages/{} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
    "Content-Type: application/x-ndjson\r\nAccept: application/x-ndjson\r\n\r\n"
)
JAVA_CLIENT = Path(__file__).parents[1] / "support" / "HttpsClient.java"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secure(kafka: EmbeddedKafka, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server of one worker with TLS, which accepts certificates of clients."""
    directory = tmp_path_factory.mktemp("secure")
    settings = {"workers": 1, "threads": THREADS, "tls_client_ca": authority.file}
    with running(Service(directory, kafka.bootstrap_servers, authority, **settings)) as service:
        yield service


def curl(service: Service, path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["curl", "-sS", "--max-time", "30", "--cacert", service.verify or "", *arguments, service.url + path]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("version", ["--tlsv1.3", "--tls-max=1.2"])
def test_curl_publishes_and_reads_over_https(secure: Service, topic: TopicFactory, version: str) -> None:
    name = topic()
    options = version.split("=")
    published = curl(secure, f"/messages/{name}", "-X", "PUT", "-d", "hello", *options)
    assert published.returncode == 0, published.stderr
    read = curl(secure, f"/messages/{name}/me/earliest", *options)
    assert json.loads(read.stdout)["records"][0]["value"] == "hello"
    head = curl(secure, f"/messages/{name}/me/earliest?limit=1", "-D", "-", "-o", "/dev/null", *options).stdout
    assert f"<https://127.0.0.1:{secure.port}/messages/" in head  # links


def test_requests_session_publishes_bodies_of_all_sizes(secure: Service, topic: TopicFactory) -> None:
    name = topic()
    bodies = [b"\xff" + os.urandom(size - 1) for size in (1, 100, 16383, 16384, 16385, 65536, 300_000, 1_000_000)]
    with requests.Session() as session:
        for body in bodies:
            headers = {"Content-Type": "application/octet-stream"}
            answer = session.put(
                f"{secure.url}/messages/{name}", body, headers=headers, timeout=30, verify=secure.verify
            )
            assert answer.status_code == 200, answer.text
        for number, body in enumerate(bodies):
            url = f"{secure.url}/messages/{name}/me/{number}?limit=1"
            page = session.get(url, timeout=30, verify=secure.verify).json()
            assert base64.b64decode(page["records"][0]["value"]) == body


def test_pipelined_requests_in_one_record_are_answered_in_order(secure: Service, topic: TopicFactory) -> None:
    name = topic()
    with secure.connect() as client:
        for size in (1, 5000):
            one = f"PUT /messages/{name} HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * size
            client.sendall(one * 5)
            assert [status for status, *_ in read_answers(client, 5)] == [200] * 5


def test_upload_publishes_lines_while_they_arrive(secure: Service, topic: TopicFactory) -> None:
    name = topic()
    with secure.connect() as client:
        client.sendall(UPLOAD.format(name).encode())
        for number in range(3):
            client.sendall(b"2\r\n%d\n\r\n" % number)
            page = secure.get(f"/messages/{name}/me/{number}?wait=10").json()
            assert [each["value"] for each in page["records"]] == [number]
        client.sendall(b'186a1\r\n"' + b"x" * 99_998 + b'"\n\r\n0\r\n\r\n')
        received = b""
        while data := client.recv(65536):
            received += data
    assert b'{"records":4,"partitions":{"0":3},"done":true}' in received


def test_upload_whose_client_vanishes_keeps_its_lines(secure: Service, topic: TopicFactory) -> None:
    name = topic()
    with secure.connect() as client:
        client.sendall(f"{UPLOAD.format(name)}2\r\n1\n\r\n".encode())
        assert secure.get(f"/messages/{name}/me/earliest?wait=10").json()["records"]
    assert secure.get(f"/messages/{name}").json()["partitions"][0]["latest"] == 1


def test_java_client_with_certificate_publishes_and_follows_a_stream(
    secure: Service, authority: Authority, topic: TopicFactory, tmp_path: Path
) -> None:
    java = find_java()
    modules = subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=True).stdout
    if "jdk.compiler" not in modules and "CI" not in os.environ:
        pytest.skip("This Java has no compiler.")
    key_store = tmp_path / "client.p12"
    _write_key_store(authority.client("java"), key_store)
    url = f"{secure.url}/messages/{topic()}"
    done = subprocess.run(
        [java, JAVA_CLIENT, url, str(authority.file), str(key_store)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    page, *lines = filter(None, done.stdout.splitlines())
    expected = [f"message {number}" for number in range(20)]
    assert [each["value"] for each in json.loads(page)["records"]] == expected
    assert [json.loads(line)["value"] for line in lines[:20]] == expected


def _write_key_store(issued: Issued, file: Path) -> None:
    key = serialization.load_pem_private_key(issued.key.read_bytes(), None)
    certificate = x509.load_pem_x509_certificate(issued.certificate.read_bytes())
    encryption = serialization.BestAvailableEncryption(b"password")
    file.write_bytes(pkcs12.serialize_key_and_certificates(b"client", key, certificate, None, encryption))  # type: ignore[arg-type]


def test_certificate_that_is_expired_or_of_another_authority_is_rejected(
    secure: Service, authority: Authority, tmp_path: Path
) -> None:
    wrong = {
        "expired": authority.client("eve", is_expired=True),
        "unknown ca": Authority(tmp_path, "another").client("eve"),
    }
    for reason, issued in wrong.items():
        done = curl(secure, "/health", "--cert", str(issued.certificate), "--key", str(issued.key))
        assert done.returncode != 0
        assert reason in done.stderr.lower()
    right = authority.client("alice")
    assert curl(secure, "/health", "--cert", str(right.certificate), "--key", str(right.key)).returncode == 0


def test_required_certificate_is_required(
    kafka: EmbeddedKafka, authority: Authority, start_service: ServiceFactory
) -> None:
    service = start_service(
        kafka.bootstrap_servers,
        authority=authority,
        client=authority.client("alice"),
        workers=1,
        tls_client_ca=authority.file,
        tls_client_required=True,
    )
    assert service.get("/health").status_code == 200
    done = curl(service, "/health")
    assert done.returncode != 0
    assert "certificate required" in done.stderr.lower()
    assert "TLS handshake with 127.0.0.1 failed: peer did not return a certificate." in service.log


def test_plain_http_gets_400_that_names_https(secure: Service) -> None:
    answer = requests.get(secure.url.replace("https:", "http:") + "/health", timeout=30)
    assert answer.status_code == 400
    assert "https://" in answer.json()["error"]["message"]


def test_tls_to_plain_port_ends_at_once(service: Service) -> None:
    """The client waited 10 s: bytes of a handshake are no line that ends."""
    began = time.monotonic()
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(service.url.replace("http:", "https:") + "/health", timeout=30)
    assert time.monotonic() - began < scaled(3)


def test_stalled_handshakes_hold_no_thread(secure: Service) -> None:
    with ExitStack() as stalled:
        for number in range(200):
            client = stalled.enter_context(socket.create_connection(("127.0.0.1", secure.port)))
            client.sendall(b"\x16\x03\x01\x02\x00\x01"[: number % 7])
        began = time.monotonic()
        for _ in range(3 * THREADS):
            assert secure.get("/messages").status_code == 200
        assert time.monotonic() - began < scaled(5)


def test_new_keys_within_a_connection_are_used_and_renegotiation_is_refused(secure: Service) -> None:
    """`openssl s_client` asks for new keys at a line K (TLS 1.3), and to renegotiate at a line R (TLS 1.2)."""
    request = "GET /health HTTP/1.1\nHost: h\n\n"
    with _s_client(secure, "-tls1_3") as client:
        client.ask("K\n", "KEYUPDATE")
        client.ask(request, '{"status":"ok"}')
        client.ask("K\n", "KEYUPDATE")
        client.ask(request, '{"status":"ok"}')
    with _s_client(secure, "-tls1_2") as client:
        client.ask("R\n", "no renegotiation")
    assert secure.get("/health").status_code == 200


class _s_client:  # noqa: N801  # named like the program
    """`openssl s_client`."""

    def __init__(self, service: Service, version: str) -> None:
        address = f"127.0.0.1:{service.port}"
        self._process = subprocess.Popen(
            ["openssl", "s_client", version, "-crlf", "-CAfile", service.verify or "", "-connect", address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> "_s_client":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, text: str, expected: str) -> None:
        """Send a text and wait until the program prints what is expected."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()
        output, printed = self._process.stdout, bytearray()

        def is_answered() -> bool:
            if select.select([output], [], [], 0.1)[0]:
                printed.extend(os.read(output.fileno(), 65536))
            return expected.encode() in printed

        wait_for(is_answered, 15)


@pytest.mark.slow
def test_500_streams_over_tls_take_little_memory(
    kafka: EmbeddedKafka, topic: TopicFactory, authority: Authority, start_service: ServiceFactory
) -> None:
    """A stream over TLS takes 16 KiB of the worker, without TLS 2 KiB."""
    service, name = start_service(kafka.bootstrap_servers, authority=authority, workers=1), topic()
    (worker,) = service.workers
    head = f"GET /messages/{name}/me/latest HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n".encode()
    with ExitStack() as clients:

        def open_streams(count: int) -> list[socket.socket]:
            opened = [clients.enter_context(service.connect()) for _ in range(count)]
            for client in opened:
                client.sendall(head)
                assert b" 200 " in client.recv(1000)
            return opened

        open_streams(20)
        before = psutil.Process(worker).memory_info().rss
        opened = open_streams(500)
        assert psutil.Process(worker).memory_info().rss - before < 500 * 40 * 1024
        assert service.put(f"/messages/{name}", b"for all").status_code == 200
        for client in opened:
            received = b""
            while b"for all" not in received:
                data = client.recv(1000)
                assert data
                received += data
