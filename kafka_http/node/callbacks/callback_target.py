"""The URL of a callback, taken apart.

Stricter than RFC 3986 on purpose: of a URL that two parsers could read in two ways none is read.
"""

import re
from ipaddress import ip_address
from typing import NoReturn

from msgspec import Struct

from kafka_http.config.settings import HOST_NAME
from kafka_http.errors import InvalidCallback
from kafka_http.node.callbacks.ip_addresses import Address

_MAX_LENGTH = 2048
_PARTS = re.compile(r"(https?)://([^/?#]*)([^#]*)(#.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::([0-9]*))?", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}


class CallbackTarget(Struct, frozen=True):
    """What to connect to, and what to ask for there: `host` in lower case, an IPv6 address without brackets."""

    scheme: str
    host: str
    port: int
    path: str
    address: Address | None
    """The host, where it is an address and no name."""


def parse_callback_url(url: str) -> CallbackTarget:
    """Raises `InvalidCallback`, with what is wrong and nothing of the credentials that may be in the URL."""
    if len(url) > _MAX_LENGTH:
        _refuse(f"has {len(url)} characters, and may have {_MAX_LENGTH}")
    if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        _refuse("must be of printable ASCII characters, without \\; others are percent-encoded, a host's as xn--…")
    parts = _PARTS.fullmatch(url)
    if parts is None:
        _refuse("must start with http:// or https://")
    scheme, authority, path, fragment = parts.groups()
    if "@" in authority:
        _refuse("must hold no credentials; the receiver can tell by the signature who calls")
    if fragment:
        _refuse("must have no #fragment, which HTTP does not send")
    split = _AUTHORITY.fullmatch(authority)
    if split is None:
        _refuse("has no host and port that can be read")
    ipv6, name, port = split.groups()
    host = (ipv6 or name).lower()
    scheme = scheme.lower()
    return CallbackTarget(
        scheme, host, _port(port, scheme), f"/{path}" if path[:1] != "/" else path, _address(host, ipv6)
    )


def _port(text: str | None, scheme: str) -> int:
    port = int(text) if text and len(text) <= 5 else _PORTS[scheme] if not text else 0
    if not 0 < port < 65536:
        _refuse("has no port from 1 to 65535")
    return port


def _address(host: str, ipv6: str | None) -> Address | None:
    """Raises `InvalidCallback` for what is neither a name nor an address in its usual form."""
    if not ipv6 and HOST_NAME.fullmatch(host):
        return None
    if host.endswith("."):
        _refuse("has a dot at the end of its host: leave it out")
    try:
        return ip_address(host)
    except ValueError:
        _refuse("has a host that is neither a name nor an IP address as usual, such as 192.0.2.1 or [2001:db8::1]")


def _refuse(problem: str) -> NoReturn:
    raise InvalidCallback(f"The callback's URL {problem}.")
