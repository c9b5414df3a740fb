"""Which IP addresses are of the public internet, and which are somebody's own.

By a table of our own rather than `ipaddress`'s `is_global`, whose answers differ between Python's versions.
Source: IANA's special-purpose address registries for IPv4 and IPv6, as of 2025.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address

_NOT_PUBLIC = {
    # Azure's lies in a public network, Oracle's in a reserved one, Alibaba's in the shared one.
    "the address of a cloud's metadata": "169.254.169.254 168.63.129.16 192.0.0.192 100.100.100.200 fd00:ec2::254",
    "a loopback address": "127.0.0.0/8 ::1",
    "the unspecified address": "0.0.0.0/8 ::",
    "a private address": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10",
    "a link-local address": "169.254.0.0/16 fe80::/10",
    "a shared address": "100.64.0.0/10",
    "a multicast address": "224.0.0.0/4 ff00::/8",
    "an address of a tunnel": "192.88.99.0/24 2002::/16 2001::/32",
    "a reserved address": (
        "192.0.0.0/24 192.0.2.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 2001::/23 2001:db8::/32 "
        "3fff::/20"
    ),
}
_NETWORKS: list[tuple[str, IPv4Network | IPv6Network]] = [
    (kind, ip_network(network)) for kind, networks in _NOT_PUBLIC.items() for network in networks.split()
]
_ALL_GIVEN_OUT = IPv6Network("2000::/3")
"""The only IPv6 addresses that have been given out to be reached by all."""

_NAT64 = IPv6Network("64:ff9b::/96")


def plain(address: Address) -> Address:
    """The same address as IPv4, where it is an IPv4-mapped one."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def why_not_public(address: Address) -> str:
    """What it is instead, such as `a loopback address`; empty for a public one.

    A NAT64 address (RFC 6052) is what the IPv4 address in it is; one of a network's own NAT64 is not public, nor is
    a 6to4 or Teredo address, whatever is in it: nobody offers a service there.
    """
    address = plain(address)
    if address in _NAT64:
        return why_not_public(IPv4Address(int(address) & 0xFFFFFFFF))
    for kind, network in _NETWORKS:
        if address in network:
            return kind
    is_public = address.version == 4 or address in _ALL_GIVEN_OUT
    return "" if is_public else "a reserved address"
