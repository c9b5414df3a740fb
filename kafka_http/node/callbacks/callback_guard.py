"""Where callbacks may go: to the public internet, and wherever the settings say besides.

A client names the URL, and this server stands where the client may not: so a URL is looked at when it comes, and the
addresses that its host has when a connection is made. They are resolved once, all of them are checked, and the
connection is made to one of them (`connection.py`): a DNS answer that changes in between changes nothing.
"""

import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Self

from kafka_http.config import Config
from kafka_http.config.settings import HOST_NAME
from kafka_http.errors import InvalidCallback
from kafka_http.node.callbacks.callback_target import CallbackTarget, parse_callback_url
from kafka_http.node.callbacks.ip_addresses import Address, plain, why_not_public

Resolve = Callable[[str, int], Iterable[str]]
"""The addresses of a host and port. Raises `OSError`."""

_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


def resolve(host: str, port: int) -> list[str]:
    """By the system's resolver, which may block for longer than a minute."""
    return [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class CallbackGuard:
    """Any thread may ask."""

    def __init__(self, allow: Iterable[str] = (), only: Iterable[str] = (), resolve: Resolve = resolve) -> None:
        """`allow` and `only` as the settings `callback_allow` and `callback_hosts`."""
        self._allow = _Listed(allow)
        self._only = _Listed(only)
        self._resolve = resolve

    @classmethod
    def of(cls, config: Config) -> Self:
        return cls(config.callback_allow, config.callback_hosts)

    def check_url(self, url: str) -> CallbackTarget:
        """Raise `InvalidCallback` for a URL of which can be told, without asking anybody, that nothing may go there."""
        target = parse_callback_url(url)
        if target.address is not None:
            self._check(target.host, target.address)
        elif self._only and not self._only.names(target.host) and not self._only.networks:
            raise _not_listed(target.host)
        elif target.host.rpartition(".")[2] == "localhost" and not self._may_be_local(target.host):
            raise _not_public(f"{target.host} is this server itself")
        return target

    def addresses(self, target: CallbackTarget) -> Sequence[Address]:
        """What to connect to, each checked. Blocks for the resolver.

        Raises `InvalidCallback` where one of them is not allowed, `OSError` where the host cannot be resolved.
        """
        found = self._found(target)
        for address in found:
            self._check(target.host, address)
        return list(dict.fromkeys(plain(address) for address in found))

    def _found(self, target: CallbackTarget) -> list[Address]:
        if target.address is not None:
            return [target.address]
        found = [ip_address(text) for text in self._resolve(target.host, target.port)]
        if not found:
            raise OSError("no address")
        return found

    def _check(self, host: str, address: Address) -> None:
        if self._only and not self._only.names(host) and not self._only.has(address):
            raise _not_listed(host)
        why = why_not_public(address)
        if why and not self._allow.names(host) and not self._allow.has(address):
            # Which address a name has inside is nobody's business outside.
            raise _not_public(f"{host} is {why}" if host == str(address) else f"{host} has {why}")

    def _may_be_local(self, host: str) -> bool:
        return self._allow.names(host) or any(self._allow.has(each) for each in _LOOPBACK)


class _Listed:
    """Hosts as a setting lists them."""

    def __init__(self, hosts: Iterable[str]) -> None:
        hosts = [host.lower() for host in hosts]
        names = [host for host in hosts if HOST_NAME.fullmatch(host.removeprefix("*."))]
        self._names = frozenset(names)
        self._below = tuple(name.removeprefix("*") for name in names if name.startswith("*."))
        self.networks = [ip_network(host) for host in hosts if host not in self._names]

    def __bool__(self) -> bool:
        return bool(self._names or self.networks)

    def names(self, host: str) -> bool:
        return host in self._names or host.endswith(self._below)

    def has(self, address: Address) -> bool:
        return any(plain(address) in network for network in self.networks)


def _not_public(problem: str) -> InvalidCallback:
    return InvalidCallback(f"A callback may not go there: {problem}. The server's setting callback_allow can allow it.")


def _not_listed(host: str) -> InvalidCallback:
    return InvalidCallback(f"A callback may not go to {host}: the server's setting callback_hosts does not name it.")
