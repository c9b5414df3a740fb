"""Sets of origins: what a pattern matches, and what only looks like it."""

import pytest

from kafka_http.security.origins import Origins, origin_of

OWN = "http://kafka.example.org"


@pytest.mark.parametrize(
    ("origin", "is_in"),
    [
        ("https://app.example.org", True),
        ("HTTPS://APP.example.org:443", True),
        ("https://a.b.example.com", True),
        ("https://example.com", False),
        ("https://.example.com", False),
        ("https://evil.com/.example.com", False),
        ("https://evil.com?.example.com", False),
        ("https://evil.com#.example.com", False),
        ("https://user@evil.com:1.example.com", False),
        ("https://*.example.com", False),
        ("https://app.example.org.evil.com", False),
        ("http://app.example.org", False),
        ("http://localhost:3000", True),
        ("http://localhost", False),
        ("http://x.dev.test:8080", True),
        ("http://x.dev.test", False),
        ("https://[::1]:3000", True),
        ("null", False),
        ("*", False),
        ("", False),
    ],
)
def test_origin_is_in_the_set_if_a_pattern_matches_it(origin: str, is_in: bool) -> None:
    origins = Origins(
        [
            *("https://app.example.org", "https://*.example.com", "http://localhost:3000"),
            *("http://*.dev.test:8080", "https://[::1]:3000", "*"),
        ]
    )
    assert (origin in origins) is is_in


@pytest.mark.parametrize(
    ("site", "origin", "is_foreign"),
    [
        (None, OWN, False),
        (None, "http://evil.example", True),
        (None, "null", True),
        ("same-origin", "http://evil.example", False),
        ("none", None, False),
        ("cross-site", None, True),
        ("same-site", OWN, True),
        ("cross-site", "https://app.example.org", False),
    ],
)
def test_request_is_foreign_unless_its_origin_is_listed_or_own(
    site: str | None, origin: str | None, is_foreign: bool
) -> None:
    for more in ([], ["*"]):
        origins = Origins(["https://app.example.org", *more])
        assert origins.is_foreign(site, origin, lambda: OWN) is is_foreign


def test_origin_of_a_url_has_no_default_port_and_no_path() -> None:
    assert origin_of("https://A.example.org:443/x") == "https://a.example.org"
    assert origin_of("http://a.example.org:443") == "http://a.example.org:443"
