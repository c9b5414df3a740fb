"""Two connected TLS sockets in one process, without a network."""

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kafka_http.config import Config
from kafka_http.security.server_tls import new_server_context
from tests.support.certificates import Authority, Issued, settings_of


@dataclass
class TlsEnds:
    """The contexts of a server and of its clients."""

    context: ssl.SSLContext
    client_context: ssl.SSLContext

    @classmethod
    def issued_by(cls, authority: Authority, client: Issued | None = None, **settings: object) -> Self:
        """Return the contexts of this server's TLS with these settings and of a client with this certificate."""
        config = Config(**settings_of(authority.server()), **settings)  # type: ignore[arg-type]
        return cls(new_server_context(config), authority.client_context(client))

    def connect(self, client: socket.socket, serve: Callable[[], None]) -> ssl.SSLSocket:
        """Let a client shake hands while `serve` runs the server, round by round."""
        client.setblocking(False)
        connected = self.client_context.wrap_socket(client, server_hostname="localhost", do_handshake_on_connect=False)
        while not _shakes_hands(connected):
            serve()
        serve()
        connected.settimeout(5)
        return connected


def tls_pair(directory: Path) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Return the client's and the server's end after the handshake. They do not block.

    The key and its certificate are written to the directory.
    """
    ends = TlsEnds.issued_by(Authority(directory))
    client_end, server_end = socket.socketpair()
    server_end.setblocking(False)
    server = ends.context.wrap_socket(server_end, server_side=True, do_handshake_on_connect=False)
    client = ends.connect(client_end, lambda: _shake_hands(server))
    client.setblocking(False)
    return client, server


def _shake_hands(server: ssl.SSLSocket) -> None:
    _shakes_hands(server)


def _shakes_hands(sock: ssl.SSLSocket) -> bool:
    """Continue a handshake. Return whether it is complete."""
    try:
        sock.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
