"""`CallbackGuard`: URLs and resolved addresses that it allows or rejects."""

from collections.abc import Sequence

import pytest

from kafka_http.config.sources import load_config
from kafka_http.errors import InvalidCallback
from kafka_http.node.callbacks import CallbackGuard


def resolving_to(*addresses: str) -> "Resolver":
    return Resolver(list(addresses))


class Resolver:
    """Returns the same addresses for each host, and records the calls."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = addresses
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.addresses


NOT_PUBLIC = {
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "0.0.0.0": "unspecified",  # noqa: S104  refused
    "0.1.2.3": "unspecified",
    "10.0.0.1": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "169.254.0.1": "link-local",
    "169.254.169.254": "metadata",
    "168.63.129.16": "metadata",
    "100.100.100.200": "metadata",
    "192.0.0.192": "metadata",
    "100.64.0.1": "shared",
    "100.127.255.255": "shared",
    "192.0.0.1": "reserved",
    "192.0.2.1": "reserved",
    "198.18.0.1": "reserved",
    "198.19.255.255": "reserved",
    "198.51.100.1": "reserved",
    "203.0.113.1": "reserved",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "224.0.0.1": "multicast",
    "239.255.255.250": "multicast",
    "192.88.99.1": "tunnel",
    "::1": "loopback",
    "::": "unspecified",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:a00:1": "private",
    "::ffff:169.254.169.254": "metadata",
    "::127.0.0.1": "reserved",
    "64:ff9b::7f00:1": "loopback",
    "64:ff9b::a9fe:a9fe": "metadata",
    "64:ff9b:1::808:808": "reserved",
    "2002:7f00:1::": "tunnel",
    "2002:808:808::1": "tunnel",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": "tunnel",
    "2001:db8::1": "reserved",
    "2001:20::1": "reserved",
    "3fff::1": "reserved",
    "5f00::1": "reserved",
    "100::1": "reserved",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "fec0::1": "private",
    "fc00::1": "private",
    "fd12:3456::1": "private",
    "fd00:ec2::254": "metadata",
    "ff02::1": "multicast",
    "4000::1": "reserved",
}

PUBLIC = ["8.8.8.8", "100.63.255.255", "172.32.0.1", "11.0.0.1", "2606:4700::1111", "64:ff9b::808:808"]

TRICKS = [
    "http://localhost/",
    "http://LOCALHOST:8082/",
    "http://a.localhost/",
    "http://localhost./",
    "http://127.0.0.1./",
    "http://example.org./",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0X7F.1/",
    "http://134744072/",
    "http://127.0.0.01/",
    "http://127.0.0.256/",
    "http://1.2.3.4.5/",
    "http://[::ffff:127.0.0.1]/",
    "http://[0:0:0:0:0:ffff:7f00:1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fe80::1%eth0]/",
    "http://[::1%250]/",
    "http://[v1.fe80::a]/",
    "http://[127.0.0.1]/",
    "http://[::1/",
    "http://::1/",
    "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/",
    "http://127\u30020\u30020\u30021/",
    "http://\uff11\uff12\uff17.0.0.1/",
    "http://ex\u00e4mple.org/",
    "http://127%2e0%2e0%2e1/",
    "http://%6c%6f%63%61%6c%68%6f%73%74/",
    "http://user:hush@example.org/",
    "http://hush@example.org/",
    "http://example.org@127.0.0.1/",
    "http://@example.org/",
    "http://127.0.0.1\\@example.org/",
    "http://example.org\\.127.0.0.1/",
    "http://127.0.0.1#@example.org/",
    "http://example.org/#hush",
    "http://127.0.0.1?@example.org/",
    "http:/127.0.0.1/",
    "http:127.0.0.1",
    "http:///127.0.0.1/",
    "//example.org/",
    "example.org",
    "",
    "ftp://example.org/",
    "file:///etc/passwd",
    "gopher://example.org/",
    "unix:///run/docker.sock",
    "http+unix://%2Frun%2Fdocker.sock/",
    "javascript:alert(1)",
    "http://example.org:0/",
    "http://example.org:00000/",
    "http://example.org:65536/",
    "http://example.org:000080/",
    "http://example.org:+80/",
    "http://example.org:8_0/",
    "http://example.org:80:80/",
    "http://",
    "http://:80/",
    "http://./",
    "http://a..b/",
    "http://-a.example.org/",
    f"http://{'a' * 64}.org/",
    f"http://{'a.' * 127}org/",
    "http://example.org/a b",
    " http://example.org/",
    "http://example.org/\r\nX: y",
    "http://example.org/\n",
    "ht\ttp://example.org/",
    "http://exa\tmple.org/",
    "http://example.org/\x00",
    f"http://example.org/{'a' * 2048}",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_url_with_non_public_address_is_rejected(address: str) -> None:
    url = f"http://[{address}]/" if ":" in address else f"http://{address}/"

    with pytest.raises(InvalidCallback, match="URL" if "%" in address else NOT_PUBLIC[address]) as refused:
        CallbackGuard(resolve=resolving_to("8.8.8.8")).check_url(url)

    assert refused.value.status == 422


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_host_with_non_public_address_is_rejected_without_naming_the_address(address: str) -> None:
    guard = CallbackGuard(resolve=resolving_to(address))
    target = guard.check_url("http://receiver.example/")

    with pytest.raises(InvalidCallback, match=NOT_PUBLIC[address]) as refused:
        guard.addresses(target)

    assert address not in refused.value.message.replace("receiver.example", "")


@pytest.mark.parametrize("url", TRICKS)
def test_ambiguous_url_is_rejected_without_showing_credentials(url: str) -> None:
    with pytest.raises(InvalidCallback) as refused:
        CallbackGuard(resolve=resolving_to("8.8.8.8")).check_url(url)

    assert "hush" not in refused.value.message


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_allowed_in_url_and_for_host(address: str) -> None:
    url = f"http://[{address}]/" if ":" in address else f"http://{address}/"
    guard = CallbackGuard(resolve=resolving_to(address))

    for each in (url, "https://receiver.example/hook"):
        assert [str(found) for found in guard.addresses(guard.check_url(each))] == [address]


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://example.org", "example.org", 80, "/"),
        ("HTTPS://Example.ORG:/a/../b?c=d&e=%20@", "example.org", 443, "/a/../b?c=d&e=%20@"),
        ("https://a_b.example.org:8443?x", "a_b.example.org", 8443, "/?x"),
        ("http://xn--exmple-cua.org/", "xn--exmple-cua.org", 80, "/"),
        ("http://[2606:4700::1111]:81/a", "2606:4700::1111", 81, "/a"),
        ("http://1and1.example/", "1and1.example", 80, "/"),
    ],
)
def test_url_is_split_into_host_port_and_path(url: str, host: str, port: int, path: str) -> None:
    target = CallbackGuard().check_url(url)

    assert (target.host, target.port, target.path) == (host, port, path)


def test_ipv4_mapped_address_becomes_ipv4() -> None:
    guard = CallbackGuard(resolve=resolving_to("::ffff:8.8.8.8", "8.8.8.8"))

    assert [str(each) for each in guard.addresses(guard.check_url("http://a.example/"))] == ["8.8.8.8"]


def test_host_with_one_non_public_address_is_rejected() -> None:
    guard = CallbackGuard(resolve=resolving_to("8.8.8.8", "2606:4700::1111", "10.0.0.1"))

    with pytest.raises(InvalidCallback):
        guard.addresses(guard.check_url("http://a.example/"))


def test_host_without_address_raises_os_error() -> None:
    guard = CallbackGuard(resolve=resolving_to())

    with pytest.raises(OSError, match="no address"):
        guard.addresses(guard.check_url("http://a.example/"))


def test_url_check_does_not_resolve() -> None:
    resolver = resolving_to("8.8.8.8")
    guard = CallbackGuard(resolve=resolver)

    guard.addresses(guard.check_url("http://8.8.4.4/"))
    target = guard.check_url("https://a.example/")

    assert resolver.asked == []
    guard.addresses(target)
    assert resolver.asked == [("a.example", 443)]


@pytest.mark.parametrize(
    ("allow", "host", "address", "is_allowed"),
    [
        ("hooks.internal", "hooks.internal", "10.0.0.1", True),
        ("Hooks.Internal", "HOOKS.internal", "10.0.0.1", True),
        ("hooks.internal", "a.hooks.internal", "10.0.0.1", False),
        ("hooks.internal", "hooks.internal.example", "10.0.0.1", False),
        ("*.example.org", "a.b.example.org", "127.0.0.1", True),
        ("*.example.org", "example.org", "127.0.0.1", False),
        ("*.example.org", "an-example.org", "127.0.0.1", False),
        ("localhost", "localhost", "127.0.0.1", True),
        ("127.0.0.0/8", "localhost", "127.0.0.1", True),
        ("10.0.0.0/8", "localhost", "10.0.0.1", False),
        ("10.0.0.0/8", "a.example", "10.1.2.3", True),
        ("10.0.0.0/8", "a.example", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "a.example", "11.1.2.3", True),
        ("10.0.0.0/8", "a.example", "192.168.0.1", False),
        ("10.0.0.5", "10.0.0.5", "", True),
        ("10.0.0.5", "10.0.0.6", "", False),
        ("fd00::/8", "[fd00::1]", "", True),
        ("169.254.169.254", "169.254.169.254", "", True),
        ("10.0.0.0/8,hooks.internal", "hooks.internal", "192.168.0.1", True),
    ],
)
def test_callback_allow_permits_listed_hosts(allow: str, host: str, address: str, is_allowed: bool) -> None:
    config = load_config({"callback_allow": allow}, {})

    assert is_open(CallbackGuard(config.callback_allow, resolve=resolving_to(address)), f"http://{host}/") is is_allowed


@pytest.mark.parametrize(
    ("only", "allow", "host", "address", "is_allowed"),
    [
        ("a.example", "", "a.example", "8.8.8.8", True),
        ("a.example", "", "b.example", "8.8.8.8", False),
        ("a.example", "", "8.8.8.8", "", False),
        ("a.example", "", "a.example", "10.0.0.1", False),
        ("a.example", "10.0.0.0/8", "a.example", "10.0.0.1", True),
        ("a.example", "b.example", "b.example", "10.0.0.1", False),
        ("*.example", "", "b.example", "8.8.8.8", True),
        ("8.8.0.0/16", "", "8.8.8.8", "", True),
        ("8.8.0.0/16", "", "a.example", "8.8.8.8", True),
        ("8.8.0.0/16", "", "a.example", "8.9.8.8", False),
    ],
)
def test_callback_hosts_restricts_to_listed_hosts(
    only: str, allow: str, host: str, address: str, is_allowed: bool
) -> None:
    config = load_config({"callback_hosts": only, "callback_allow": allow or "[]"}, {})
    guard = CallbackGuard(config.callback_allow, config.callback_hosts, resolving_to(address))

    assert is_open(guard, f"http://{host}/") is is_allowed


def test_url_with_host_not_in_callback_hosts_is_rejected() -> None:
    with pytest.raises(InvalidCallback, match="callback_hosts"):
        CallbackGuard(only=["a.example"]).check_url("http://b.example/")


def test_guard_from_config_uses_both_settings() -> None:
    guard = CallbackGuard.from_config(
        load_config({"callback_hosts": "10.0.0.5,10.0.0.6,11.0.0.1", "callback_allow": "10.0.0.5"}, {})
    )

    assert [is_open(guard, f"http://{host}/") for host in ("10.0.0.5", "10.0.0.6", "11.0.0.1", "11.0.0.2")] == [
        True,
        False,
        True,
        False,
    ]


def is_open(guard: CallbackGuard, url: str) -> bool:
    try:
        guard.addresses(guard.check_url(url))
    except InvalidCallback:
        return False
    return True
