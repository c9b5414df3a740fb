"""The TCP ports of 127.0.0.1: which are free."""

import random
import socket
from contextlib import ExitStack, closing

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether one could listen on the port now; what remains of closed connections does not count."""
    with closing(socket.socket()) as probe:
        return _bind(probe, port)


def free_ports(count: int) -> list[int]:
    """Different ports that were free a moment ago, none of which the kernel gives to an outgoing connection."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            probe = held.enter_context(closing(socket.socket()))
            port = random.randrange(10_000, 32_768)  # noqa: S311  no secret
            if _bind(probe, port):
                found.append(port)
    return found


def _bind(probe: socket.socket, port: int) -> bool:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((LOOPBACK, port))
        probe.listen()  # binding alone succeeds beside another socket that is only bound
    except OSError:
        return False
    return True
