"""`CallbackDelivery` against receivers that behave well or badly, and the receiver of the manual."""

import datetime
import hmac
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from werkzeug.serving import make_server

from kafka_http.config import Config
from kafka_http.config.sources import load_config
from kafka_http.errors import Unavailable
from kafka_http.http_client import Resolve
from kafka_http.node.callbacks import CallbackDelivery, CallbackGuard, CallbackResult, DueCallback
from tests.support.callback_receiver import Receiver
from tests.support.manual import page
from tests.support.polling import scaled

SECRET = "a secret of sorts"  # noqa: S105  of the tests' own
BODY = b'{"task":{"id":"t1","status":"delivered"}}'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def delivery(*allow: str, timeout: float = 10.0, **others: Any) -> CallbackDelivery:
    guard = CallbackGuard(allow or ["127.0.0.1"], resolve=others.pop("resolve", answers("127.0.0.1")))
    return CallbackDelivery(guard, lambda: [SECRET], timeout, **others)


def answers(*each: str) -> Resolve:
    """A resolver that returns another address on each call, and the last one from then on."""
    left = list(each)
    return lambda _host, _port: [left.pop(0) if len(left) > 1 else left[0]]


def callback(url: str, attempts: int = 0, body: bytes = BODY) -> DueCallback:
    return DueCallback("t1", url, body, attempts, 0.0)


def test_callback_posts_task_with_headers_and_signature(receiver: Receiver) -> None:
    url = receiver.url("/hook?a=%20b", "receiver.example")

    assert delivery(clock=lambda: 1790000000.9).post(callback(url, attempts=2)) == CallbackResult("delivered")

    (got,) = receiver.received
    expected = hmac.digest(SECRET.encode(), b"1790000000." + BODY, "sha256").hex()
    assert (got.path, got.body) == ("/hook?a=%20b", BODY)
    assert {name: value for name, value in got.headers.items() if name != "User-Agent"} == {
        "Host": f"receiver.example:{receiver.port}",
        "Accept-Encoding": "identity",
        "Content-Length": str(len(BODY)),
        "Content-Type": "application/json",
        "Connection": "close",
        "Kafka-Http-Task": "t1",
        "Kafka-Http-Attempt": "3",
        "Kafka-Http-Signature": f"t=1790000000,v1={expected}",
    }
    assert got.headers["User-Agent"].startswith("kafka_http/")


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/status/200", "delivered", ""),
        ("/status/299", "delivered", ""),
        ("/status/410", "gone", "410"),
        ("/status/400", "failed", "status 400"),
        ("/status/404", "failed", "status 404"),
        ("/status/503", "failed", "status 503"),
        ("/status/304", "failed", "status 304"),
        ("/close", "failed", "closed the connection"),
        ("/noise", "failed", "did not answer in HTTP"),
    ],
)
def test_callback_result_depends_on_response(receiver: Receiver, path: str, status: str, reason: str) -> None:
    outcome = delivery().post(callback(receiver.url(path)))

    assert outcome.status == status
    assert reason in outcome.reason
    assert len(receiver.received) == 1


def test_endless_response_headers_are_cut_off_and_delivered(receiver: Receiver) -> None:
    assert delivery().post(callback(receiver.url("/flood"))).status == "delivered"


def test_slow_response_body_after_status_is_delivered(receiver: Receiver) -> None:
    began = time.monotonic()

    assert delivery(timeout=60).post(callback(receiver.url("/drip-body"))) == CallbackResult("delivered")
    assert time.monotonic() - began < scaled(20)  # instead of 40


@pytest.mark.parametrize("path", ["/hold", "/drip", "/unread", "/sip"])
def test_slow_receiver_fails_at_timeout(receiver: Receiver, path: str) -> None:
    """The timeout is for the whole attempt: each single byte is sent or received in time."""
    large = callback(receiver.url(path), body=b"x" * 20_000_000 if path in {"/unread", "/sip"} else BODY)
    began = time.monotonic()

    outcome = delivery(timeout=0.5).post(large)

    assert outcome == CallbackResult("failed", "The receiver did not answer within 0.5 s.")
    assert time.monotonic() - began < scaled(20)  # instead of without end


def test_slow_resolver_fails_at_timeout() -> None:
    released = threading.Event()

    def resolve(_host: str, _port: int) -> Sequence[str]:
        released.wait()
        return ["127.0.0.1"]

    outcome = delivery(timeout=0.2, resolve=resolve).post(callback("http://receiver.example/"))
    released.set()

    assert outcome == CallbackResult("failed", "The receiver did not answer within 0.2 s.")


def test_unresolvable_host_fails() -> None:
    def resolve(_host: str, _port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    outcome = delivery(resolve=resolve).post(callback("http://receiver.example/"))

    assert outcome == CallbackResult("failed", "The receiver has a host name that cannot be resolved.")


def test_host_name_is_resolved_by_the_system() -> None:
    guard = CallbackGuard(["127.0.0.0/8", "::1"])

    assert "127.0.0.1" in map(str, guard.addresses(guard.check_url("http://localhost/")))


def test_refused_connection_fails() -> None:
    with Receiver() as gone:
        url = gone.url()

    assert delivery().post(callback(url)) == CallbackResult("failed", "The receiver cannot be connected to.")


def test_redirect_is_not_followed(receiver: Receiver) -> None:
    with Receiver("127.0.0.2") as elsewhere:
        outcome = delivery().post(callback(receiver.url(f"/redirect?{elsewhere.url()}")))
        assert elsewhere.received == []

    assert outcome == CallbackResult("failed", "The receiver answered with status 307. Redirects are not followed.")


def test_proxy_of_environment_is_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver("127.0.0.2") as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
        assert delivery().post(callback(receiver.url())).status == "delivered"
        assert proxy.received == []


def test_forbidden_address_is_refused_without_a_connection(receiver: Receiver) -> None:
    outcome = delivery("10.0.0.0/8").post(callback(receiver.url()))

    assert outcome.status == "refused"
    assert "loopback" in outcome.reason
    assert receiver.received == []


def test_host_that_resolves_to_loopback_after_the_url_check_is_refused(receiver: Receiver) -> None:
    guard = CallbackGuard(resolve=answers("8.8.8.8", "127.0.0.1"))
    target = guard.check_url(receiver.url(host="receiver.example"))
    assert guard.addresses(target)

    outcome = CallbackDelivery(guard, lambda: [SECRET], 10).post(callback(receiver.url(host="receiver.example")))

    assert outcome.status == "refused"
    assert receiver.received == []


def test_connection_uses_the_checked_address_despite_changed_dns(receiver: Receiver) -> None:
    """The first resolved address is allowed and the next is not. No other resolver knows the name."""
    with Receiver("127.0.0.2", receiver.port) as allowed:
        resolve = answers("127.0.0.2", "127.0.0.1")
        outcome = delivery("127.0.0.2", resolve=resolve).post(callback(receiver.url(host="receiver.example")))

        assert outcome == CallbackResult("delivered")
        assert allowed.tasks == ["t1"]
        assert receiver.received == []


def test_next_address_is_tried_after_a_refused_connection(receiver: Receiver) -> None:
    guard = CallbackGuard(["127.0.0.0/8"], resolve=lambda _host, _port: ["127.0.0.3", "127.0.0.1"])

    outcome = CallbackDelivery(guard, lambda: [SECRET], 10).post(callback(receiver.url(host="receiver.example")))

    assert outcome == CallbackResult("delivered")


def test_ipv6_address_is_called() -> None:
    try:
        receiver = Receiver("::1")
    except OSError:
        pytest.skip("this machine has no IPv6, as many containers")
    with receiver:
        assert delivery("::1").post(callback(receiver.url())) == CallbackResult("delivered")
        assert receiver.received[0].headers["Host"] == f"[::1]:{receiver.port}"


def test_failure_reason_contains_no_part_of_the_url(receiver: Receiver) -> None:
    urls = [receiver.url(f"{path}?token=hush") for path in ("/status/500", "/close", "/noise", "/hold")]
    urls += ["http://me:hush@receiver.example/", "http://receiver.example:99999/hush", "http://10.0.0.1/hush"]

    for url in urls:
        outcome = delivery(timeout=0.3).post(callback(url))
        assert outcome.status in {"failed", "refused"}
        assert outcome.reason
        assert "hush" not in outcome.reason


def test_missing_secret_fails() -> None:
    def none_there() -> Sequence[str]:
        raise Unavailable("The secret cannot be read.")

    unsigned = CallbackDelivery(CallbackGuard(["127.0.0.1"]), none_there, 10)

    assert unsigned.post(callback("http://127.0.0.1/")) == CallbackResult("failed", "The secret cannot be read.")


class Certificates:
    """A certificate authority for the test, and server certificates for one name each."""

    def __init__(self, directory: Path) -> None:
        self.trusting = ssl.create_default_context()
        self._directory = directory

    def server(self, name: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        file = self._directory / f"{name}.pem"
        public = certificate.public_bytes(Encoding.PEM)
        file.write_bytes(public + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.trusting.load_verify_locations(cadata=public.decode())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def test_tls_uses_the_host_name_for_sni_and_certificate(certificates: Certificates) -> None:
    context = certificates.server("receiver.example")
    asked_for: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    with Receiver(tls=context) as receiver:
        url = receiver.url("/status/200", "receiver.example")
        outcome = delivery(tls=certificates.trusting).post(callback(url))
        assert outcome == CallbackResult("delivered")
        assert receiver.received[0].headers["Host"] == f"receiver.example:{receiver.port}"
    assert asked_for == ["receiver.example"]


def test_certificate_of_another_name_is_rejected(certificates: Certificates) -> None:
    with Receiver(tls=certificates.server("other.example")) as receiver:
        outcome = delivery(tls=certificates.trusting).post(callback(receiver.url(host="receiver.example")))
        assert receiver.received == []
    assert outcome.status == "failed"
    assert outcome.reason.startswith("The receiver has a certificate that is not trusted: ")


def test_certificate_of_unknown_authority_is_rejected(certificates: Certificates) -> None:
    with Receiver(tls=certificates.server("receiver.example")) as receiver:
        outcome = delivery().post(callback(receiver.url(host="receiver.example")))
        assert receiver.received == []
    assert outcome.reason.startswith("The receiver has a certificate that is not trusted: ")


def test_tls_handshake_without_answer_fails_at_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://receiver.example:{silent.getsockname()[1]}/"

        outcome = delivery(timeout=0.5).post(callback(url))

    assert outcome == CallbackResult("failed", "The receiver did not answer within 0.5 s.")


def test_delivery_from_config_uses_its_settings(receiver: Receiver) -> None:
    settings = {
        "callback_allow": "127.0.0.1",
        "callback_timeout": "0.2",
        "callback_secret": "first of two secrets,and a second of them",
    }
    made = CallbackDelivery.from_config(load_config(settings, {}))

    assert made.post(callback(receiver.url())) == CallbackResult("delivered")
    assert made.post(callback(receiver.url("/hold"))).reason == "The receiver did not answer within 0.2 s."
    assert receiver.received[0].headers["Kafka-Http-Signature"].count("v1=") == 2


def documented_receiver() -> str:
    found = re.search(r"```python\n(.*?)```", page("publish-later"), re.DOTALL)
    assert found is not None
    return found[1]


def test_receiver_of_the_manual_has_at_most_fifteen_lines() -> None:
    assert len(documented_receiver().strip().splitlines()) <= 15


def test_receiver_of_the_manual_verifies_signature(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLBACK_SECRET", SECRET)
    names: dict[str, Any] = {"__name__": "receiver"}
    exec(documented_receiver(), names)  # noqa: S102  it is the manual's
    server = make_server("127.0.0.1", 0, names["app"])
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/callback"
        hour_ago = time.time() - 3600
        outcomes = [
            delivery().post(callback(url)),
            CallbackDelivery(CallbackGuard(["127.0.0.1"]), lambda: ["of another time", SECRET], 10).post(callback(url)),
            delivery(clock=lambda: hour_ago).post(callback(url)),
            CallbackDelivery(CallbackGuard(["127.0.0.1"]), lambda: ["another secret"], 10).post(callback(url)),
        ]
        unsigned = names["app"].test_client().post("/callback", json=json.loads(BODY))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert [each.status for each in outcomes] == ["delivered", "delivered", "failed", "failed"]
    assert "status 401" in outcomes[2].reason
    assert "status 401" in outcomes[3].reason
    assert unsigned.status_code == 401
    assert capsys.readouterr().out.splitlines() == ["t1 delivered", "t1 delivered"]


def test_local_receiver_is_refused_by_default(receiver: Receiver) -> None:
    made = CallbackDelivery.from_config(Config(callback_secret=("a secret of sorts",)))

    assert made.post(callback(receiver.url())).status == "refused"
    assert made.post(callback(receiver.url(host="localhost"))).status == "refused"
    assert receiver.received == []
