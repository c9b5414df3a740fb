"""Calls that another node has forwarded: a header names their principal, and counts only with the nodes' secret."""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

from kafka_http.errors import InvalidRequest, WouldBlock
from kafka_http.security.access import Access
from kafka_http.security.principal import KeyRestriction, Principal, Scheme

NODE_HEADER = "Kafka-Http-Node"
"""Marks a forwarded request. A node accepts it only with the secret that the nodes share."""
PRINCIPAL_HEADER = "Kafka-Http-Principal"
"""The principal of a forwarded request: the JSON of a `ForwardedCaller` in base64 (URL-safe)."""


_VOUCHED = "another node"
"""The `credential` of a forwarded principal."""


class ForwardedCaller(Struct, frozen=True, omit_defaults=True):
    """The principal that the first node has authenticated, and the address of its client. It has no credentials."""

    name: str
    scheme: Scheme
    address: str = ""
    groups: tuple[str, ...] = ()
    restriction: KeyRestriction | None = None

    @property
    def principal(self) -> Principal:
        groups = frozenset(self.groups)
        return Principal(self.name, self.scheme, groups, credential=_VOUCHED, restriction=self.restriction)


def is_forwarded(principal: Principal) -> bool:
    """Whether another node has checked the credentials, which this node does not know."""
    return principal.credential == _VOUCHED


_OFF = ForwardedCaller("", "off")


def forwarded_headers(access: Access, secret: str) -> dict[str, str]:
    """Return the headers that a node adds to a request that it forwards to another node."""
    headers = {NODE_HEADER: secret}
    if not access.is_unrestricted:
        principal = access.principal
        groups = tuple(sorted(principal.groups))
        caller = ForwardedCaller(principal.name, principal.scheme, access.address, groups, principal.restriction)
        headers[PRINCIPAL_HEADER] = urlsafe_b64encode(msgspec.json.encode(caller)).decode()
    return headers


class ForwardedCalls:
    """Recognizes the calls that other nodes forward. The composition root creates one. Any thread may call."""

    def __init__(self, fetch_secret: Callable[[], str]) -> None:
        """`fetch_secret` returns the nodes' secret, which does not change. It may block, and raise `Unavailable`."""
        self._fetch_secret = fetch_secret
        self._secret = ""

    def caller(self, headers: Mapping[str, str], *, blocking: bool) -> ForwardedCaller | None:
        """Return who sent a request to another node, or None if it is not from a node: its headers do not count then.

        Header names are in lower case. Raises `Unavailable`, `InvalidRequest`; `WouldBlock` if `blocking` is false and
        the secret is not known yet.
        """
        sent = headers.get(NODE_HEADER.lower())
        if not sent:
            return None
        if not self._secret and not blocking:
            raise WouldBlock
        return _decoded(headers.get(PRINCIPAL_HEADER.lower())) if self.is_secret(sent) else None

    def is_secret(self, sent: str) -> bool:
        """Whether it is the nodes' secret. May block. Raises `Unavailable`."""
        if not self._secret:
            self._secret = self._fetch_secret()
        return self._secret != "" and hmac.compare_digest(sent.encode(), self._secret.encode())


def _decoded(header: str | None) -> ForwardedCaller:
    if header is None:
        return _OFF
    try:
        return msgspec.json.decode(urlsafe_b64decode(header), type=ForwardedCaller)
    except ValueError:
        raise InvalidRequest(f"{PRINCIPAL_HEADER} is malformed: the other node has another version.") from None
