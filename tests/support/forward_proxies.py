"""Small forward proxies on 127.0.0.1: HTTP CONNECT and SOCKS5, with a user and a password if wanted."""

import base64
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress

USER, PASSWORD = "gate", "keeper"

Address = tuple[str, int]


class ForwardProxy(ABC):
    """Accepts connections in a thread, and tunnels each to the address that its client names.

    With `asks_password`, only `USER` with `PASSWORD` may pass.
    """

    scheme: str

    def __init__(self, *, asks_password: bool = False) -> None:
        self.targets: list[Address] = []
        """The address of each tunnel so far."""
        self.rejected = 0
        self._asks_password = asks_password
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        login = f"{USER}:{PASSWORD}@" if self._asks_password else ""
        return f"{self.scheme}://{login}127.0.0.1:{self._port}"

    def close(self) -> None:
        self._listener.close()

    @abstractmethod
    def _negotiate(self, client: socket.socket) -> Address | None:
        """Read what the client wants. Return the address, or None after a refusal."""

    @abstractmethod
    def _accepted(self) -> bytes:
        """The response to the client when its tunnel is there."""

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if (address := self._negotiate(client)) is None:
                self.rejected += 1
                return
            with socket.create_connection(address) as target:
                self.targets.append(address)
                client.sendall(self._accepted())
                back = threading.Thread(target=_copy, args=(target, client), daemon=True)
                back.start()
                _copy(client, target)
                back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class ConnectProxy(ForwardProxy):
    """HTTP CONNECT with Basic authentication (RFC 9110, 9.3.6)."""

    scheme = "http"

    def _negotiate(self, client: socket.socket) -> Address | None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1)  # not more: what follows belongs to the tunnel
        method, target, _ = head.decode().split(" ", 2)
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode())
        if method != "CONNECT" or (self._asks_password and b"Basic " + login not in head):
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return None
        host, _, port = target.rpartition(":")
        return host, int(port)

    def _accepted(self) -> bytes:
        return b"HTTP/1.1 200 Connection established\r\n\r\n"


class Socks5Proxy(ForwardProxy):
    """SOCKS5 (RFC 1928) with user and password (RFC 1929), to IPv4 addresses and names."""

    scheme = "socks5"

    def _negotiate(self, client: socket.socket) -> Address | None:
        with client.makefile("rb", buffering=0) as stream:
            _, methods = stream.read(2)
            offered = stream.read(methods)
            method = 2 if self._asks_password else 0
            client.sendall(bytes([5, method if method in offered else 0xFF]))
            if method not in offered or (self._asks_password and not self._logged_in(client, stream)):
                return None
            _, command, _, kind = stream.read(4)
            assert command == 1
            host = socket.inet_ntoa(stream.read(4)) if kind == 1 else stream.read(stream.read(1)[0]).decode()
            return host, struct.unpack(">H", stream.read(2))[0]

    def _logged_in(self, client: socket.socket, stream: socket.SocketIO) -> bool:
        stream.read(1)
        user, password = (stream.read(stream.read(1)[0]).decode() for _ in range(2))
        is_right = (user, password) == (USER, PASSWORD)
        client.sendall(bytes([1, 0 if is_right else 1]))
        return is_right

    def _accepted(self) -> bytes:
        return bytes([5, 0, 0, 1]) + bytes(6)


@contextmanager
def forward_proxy(kind: type[ForwardProxy], *, asks_password: bool = False) -> Iterator[ForwardProxy]:
    """Run a proxy."""
    proxy = kind(asks_password=asks_password)
    try:
        yield proxy
    finally:
        proxy.close()
