"""Hosts that requests name, and the URLs of this server that are made of them.

One check for the Host header, absolute targets and what proxies forward. What passes goes into links as it is, so the
links are built here: werkzeug rejects or leaves out some of these hosts, those with an underscore for example.
"""

import re
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_LABEL = "[A-Za-z0-9_~-]{1,63}"
_AUTHORITY = re.compile(rf"(\[[0-9A-Fa-f:.]+\]|{_LABEL}(?:\.{_LABEL})*\.?)(?::([0-9]{{0,5}}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Authority(NamedTuple):
    """A host and perhaps a port. An IPv6 address is in brackets."""

    host: str
    port: int | None

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


def parse_authority(text: str) -> Authority | None:
    """Parse HOST or HOST:PORT. None if it is malformed. An empty port counts as none (RFC 9110, section 4.2.3).

    >>> parse_authority("my_service:08080")
    Authority(host='my_service', port=8080)
    """
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    host, digits = found.groups()
    port = int(digits) if digits else None
    if (port or 0) > 65535 or (host.startswith("[") and not _is_ipv6(host[1:-1])):
        return None
    return Authority(host, port)


def link_base(environ: "WSGIEnvironment", base_url: str) -> str:
    """The start of a link to this server, without a slash at its end: the setting `base_url`, or what the request and
    trusted proxies say. It has no scheme and host if the request names none, as HTTP/1.0 may over a Unix socket."""
    return base_url.rstrip("/") or server_origin(environ) + server_root(environ)


def server_origin(environ: "WSGIEnvironment") -> str:
    """Scheme, host and port that the client used, without the default port; empty if unknown."""
    sent = environ.get("HTTP_HOST")
    authority = parse_authority(sent or _listener(environ))
    if authority is None:
        return ""
    scheme = environ["wsgi.url_scheme"]
    if authority.port == _DEFAULT_PORTS.get(scheme):
        authority = authority._replace(port=None)
    return f"{scheme}://{authority}"


def server_root(environ: "WSGIEnvironment") -> str:
    """The path that stands before this server's own paths, percent-encoded: `/rest`, or nothing."""
    root = environ.get("SCRIPT_NAME", "").rstrip("/")
    return quote(root.encode("latin-1"), safe="/%!$&'()*+,;=:@~")  # a forwarded prefix is percent-encoded already


def _listener(environ: "WSGIEnvironment") -> str:
    name, port = environ.get("SERVER_NAME", ""), environ.get("SERVER_PORT", "")
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
