"""The addresses that trusted proxies forward."""

import pytest

from kafka_http.security.trusted_networks import TrustedNetworks


@pytest.mark.parametrize(
    ("sent", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("198.51.100.7, 192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:50123", "192.0.2.1"),  # each connection of a client would have another address
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:50123", "2001:db8::1"),
        ("", "10.0.0.1"),
        ("unknown", "10.0.0.1"),
        ("192.0.2.1, ", "10.0.0.1"),
        ("192.0.2.1 root", "10.0.0.1"),
        ("fe80::1%x root", "10.0.0.1"),
        ("192.0.2.300", "10.0.0.1"),
        ("[192.0.2.1", "10.0.0.1"),
    ],
)
def test_forwarded_address_has_no_port_and_is_ignored_if_malformed(sent: str, address: str) -> None:
    """Limits, failed logins and ACLs count by address, and log lines show it."""
    trusted = TrustedNetworks(["10.0.0.0/8"])
    assert trusted.client_address("10.0.0.1", {"x-forwarded-for": sent}) == address
    assert trusted.client_address("192.0.2.9", {"x-forwarded-for": sent}) == "192.0.2.9"
