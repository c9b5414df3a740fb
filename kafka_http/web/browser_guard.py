"""Protection against requests that a web page makes a browser send: cross-site requests and DNS rebinding."""

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Request

from kafka_http.config import Config
from kafka_http.config.settings import is_loopback
from kafka_http.errors import CrossSiteRequest, InvalidRequest, MisdirectedRequest
from kafka_http.security.check_point import CheckPoint
from kafka_http.security.origins import origin_of
from kafka_http.web.authority import parse_authority, server_origin

_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
_MAX_KNOWN_HOSTS = 256


class BrowserGuard:
    """Rejects requests that a page of another origin makes a browser send. Any thread may call.

    * Cross-site protection: a request that writes must come from this server's own origin or from one in
      `cors_origins`. Clients that send neither `Sec-Fetch-Site` nor `Origin` are not affected.
    * DNS rebinding: where the server listens on a loopback address and accepts requests without a secret, the Host
      header must be a name of this machine, an address, or a host from the settings. A page of evil.example whose DNS
      entry changes to 127.0.0.1 is of this server's origin to the browser. Only the host name reveals it.
    """

    def __init__(self, config: Config, check_point: CheckPoint) -> None:
        """`check_point` has the origins, which a reload replaces."""
        self._check_point = check_point
        self._base_origin = origin_of(config.base_url) if config.base_url else ""
        urls = (urlsplit(url).hostname for url in (config.base_url, config.node_url))
        self._names = frozenset(filter(None, (*urls, *config.allowed_hosts)))
        self._below = tuple(each[1:] for each in config.allowed_hosts if each.startswith("*."))
        self._checks_hosts = is_loopback(config.host)
        self._known_hosts: set[str] = set()
        self._known_in = check_point.generation

    def check(self, request: Request) -> None:
        """Check a request before its view. Raises `InvalidRequest`, `MisdirectedRequest`, `CrossSiteRequest`."""
        self._check_host(request)
        headers = request.headers
        site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
        if (site is None and origin is None) or not _writes(request):
            return
        origins = self._check_point.origins
        if origins.is_foreign(site, origin, lambda: self._base_origin or origin_of(server_origin(request.environ))):
            sent = f"Sec-Fetch-Site: {site}" if origin is None else f"Origin: {origin}"
            raise CrossSiteRequest(
                f"A page of another origin ({sent[:100]}) may not write here. The setting cors_origins lists the "
                "origins that may."
            )

    def allows(self, headers: Mapping[str, str]) -> bool:
        """Whether a write with these headers (names in lower case) is certainly allowed. Does not block.

        For the fast path. If false, the view decides.
        """
        if not self._is_known(headers.get("host", "localhost"), self._current_hosts()):
            return False
        if "origin" not in headers and "sec-fetch-site" not in headers:
            return True
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        return not self._check_point.origins.is_foreign(site, origin, lambda: self._base_origin)

    def _check_host(self, request: Request) -> None:
        # The host that the client sent. A trusted proxy may have replaced it, but the check concerns the browser's.
        sent = request.environ.get("werkzeug.proxy_fix.orig", request.environ)
        host = sent.get("HTTP_HOST")
        if not host:
            if request.environ.get("SERVER_PROTOCOL") != "HTTP/1.0":
                raise InvalidRequest("Host header is missing or empty.", field="Host")
            return
        known = self._current_hosts()
        if self._is_known(host, known):
            return
        if parse_authority(host) is None:
            raise InvalidRequest(
                f"Host must be HOST or HOST:PORT, got {host[:100]!r}. HOST is a name (labels of letters, digits, -, _ "
                "and ~, separated by dots), an IPv4 address or an IPv6 address in brackets. PORT is at most 65535.",
                field="Host",
            )
        if self._checks_hosts and self._check_point.accepts_without_secret and _is_local_listener(sent):
            raise MisdirectedRequest(
                f"Host {host[:100]!r} is not accepted, because this server listens on a loopback address. To accept "
                "it, add it to the setting allowed_hosts, or use it in base_url."
            )
        _remember(host, known)

    def _current_hosts(self) -> set[str]:
        """Return the hosts that were accepted since the last reload."""
        if self._known_in != self._check_point.generation:
            self._known_in, self._known_hosts = self._check_point.generation, set()
        return self._known_hosts

    def _is_known(self, host: str, known: set[str]) -> bool:
        """Whether a Host header was accepted before, or names this machine."""
        if host in known:
            return True
        authority = parse_authority(host)
        if authority is None or not self._is_ours(authority.host.lower().rstrip(".")):
            return False
        _remember(host, known)
        return True

    def _is_ours(self, name: str) -> bool:
        if name == "localhost" or name.endswith(".localhost") or name in self._names:
            return True
        return name.endswith(self._below) or _is_address(name)


def _remember(host: str, known: set[str]) -> None:
    if len(known) >= _MAX_KNOWN_HOSTS:
        known.clear()
    known.add(host)


def _writes(request: Request) -> bool:
    if request.method not in _SAFE_METHODS:
        return True
    # These two move a position. A page could cause that with the URL of an image.
    return request.method == "GET" and ("ack" in request.args or request.endpoint == "v2_consumers.records")


def _is_local_listener(environ: Mapping[str, object]) -> bool:
    """Whether the request arrived on a local address.

    The setting `host` may be wrong if `kafka-http serve` did not start the server. On a Unix socket, REMOTE_ADDR is
    empty.
    """
    listener = str(environ.get("SERVER_NAME"))
    return environ.get("REMOTE_ADDR") != "" and (not _is_address(listener) or is_loopback(listener))


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
