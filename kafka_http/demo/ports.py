"""The TCP ports of this machine's loopback address: which are free."""

import random
import socket
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether one could listen on the port now. It does so for a moment: ask before whoever is to listen starts."""
    try:
        _listen(port, host).close()
    except OSError:
        return False
    return True


def answers(port: int) -> bool:
    """Whether somebody listens on the port of 127.0.0.1."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Different ports that were free a moment ago, none of which the kernel gives to an outgoing connection."""
    candidates = iter(random.sample(range(10_000, 32_768), 1000))
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port = next(candidates)
            try:
                held.enter_context(_listen(port, LOOPBACK))
            except OSError:
                continue
            found.append(port)
    return found


def _listen(port: int, host: str) -> socket.socket:
    """With SO_REUSEADDR, as servers do: what remains of closed connections is no hindrance."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
