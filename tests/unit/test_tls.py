"""TLS sockets and handshakes of the main loop, over socket pairs and without gunicorn."""

import fcntl
import os
import socket
import ssl
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from gunicorn.workers.gthread import TConn

from kafka_http.server.client_connection import ClientConnection
from kafka_http.server.lingering_close import LingeringConnections
from kafka_http.server.main_loop import MainLoop
from kafka_http.server.tls import HANDSHAKE_SECONDS, TlsHandshakes, TlsSocket
from tests.support.certificates import Authority
from tests.support.polling import wait_for
from tests.support.tls_pair import TlsEnds
from tests.unit.test_connection_loop import Conn

RECORD = 1 << 14


class Server:
    """The handshakes of a worker. `started` and `closed` have the connections that left them."""

    def __init__(self, ends: TlsEnds) -> None:
        self.ends = ends
        self.loop = MainLoop()
        self.started: list[TConn] = []
        self.closed: list[TConn] = []
        self.lingering = LingeringConnections(self.loop, self._close)
        self.handshakes = TlsHandshakes(
            self.loop, self.ends, start=self.started.append, close=self._close, close_lingering=self.lingering.add
        )

    def _close(self, conn: TConn) -> None:
        self.closed.append(conn)
        conn.sock.close()

    def accept(self) -> socket.socket:
        """Return the client's end of a new TCP connection."""
        client, accepted = socket.socketpair()
        client.settimeout(5)
        self.handshakes.add(cast("TConn", Conn(accepted)))
        return client

    def connect(self, ends: TlsEnds | None = None) -> ssl.SSLSocket:
        """Return the client's end of a new TLS connection. `ends` has the context of the client."""
        return (ends or self.ends).connect(self.accept(), self.run_round)

    def pair(self) -> tuple[ssl.SSLSocket, TlsSocket]:
        """Return both ends of a new connection."""
        client = self.connect()
        server = self.started[-1].sock
        assert isinstance(server, TlsSocket)
        return client, server

    def run_round(self) -> None:
        self.loop.run_round(0.01, lambda: None)

    def serve(self, call: Callable[[], Any]) -> Any:
        """Run rounds until a call of a client that does not block returns, and return its result."""
        results: list[Any] = []

        def is_done() -> bool:
            self.run_round()
            with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                results.append(call())
            return bool(results)

        wait_for(is_done, 10)
        return results[0]

    def close(self) -> None:
        self.handshakes.close()
        while self.lingering.close_oldest():
            pass
        for conn in self.started:
            conn.sock.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(authority: Authority) -> Iterator[Server]:
    made = Server(TlsEnds.issued_by(authority))
    yield made
    made.close()


@pytest.fixture
def required(authority: Authority) -> Iterator[Server]:
    """A server that requires certificates of clients."""
    settings = {"tls_client_ca": str(authority.file), "tls_client_required": True}
    made = Server(TlsEnds.issued_by(authority, **settings))
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which only the test changes."""
    now = [1000.0]
    monkeypatch.setattr("kafka_http.server.tls.time.monotonic", lambda: now[0])
    return now


# Handshakes


def test_client_without_first_byte_is_closed_after_handshake_time(server: Server, clock: list[float]) -> None:
    with server.accept() as client:
        clock[0] += HANDSHAKE_SECONDS - 1
        server.handshakes.expire()
        assert server.closed == []
        clock[0] += 1
        server.handshakes.expire()
        assert client.recv(1) == b""


def test_handshake_that_stalls_is_closed_after_its_time(server: Server, clock: list[float]) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        server.ends.client_context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    with server.accept() as client:
        client.sendall(outgoing.read()[:-1])
        server.run_round()
        clock[0] += HANDSHAKE_SECONDS
        server.handshakes.expire()
        assert (len(server.closed), server.started) == (1, [])


@pytest.mark.parametrize("step", [1, 7])
def test_handshake_in_small_pieces_completes(server: Server, step: int) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = server.ends.client_context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with server.accept() as client:
        client.setblocking(False)
        while not server.started:
            with suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            data = outgoing.read()
            for start in range(0, len(data), step):
                client.sendall(data[start : start + step])
                server.run_round()
            with suppress(BlockingIOError):
                incoming.write(client.recv(65536))


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE", b"OPTIONS"])
def test_plain_http_gets_400_that_names_https(server: Server, method: bytes) -> None:
    with server.accept() as client:
        client.sendall(method + b" / HTTP/1.1\r\nHost: h\r\n\r\n")
        server.run_round()
        answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"https://" in answer
        assert client.recv(1) == b""


@pytest.mark.parametrize("data", [b"\0", b"\x80\x2e\x01\x03\x01", b"\x16\x03\x01\x00\x05aaaaaaaaaa", b"\x16" * 500])
def test_bytes_that_are_no_tls_close_the_connection(
    server: Server, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    with server.accept() as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        wait_for(lambda: server.run_round() or server.closed)
        assert server.started == []
    assert "Traceback" not in caplog.text


def test_client_that_disconnects_at_any_byte_of_handshake_is_closed(server: Server) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        server.ends.client_context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    hello = outgoing.read()
    for count, end in enumerate(range(0, len(hello) + 1, 40), 1):
        with server.accept() as client:
            client.sendall(hello[:end])
            server.run_round()
        wait_for(lambda count=count: server.run_round() or len(server.closed) == count)


def test_oldest_handshake_makes_room_after_a_second(server: Server, clock: list[float]) -> None:
    with server.accept() as first:
        clock[0] += 0.5
        with server.accept():
            assert not server.handshakes.make_room()
            clock[0] += 0.6
            assert server.handshakes.make_room()
            assert not server.handshakes.make_room()
            assert first.recv(1) == b""
            assert len(server.closed) == 1


def test_stop_limits_handshakes(server: Server, clock: list[float]) -> None:
    with server.accept():
        server.handshakes.limit(clock[0] + 2)
        clock[0] += 2
        server.handshakes.expire()
        assert len(server.closed) == 1


# Certificates of clients


def test_certificate_of_client_is_in_its_connection(authority: Authority, required: Server) -> None:
    with required.connect(TlsEnds.issued_by(authority, authority.client("alice"))):
        certificate = ClientConnection(required.started[0]).client.certificate
        assert certificate is not None
        assert certificate["subject"] == ((("commonName", "alice"),),)


def test_client_of_server_that_asks_for_no_certificate_has_none(authority: Authority, server: Server) -> None:
    with server.connect(TlsEnds.issued_by(authority, authority.client("alice"))):
        assert ClientConnection(server.started[0]).client.certificate is None


def test_client_without_optional_certificate_has_none(authority: Authority) -> None:
    optional = Server(TlsEnds.issued_by(authority, tls_client_ca=str(authority.file)))
    with optional.connect():
        assert not ClientConnection(optional.started[0]).client.certificate
    optional.close()


@pytest.mark.parametrize("tls_version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", ["missing", "expired", "foreign"])
def test_client_with_wrong_certificate_reads_alert_and_is_logged(
    authority: Authority,
    required: Server,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    *,
    tls_version: ssl.TLSVersion,
    kind: str,
) -> None:
    expired, foreign = authority.client("eve", is_expired=True), Authority(tmp_path, "another").client("eve")
    issued, alert, reason = {
        "missing": (None, "certificate required|handshake failure", "peer did not return a certificate"),
        "expired": (expired, "certificate expired", "certificate has expired"),
        "foreign": (foreign, "unknown ca", "unable to get local issuer certificate"),
    }[kind]
    context = authority.client_context(issued)
    context.maximum_version = tls_version
    with required.accept() as tcp:
        tcp.setblocking(False)
        client = context.wrap_socket(tcp, server_hostname="localhost", do_handshake_on_connect=False)
        with client, pytest.raises(ssl.SSLError, match=f"(?i){alert}"):
            required.serve(client.do_handshake)
            required.serve(lambda: client.send(b"GET / HTTP/1.1\r\n\r\n"))
            required.serve(lambda: client.recv(1))
    assert required.started == []
    assert caplog.messages == [f"TLS handshake with 127.0.0.1 failed: {reason}."]


def test_session_of_client_with_certificate_is_not_resumed(authority: Authority, required: Server) -> None:
    """A resumed session would not be verified: its certificate could have expired."""
    ends = TlsEnds.issued_by(authority, authority.client("alice"))
    with required.connect(ends) as client:
        assert client.session is not None
        assert not client.session.has_ticket


def test_new_context_is_for_new_connections_only(authority: Authority, server: Server) -> None:
    with server.connect() as old:
        server.ends.context = TlsEnds.issued_by(authority).context
        with server.connect() as new:
            assert new.getpeercert() != old.getpeercert()
        server.started[0].sock.send(b"still open")
        assert old.recv(100) == b"still open"


# Sockets


def test_receive_without_data_would_block(server: Server) -> None:
    client, accepted = server.pair()
    with client, pytest.raises(BlockingIOError):
        accepted.recv(65536)


def test_receive_returns_all_complete_records(server: Server) -> None:
    client, accepted = server.pair()
    with client:
        client.sendall(os.urandom(3 * RECORD + 1))
        assert [len(accepted.recv(65536)) for _ in range(1)] == [3 * RECORD + 1]


def test_receive_is_limited_by_size(server: Server) -> None:
    client, accepted = server.pair()
    with client:
        client.sendall(os.urandom(5 * RECORD))
        assert len(accepted.recv(2 * RECORD + 1)) == 2 * RECORD
        assert len(accepted.recv(100)) == 100
        assert len(accepted.recv(1 << 20)) == RECORD - 100
        assert len(accepted.recv(1 << 20)) == 2 * RECORD


def test_receive_after_end_of_client_returns_nothing_again_and_again(server: Server) -> None:
    client, accepted = server.pair()
    with client:
        client.setblocking(False)
        with suppress(ssl.SSLWantReadError):
            client.unwrap()
        assert [accepted.recv(65536) for _ in range(3)] == [b""] * 3
        assert accepted.send(b"answer") == 6  # the client may close its side first


@pytest.mark.parametrize("method", ["send", "sendmsg"])
def test_sends_to_slow_client_arrive_in_full_and_in_order(server: Server, method: str) -> None:
    client, accepted = server.pair()
    data = os.urandom(1_000_003)
    unsent, received = memoryview(data), b""
    blocked = 0
    with client:
        client.setblocking(False)
        while len(received) < len(data):
            try:
                parts = [unsent[:5], unsent[5:20_000], unsent[20_000:]]
                sent = accepted.send(unsent) if method == "send" else accepted.sendmsg(parts)
                unsent = unsent[sent:]
            except BlockingIOError:
                blocked += 1
                with suppress(ssl.SSLWantReadError):
                    while piece := client.recv(65536):
                        received += piece
            if not unsent:
                with suppress(ssl.SSLWantReadError):
                    received += client.recv(65536)
    assert received == data
    assert blocked > 1


def test_send_that_was_blocked_may_be_repeated_with_more_data(server: Server) -> None:
    client, accepted = server.pair()
    sent = 0
    with client:
        client.setblocking(False)
        with suppress(BlockingIOError):
            while sent := sent + accepted.send(b"x" * 1000):
                pass
        received = len(server.serve(lambda: client.recv(65536)))
        sent += accepted.sendmsg([b"x" * 1000, b"x" * 500])
        while received < sent:
            received += len(server.serve(lambda: client.recv(65536)))
    assert sent % 1000 == 500


def test_send_of_nothing_does_nothing(server: Server) -> None:
    client, accepted = server.pair()
    with client:
        assert accepted.send(b"") == 0
        assert accepted.sendmsg([b""]) == 0
        accepted.send(b"more")
        assert client.recv(100) == b"more"


def test_send_after_close_is_a_broken_pipe(server: Server) -> None:
    client, accepted = server.pair()
    accepted.close()
    with client, pytest.raises(BrokenPipeError):
        accepted.send(b"x")


def test_send_of_socket_with_timeout_does_not_wait(server: Server) -> None:
    """A thread that reads an upload waits for data, but its response must not wait for the client."""
    client, accepted = server.pair()
    accepted.settimeout(30)
    with client, pytest.raises(BlockingIOError):
        while accepted.send(b"x" * RECORD, socket.MSG_DONTWAIT):
            pass
    assert accepted.gettimeout() == 30


def test_shutdown_tells_client_the_end_and_discards_what_it_sends(server: Server) -> None:
    client, accepted = server.pair()
    client.suppress_ragged_eofs = False
    with client:
        accepted.send(b"last")
        accepted.shutdown(socket.SHUT_WR)
        client.sendall(b"late")
        assert (client.recv(100), client.recv(100)) == (b"last", b"")
        assert accepted.recv(65536)  # not decrypted


def fill_kernel_buffer(accepted: TlsSocket) -> None:
    """Send until the kernel accepts no more. It has accepted all."""
    limit = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    queued = bytearray(4)
    while int.from_bytes(queued, sys.byteorder) < limit:
        assert accepted.send(b"x") == 1
        fcntl.ioctl(accepted, termios.TIOCOUTQ, queued)


def test_shutdown_without_room_would_block_until_there_is(server: Server) -> None:
    """The end of the stream was missing if the response had filled the kernel's buffer."""
    client, accepted = server.pair()
    client.suppress_ragged_eofs = False
    with client:
        fill_kernel_buffer(accepted)
        with pytest.raises(BlockingIOError):
            accepted.shutdown(socket.SHUT_WR)
        client.setblocking(False)
        with suppress(ssl.SSLWantReadError):
            while client.recv(65536):
                pass
        accepted.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""


def test_close_tells_client_the_end(server: Server) -> None:
    client, accepted = server.pair()
    client.suppress_ragged_eofs = False
    with client:
        accepted.close()
        assert client.recv(100) == b""


def test_lingering_close_waits_for_room_and_for_the_client(server: Server) -> None:
    client, accepted = server.pair()
    client.suppress_ragged_eofs = False
    with client:
        client.setblocking(False)
        fill_kernel_buffer(accepted)
        server.lingering.add(server.started[0])
        received = b"x"
        while received:
            received = server.serve(lambda: client.recv(65536))
    wait_for(lambda: server.run_round() or server.closed)


def test_lingering_close_of_closed_connection_closes_it(server: Server) -> None:
    client, accepted = server.pair()
    client.close()
    accepted.close()
    server.lingering.add(server.started[0])
    assert server.closed == server.started
