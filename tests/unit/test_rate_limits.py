"""Limits of principals and addresses."""

import pytest

from kafka_http.security.rate_limits import client_network


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0db8:0001:0002::7", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("192.0.2.1:4711", "192.0.2.1:4711"),
        ("unknown", "unknown"),
    ],
)
def test_client_network_of_ipv6_is_its_64_bit_prefix(address: str, network: str) -> None:
    assert client_network(address) == network
