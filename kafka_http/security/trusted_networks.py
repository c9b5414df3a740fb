"""The addresses of proxies that are trusted to name the address, or the principal, of their clients."""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network

FORWARDED_HEADERS = frozenset(("x-forwarded-for", "forwarded"))
"""In which a proxy names its client."""


class TrustedNetworks:
    """The setting `trusted_proxies`. Any thread may use it."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ip_network(network) for network in networks]

    def __contains__(self, address: str) -> bool:
        if not address:  # a Unix socket: its file permissions decide who may connect
            return True
        try:
            peer = ip_address(address)
        except ValueError:
            return False
        return any(peer in network for network in self._networks)

    def is_forwarded(self, peer: str, headers: Mapping[str, str]) -> bool:
        """Whether a request is from a trusted proxy, whose connection carries those of many clients.

        Header names are in lower case.
        """
        return not FORWARDED_HEADERS.isdisjoint(headers) and peer in self

    def client_address(self, peer: str, headers: Mapping[str, str]) -> str:
        """Return the address of the client of a connection from `peer`. Header names are in lower case."""
        sent = headers.get("x-forwarded-for")
        if sent is None or peer not in self:
            return peer
        return sent.rpartition(",")[2].strip() or peer
