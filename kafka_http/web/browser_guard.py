"""Protection against requests that a web page makes a browser send: cross-site requests and DNS rebinding."""

from collections.abc import Callable, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Request

from kafka_http.config import Config
from kafka_http.config.settings import is_loopback
from kafka_http.errors import CrossSiteRequest, InvalidRequest, MisdirectedRequest
from kafka_http.web.authority import parse_authority, server_origin

_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_MAX_KNOWN_HOSTS = 256


class BrowserGuard:
    """Rejects requests that a page of another origin makes a browser send. Any thread may call.

    * Cross-site protection: a request that writes must come from this server's own origin or from one in
      `cors_origins`. Clients that send neither `Sec-Fetch-Site` nor `Origin` are not affected.
    * DNS rebinding: where the server listens on a loopback address, the Host header must be a name of this machine, an
      address, or a host from the settings. A page of evil.example whose DNS entry changes to 127.0.0.1 is of this
      server's origin to the browser. Only the host name reveals it.
    """

    def __init__(self, config: Config) -> None:
        self._base_origin = origin_of(config.base_url) if config.base_url else ""
        self._origins = frozenset(origin_of(each) for each in config.cors_origins)
        self._subdomains = [tuple(origin_of(each).split("*", 1)) for each in config.cors_origins if "*" in each]
        urls = (urlsplit(url).hostname for url in (config.base_url, config.node_url))
        self._names = frozenset(filter(None, (*urls, *config.allowed_hosts)))
        self._below = tuple(each[1:] for each in config.allowed_hosts if each.startswith("*."))
        self._checks_hosts = is_loopback(config.host)
        self._known_hosts: set[str] = set()

    def check(self, request: Request) -> None:
        """Check a request before its view. Raises `InvalidRequest`, `MisdirectedRequest`, `CrossSiteRequest`."""
        self._check_host(request)
        headers = request.headers
        site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
        if (site is None and origin is None) or not _writes(request):
            return
        if self._is_foreign(site, origin, lambda: self._base_origin or origin_of(server_origin(request.environ))):
            sent = f"Sec-Fetch-Site: {site}" if origin is None else f"Origin: {origin}"
            raise CrossSiteRequest(
                f"A page of another origin ({sent[:100]}) may not write here. The setting cors_origins lists the "
                "origins that may."
            )

    def allows(self, headers: Mapping[str, str]) -> bool:
        """Whether a write with these headers (names in lower case) is certainly allowed. Does not block.

        For the fast path. If false, the view decides.
        """
        if not self._is_known(headers.get("host", "localhost")):
            return False
        if "origin" not in headers and "sec-fetch-site" not in headers:
            return True
        return not self._is_foreign(headers.get("sec-fetch-site"), headers.get("origin"), lambda: self._base_origin)

    def _is_foreign(self, site: str | None, origin: str | None, own: Callable[[], str]) -> bool:
        """Whether a page of another origin sent the request. `own` returns this server's origin."""
        if origin is not None:
            origin = origin_of(origin)
            if origin in self._origins or any(_is_below(origin, *each) for each in self._subdomains):
                return False
        if site in {"same-origin", "none"}:  # "none": started by the user, as in the address bar
            return False
        return site in {"cross-site", "same-site"} or (origin is not None and origin != own())

    def _check_host(self, request: Request) -> None:
        # The host that the client sent. A trusted proxy may have replaced it, but the check concerns the browser's.
        sent = request.environ.get("werkzeug.proxy_fix.orig", request.environ)
        host = sent.get("HTTP_HOST")
        if not host:
            if request.environ.get("SERVER_PROTOCOL") != "HTTP/1.0":
                raise InvalidRequest("Host header is missing or empty.", field="Host")
            return
        if self._is_known(host):
            return
        if parse_authority(host) is None:
            raise InvalidRequest(
                f"Host must be HOST or HOST:PORT, got {host[:100]!r}. HOST is a name (labels of letters, digits, -, _ "
                "and ~, separated by dots), an IPv4 address or an IPv6 address in brackets. PORT is at most 65535.",
                field="Host",
            )
        if self._checks_hosts and _is_local_listener(sent):
            raise MisdirectedRequest(
                f"Host {host[:100]!r} is not accepted, because this server listens on a loopback address. To accept "
                "it, add it to the setting allowed_hosts, or use it in base_url."
            )
        self._remember(host)

    def _is_known(self, host: str) -> bool:
        """Whether a Host header was accepted before, or names this machine."""
        if host in self._known_hosts:
            return True
        authority = parse_authority(host)
        if authority is None or not self._is_ours(authority.host.lower().rstrip(".")):
            return False
        self._remember(host)
        return True

    def _is_ours(self, name: str) -> bool:
        if name == "localhost" or name.endswith(".localhost") or name in self._names:
            return True
        return name.endswith(self._below) or _is_address(name)

    def _remember(self, host: str) -> None:
        if len(self._known_hosts) >= _MAX_KNOWN_HOSTS:
            self._known_hosts.clear()
        self._known_hosts.add(host)


def origin_of(url: str) -> str:
    """Return the origin of a URL as browsers send it: in lower case, without the default port.

    >>> origin_of("https://Kafka.Example.org:443/rest")
    'https://kafka.example.org'
    """
    scheme, separator, rest = url.lower().partition("://")
    authority = rest.partition("/")[0]
    return f"{scheme}{separator}{authority.removesuffix(_DEFAULT_PORTS.get(scheme, ' '))}"


def _is_below(origin: str, before: str, behind: str) -> bool:
    """Whether an origin matches a pattern such as `https://*.example.org`, which is split at the asterisk."""
    return origin.startswith(before) and origin.endswith(behind) and len(origin) > len(before) + len(behind)


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
