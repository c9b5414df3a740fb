"""Where callbacks may go: to the public internet, and to the hosts that the settings name.

This is the guard against server-side request forgery: a client names the URL, and this server reaches networks that the
client does not. The URL is checked when it arrives, and the addresses of its host when a connection is made. They are
resolved once, all of them are checked, and the connection goes to one of them, so a DNS answer that changes in between
has no effect.
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NoReturn, Self

from kafka_http.config import Config
from kafka_http.config.settings import HOST_NAME
from kafka_http.errors import InvalidCallback
from kafka_http.http_client import HttpTarget, Resolve, resolve_host

Address = IPv4Address | IPv6Address

_MAX_LENGTH = 2048
_PARTS = re.compile(r"(https?)://([^/?#]*)([^#]*)(#.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::([0-9]*))?", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))

# Our own table, because the answers of `ipaddress`'s `is_global` differ between Python versions.
# Source: IANA's special-purpose address registries for IPv4 and IPv6, as of 2025.
_NOT_PUBLIC = {
    # Azure's is in a public network, Oracle's in a reserved one, Alibaba's in the shared one.
    "the address of a cloud's metadata": "169.254.169.254 168.63.129.16 192.0.0.192 100.100.100.200 fd00:ec2::254",
    "a loopback address": "127.0.0.0/8 ::1",
    "the unspecified address": "0.0.0.0/8 ::",
    "a private address": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10",
    "a link-local address": "169.254.0.0/16 fe80::/10",
    "a shared address": "100.64.0.0/10",
    "a multicast address": "224.0.0.0/4 ff00::/8",
    "an address of a tunnel": "192.88.99.0/24 2002::/16 2001::/32",
    "a reserved address": (
        "192.0.0.0/24 192.0.2.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 2001::/23 2001:db8::/32 "
        "3fff::/20"
    ),
}
_NETWORKS: list[tuple[str, IPv4Network | IPv6Network]] = [
    (kind, ip_network(network)) for kind, networks in _NOT_PUBLIC.items() for network in networks.split()
]
_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""The only IPv6 addresses that are allocated for the public internet."""

_NAT64 = IPv6Network("64:ff9b::/96")


class CallbackGuard:
    """Checks URLs and addresses of callbacks. Any thread may call."""

    def __init__(self, allow: Iterable[str] = (), only: Iterable[str] = (), resolve: Resolve = resolve_host) -> None:
        """`allow` and `only` are the settings `callback_allow` and `callback_hosts`."""
        self._allow = _HostList(allow)
        self._only = _HostList(only)
        self._resolve = resolve

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(config.callback_allow, config.callback_hosts)

    def check_url(self, url: str) -> HttpTarget:
        """Split a URL, and raise `InvalidCallback` if it is not allowed. Does not resolve its host."""
        target = parse_callback_url(url)
        address = _literal_address(target.host)
        if address is not None:
            self._check(target.host, address)
        elif self._only and not self._only.has_name(target.host) and not self._only.networks:
            raise _not_listed(target.host)
        elif target.host.rpartition(".")[2] == "localhost" and not self._may_be_local(target.host):
            raise _not_public(f"{target.host} is this server itself")
        return target

    def addresses(self, target: HttpTarget) -> Sequence[Address]:
        """Return the addresses to connect to, each of them checked. Blocks for the resolver.

        Raises `InvalidCallback` if one of them is not allowed, and `OSError` if the host cannot be resolved.
        """
        host = target.host
        literal = _literal_address(host)
        found = [literal] if literal else [ip_address(str(each)) for each in self._resolve(host, target.port)]
        if not found:
            raise OSError("no address")
        for address in found:
            self._check(host, address)
        return list(dict.fromkeys(_as_ipv4(address) for address in found))

    def _check(self, host: str, address: Address) -> None:
        if self._only and not self._only.has_name(host) and not self._only.has_address(address):
            raise _not_listed(host)
        kind = kind_if_not_public(address)
        if kind and not self._allow.has_name(host) and not self._allow.has_address(address):
            # The text does not show the address of a name: it may be one of an internal network.
            raise _not_public(f"{host} is {kind}" if host == str(address) else f"{host} has {kind}")

    def _may_be_local(self, host: str) -> bool:
        return self._allow.has_name(host) or any(self._allow.has_address(each) for each in _LOOPBACK)


class _HostList:
    """Names, wildcards such as `*.example.org`, addresses and networks of a setting."""

    def __init__(self, hosts: Iterable[str]) -> None:
        hosts = [host.lower() for host in hosts]
        names = [host for host in hosts if HOST_NAME.fullmatch(host.removeprefix("*."))]
        self._names = frozenset(names)
        self._suffixes = tuple(name.removeprefix("*") for name in names if name.startswith("*."))
        self.networks = [ip_network(host) for host in hosts if host not in self._names]

    def __bool__(self) -> bool:
        return bool(self._names or self.networks)

    def has_name(self, host: str) -> bool:
        return host in self._names or host.endswith(self._suffixes)

    def has_address(self, address: Address) -> bool:
        return any(_as_ipv4(address) in network for network in self.networks)


def parse_callback_url(url: str) -> HttpTarget:
    """Split the URL of a callback, its host in lower case.

    Stricter than RFC 3986 on purpose: a URL that two parsers could read in two ways is rejected. Raises
    `InvalidCallback`, whose text contains no credentials of the URL.
    """
    if len(url) > _MAX_LENGTH:
        _reject(f"must have at most {_MAX_LENGTH} characters, got {len(url)}")
    if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        _reject("must consist of printable ASCII characters without \\; percent-encode others, in a host as xn--…")
    parts = _PARTS.fullmatch(url)
    if parts is None:
        _reject("must start with http:// or https://")
    scheme, authority, path, fragment = parts.groups()
    if "@" in authority:
        _reject("must contain no credentials; the receiver can authenticate the caller by the signature")
    if fragment:
        _reject("must have no #fragment, because HTTP does not send it")
    split = _AUTHORITY.fullmatch(authority)
    if split is None:
        _reject("has an invalid host or port")
    ipv6, name, port = split.groups()
    host = (ipv6 or name).lower()
    _check_host(host, ipv6)
    path = path if path.startswith("/") else f"/{path}"
    return HttpTarget(scheme.lower(), host, _port(port, scheme.lower()), path)


def _port(text: str | None, scheme: str) -> int:
    port = int(text) if text and len(text) <= 5 else _PORTS[scheme] if not text else 0
    if not 0 < port < 65536:
        _reject("must have a port from 1 to 65535")
    return port


def _check_host(host: str, ipv6: str | None) -> None:
    if not ipv6 and HOST_NAME.fullmatch(host):
        return
    if host.endswith("."):
        _reject("must not have a dot at the end of its host")
    try:
        ip_address(host)
    except ValueError:
        _reject("must have a host name or an IP address in its usual form, such as 192.0.2.1 or [2001:db8::1]")


def _literal_address(host: str) -> Address | None:
    """The address that a checked host is, or None for a name."""
    return None if HOST_NAME.fullmatch(host) else ip_address(host)


def _as_ipv4(address: Address) -> Address:
    """Convert an IPv4-mapped IPv6 address to IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def kind_if_not_public(address: Address) -> str:
    """What an address is that is not public, such as `a loopback address`; empty for a public one.

    A NAT64 address (RFC 6052) counts as the IPv4 address in it. Addresses of a network's own NAT64, 6to4 and Teredo
    are not public, whatever they contain: nobody offers a service there.
    """
    address = _as_ipv4(address)
    if address in _NAT64:
        return kind_if_not_public(IPv4Address(int(address) & 0xFFFFFFFF))
    for kind, network in _NETWORKS:
        if address in network:
            return kind
    is_public = address.version == 4 or address in _GLOBAL_UNICAST
    return "" if is_public else "a reserved address"


def _reject(problem: str) -> NoReturn:
    raise InvalidCallback(f"The callback's URL {problem}.")


def _not_public(problem: str) -> InvalidCallback:
    return InvalidCallback(f"The callback is not allowed: {problem}. The server's setting callback_allow can allow it.")


def _not_listed(host: str) -> InvalidCallback:
    return InvalidCallback(f"The callback is not allowed: the server's setting callback_hosts does not contain {host}.")
