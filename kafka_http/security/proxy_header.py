"""A header in which a trusted proxy names the principal that it has authenticated."""

from kafka_http.errors import Unauthenticated
from kafka_http.security.principal import Credentials, Principal, Scheme, is_valid_name
from kafka_http.security.trusted_networks import TrustedNetworks


class ProxyHeader:
    """The `Authenticator` behind a proxy that authenticates. From any other address the header is ignored."""

    scheme: Scheme = "proxy"
    challenge = ""

    def __init__(self, header: str, trusted: TrustedNetworks) -> None:
        self._header = header
        self._key = header.lower()
        self._trusted = trusted

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Principal | None:
        """Return the principal that the proxy names. Does not block."""
        sent = credentials.headers.get(self._key)
        if not sent or credentials.peer not in self._trusted:
            return None
        name = _decode(sent)
        # WSGI joins a repeated header with commas: one of the client would be joined with that of the proxy.
        if not is_valid_name(name) or "," in name:
            raise Unauthenticated(f"The header {self._header} has a name that is not allowed, or several.")
        return Principal(name, self.scheme)

    def is_current(self, principal: Principal) -> bool:
        """Return whether the proxy is asked at all: it decides about each request."""
        return True


def _decode(sent: str) -> str:
    """Return the text that the bytes of a header are in UTF-8, or an empty one. WSGI decodes them as Latin-1."""
    try:
        return sent.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return ""
