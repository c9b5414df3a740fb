"""Client certificates: the TLS layer has verified the certificate, which names the principal."""

import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from kafka_http.errors import Unauthenticated
from kafka_http.security.principal import Credentials, Principal, Scheme, is_valid_name

_ALTERNATIVE_NAMES = {"dns": "DNS", "email": "email", "uri": "URI"}
_LONG_AGO = "Jan  1 00:00:00 1970 GMT"


class ClientCertificates:
    """The `Authenticator` of mutual TLS."""

    scheme: Scheme = "certificate"
    challenge = ""

    def __init__(self, principal_from: Literal["cn", "dns", "email", "uri"]) -> None:
        """`principal_from` is the common name, or the first alternative name of a kind."""
        self._principal_from = principal_from

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Principal | None:
        """Return the principal that the certificate names. Does not block."""
        certificate = credentials.certificate
        if not certificate:
            return None
        expires = ssl.cert_time_to_seconds(certificate.get("notAfter", _LONG_AGO))
        if expires <= time.time():  # the connection was made before
            raise Unauthenticated("The client certificate has expired. Nothing was done.")
        name = self._name(certificate)
        if name is None or not is_valid_name(name):
            raise Unauthenticated(
                f"The client certificate has no name of the kind {self._principal_from} that is allowed. "
                "Nothing was done."
            )
        return Principal(name, self.scheme, expires=expires, credential=self._principal_from)

    def is_current(self, principal: Principal) -> bool:
        """Whether the certificate has not expired, and the same part of it names the principal."""
        return principal.credential == self._principal_from and principal.expires > time.time()

    def _name(self, certificate: Mapping[str, Any]) -> str | None:
        """Return the name, or None if there is none or if it is not clear which."""
        if self._principal_from == "cn":
            names = _values("commonName", (pair for part in certificate.get("subject", ()) for pair in part))
            return names[0] if len(names) == 1 else None
        kind = _ALTERNATIVE_NAMES[self._principal_from]
        return next(iter(_values(kind, certificate.get("subjectAltName", ()))), None)


def _values(kind: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [value for name, value in pairs if name == kind]
