"""The host of a request, and this server's URLs that contain it.

The same check applies to the Host header, to absolute request targets and to hosts that proxies forward. Links are
built here, not by Werkzeug, which rejects or omits some valid hosts, such as those with an underscore.
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
    """Parse HOST or HOST:PORT. Return None if it is malformed. An empty port counts as none (RFC 9110, section 4.2.3).

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
    """Return the start of a link to this server, without a slash at its end.

    It is the setting `base_url`, or made of the request and what trusted proxies forward. It has no scheme and host if
    the request names no host, as in HTTP/1.0 over a Unix socket.
    """
    return base_url.rstrip("/") or server_origin(environ) + server_root(environ)


def server_origin(environ: "WSGIEnvironment") -> str:
    """Return the scheme, host and port that the client used, without the default port; empty if unknown."""
    authority = parse_authority(environ.get("HTTP_HOST") or _listener(environ))
    if authority is None:
        return ""
    scheme = environ["wsgi.url_scheme"]
    if authority.port == _DEFAULT_PORTS.get(scheme):
        authority = authority._replace(port=None)
    return f"{scheme}://{authority}"


def server_root(environ: "WSGIEnvironment") -> str:
    """Return the path before this server's own paths, percent-encoded: `/rest`, or an empty text."""
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
