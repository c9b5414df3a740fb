"""The address that a client has used, where a proxy in front tells it."""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from werkzeug.http import parse_options_header
from werkzeug.middleware.proxy_fix import ProxyFix

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


_SAID = frozenset(
    ("HTTP_FORWARDED", *(f"HTTP_X_FORWARDED_{name}" for name in ("FOR", "PROTO", "HOST", "PREFIX", "PORT")))
)


class TrustedProxies:
    """WSGI middleware that believes `Forwarded` (RFC 7239) and `X-Forwarded-{For,Proto,Host,Prefix}` from proxies in
    these networks alone. `Forwarded` goes first; of several entries the last counts, our own proxy's."""

    def __init__(self, app: "WSGIApplication", networks: Sequence[str]) -> None:
        self._app = app
        self._fixed = ProxyFix(self._rooted, x_for=1, x_proto=1, x_host=1, x_prefix=1)
        self._networks = [ip_network(network) for network in networks]

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if _SAID.isdisjoint(environ) or not self._is_trusted(environ.get("REMOTE_ADDR", "")):
            return self._app(environ, start_response)
        forwarded = environ.get("HTTP_FORWARDED", "").rpartition(",")[2]
        _, said = parse_options_header(f"forwarded; {forwarded}")
        for name, value in said.items():
            if name in {"proto", "host"}:
                environ[f"HTTP_X_FORWARDED_{name.upper()}"] = value
        return self._fixed(environ, start_response)

    def _rooted(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Go on with a prefix that begins with a slash: without one it would become a part of the host."""
        if (prefix := environ["SCRIPT_NAME"]) and not prefix.startswith("/"):
            environ["SCRIPT_NAME"] = f"/{prefix}"
        return self._app(environ, start_response)

    def _is_trusted(self, address: str) -> bool:
        if not address:  # a Unix socket: whoever can open it
            return True
        try:
            peer = ip_address(address)
        except ValueError:
            return False
        return any(peer in network for network in self._networks)
