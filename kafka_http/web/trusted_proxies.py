"""Forwarded headers, in which a trusted proxy in front of this server passes on the address that a client used."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from werkzeug.middleware.proxy_fix import ProxyFix

from kafka_http.config.settings import PORT
from kafka_http.security.trusted_networks import TrustedNetworks, forwarded_address
from kafka_http.web.authority import parse_authority
from kafka_http.web.url_paths import ABSOLUTE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


_FORWARDED_HEADERS = frozenset(
    ("HTTP_FORWARDED", *(f"HTTP_X_FORWARDED_{name}" for name in ("FOR", "PROTO", "HOST", "PREFIX", "PORT")))
)
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_ELEMENT = re.compile(rf'(?:{_QUOTED}|[^",])+')
_PAIR = re.compile(rf"\s*(?P<name>[\w-]+)=(?P<value>{_QUOTED}|[^;]*)")
_NUMBER = re.compile(PORT)
_DOTS = r"(?:\.|%2[Ee]){1,2}(?:/|\Z)"
_PREFIX = re.compile(rf"(/(?!{_DOTS})([A-Za-z0-9._~!$&'()*+;=:@-]|%[0-9A-Fa-f]{{2}})+)+")


class TrustedProxies:
    """WSGI middleware that applies `Forwarded` (RFC 7239) and `X-Forwarded-{For,Proto,Host,Port,Prefix}`.

    Only proxies in the given networks are trusted. `Forwarded` has precedence. Of several entries, the last counts: it
    is that of the nearest proxy. Malformed values are ignored, because the values appear in links.

    The host of an absolute request target replaces the Host header (RFC 9112, section 3.2.2).
    """

    def __init__(self, app: "WSGIApplication", trusted: TrustedNetworks) -> None:
        self._app = app
        self._fixed = ProxyFix(app, x_for=1, x_proto=1, x_host=1, x_port=1, x_prefix=1)
        self._trusted = trusted

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if "HTTP_HOST" in environ and (absolute := ABSOLUTE.match(environ.get("RAW_URI", ""))):
            environ["HTTP_HOST"] = absolute[1]
        if _FORWARDED_HEADERS.isdisjoint(environ) or environ.get("REMOTE_ADDR", "") not in self._trusted:
            return self._app(environ, start_response)
        forwarded = _parse_forwarded(environ.get("HTTP_FORWARDED", ""))
        if _checked_host(forwarded.get("host", "")):
            environ.pop("HTTP_X_FORWARDED_PORT", None)  # belongs to the host of X-Forwarded-Host
        if (sent := environ.get("HTTP_X_FORWARDED_FOR")) is not None:
            environ["HTTP_X_FORWARDED_FOR"] = forwarded_address(sent) or environ.get("REMOTE_ADDR", "")
        for name, check in _CHECKS.items():
            key = f"HTTP_X_FORWARDED_{name.upper()}"
            last = environ.pop(key, "").rpartition(",")[2].strip()
            if value := check(forwarded.get(name, "")) or check(last):
                environ[key] = value
        return self._fixed(environ, start_response)


def _parse_forwarded(header: str) -> Mapping[str, str]:
    """Return the parameters of the last entry of a `Forwarded` header, names in lower case.

    A value with a colon may lack its quotes, as many proxies send it.
    """
    parameters = {}
    elements = [each for each in _ELEMENT.findall(header) if each.strip()]
    for found in _PAIR.finditer(elements[-1] if elements else ""):
        value = found["value"].strip()
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        parameters[found["name"].lower()] = value
    return parameters


def _checked_scheme(text: str) -> str:
    return text.lower() if text.lower() in {"http", "https"} else ""


def _checked_host(text: str) -> str:
    return str(parse_authority(text) or "")


def _checked_port(text: str) -> str:
    return text if _NUMBER.fullmatch(text) and int(text) else ""


def _checked_prefix(text: str) -> str:
    """Return a prefix that starts with a slash. Dot segments are rejected, because they would lead out of it."""
    path = text if text.startswith("/") else f"/{text}"
    path = path.removesuffix("/")
    return path if _PREFIX.fullmatch(path) else ""


_CHECKS: Mapping[str, Callable[[str], str]] = {
    "proto": _checked_scheme,
    "host": _checked_host,
    "port": _checked_port,
    "prefix": _checked_prefix,
}
