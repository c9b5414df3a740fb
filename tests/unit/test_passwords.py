"""Users with passwords: htpasswd files, and which logins are accepted."""

import threading
from base64 import b64encode
from pathlib import Path

import bcrypt
import pytest

from kafka_http.config import ConfigError
from kafka_http.errors import TooManyLogins, Unauthenticated, WouldBlock
from kafka_http.security.login_attempts import FAILURES_PER_MINUTE, LoginAttempts
from kafka_http.security.passwords import BasicLogins
from kafka_http.security.principal import Credentials, Principal
from kafka_http.security.shared_counters import SharedBuckets

PASSWORD = "correct horse ä:"  # noqa: S105
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()


@pytest.fixture
def attempts() -> LoginAttempts:
    return LoginAttempts(SharedBuckets(64))


@pytest.fixture
def logins(attempts: LoginAttempts) -> BasicLogins:
    return BasicLogins({"ann": HASH, "bob": HASH.replace("$2b$", "$2y$")}, attempts)


def sent(user: str, password: str = PASSWORD, address: str = "192.0.2.1") -> Credentials:
    return raw(b64encode(f"{user}:{password}".encode()).decode(), address)


def raw(encoded: str, address: str = "192.0.2.1") -> Credentials:
    return Credentials({"authorization": f"Basic {encoded}"}, address, address)


def authenticate(logins: BasicLogins, credentials: Credentials) -> Principal:
    found = logins.authenticate(credentials, blocking=True)
    assert found is not None
    return found


@pytest.mark.parametrize("user", ["ann", "bob"])
def test_right_password_returns_the_user(logins: BasicLogins, user: str) -> None:
    found = authenticate(logins, sent(user))

    assert (found.name, found.scheme) == (user, "basic")
    assert logins.is_current(found)
    assert HASH[7:] not in repr(found)


def test_login_is_verified_in_a_thread_and_then_remembered(logins: BasicLogins) -> None:
    with pytest.raises(WouldBlock):
        logins.authenticate(sent("ann"), blocking=False)
    verified = authenticate(logins, sent("ann"))
    assert logins.authenticate(sent("ann"), blocking=False) == verified
    with pytest.raises(WouldBlock):
        logins.authenticate(sent("ann", "other"), blocking=False)


@pytest.mark.parametrize(("user", "password"), [("ann", "wrong"), ("ann", ""), ("nobody", PASSWORD), ("nobody", "x")])
def test_wrong_login_is_refused_with_the_same_message(logins: BasicLogins, user: str, password: str) -> None:
    with pytest.raises(Unauthenticated) as raised:
        authenticate(logins, sent(user, password))

    assert raised.value.message == "Unknown user or wrong password. Nothing was done."


@pytest.mark.parametrize(
    "encoded",
    [
        *("", "=", "!", "YW5u", "YW5uOng=,YW5uOng=", "YW5uOng= YW5uOng=", "YW5uOng\n=", "\xe4"),
        *(b64encode(each).decode() for each in (b"\xff:x", b":x", b"a\nb:x", b"a\0b:x", b"ann:a\0b", b"anonymous:x")),
        *(b64encode(each).decode() for each in (b"a" * 256 + b":x", b"ann:" + b"x" * 73, b"ann:" + b"x" * 6000)),
    ],
    ids=range(17),
)
def test_malformed_credentials_are_refused_without_a_thread(logins: BasicLogins, encoded: str) -> None:
    with pytest.raises(Unauthenticated) as raised:
        logins.authenticate(raw(encoded), blocking=False)

    assert not encoded or len(encoded) < 4 or encoded not in raised.value.message


def test_other_schemes_are_left_to_others(logins: BasicLogins) -> None:
    for headers in ({}, {"authorization": "Bearer kh_x"}, {"authorization": "basic"}):
        assert logins.authenticate(Credentials(headers, "", ""), blocking=False) is None


def test_changed_password_and_removed_user_are_not_current(logins: BasicLogins, attempts: LoginAttempts) -> None:
    ann = authenticate(logins, sent("ann"))

    assert not BasicLogins({"ann": HASH.replace("$2b$", "$2y$")}, attempts).is_current(ann)
    assert not BasicLogins({"bob": HASH}, attempts).is_current(ann)


def test_eleventh_failed_login_of_an_address_returns_too_many_logins(logins: BasicLogins) -> None:
    remembered = authenticate(logins, sent("ann"))
    for attempt in range(FAILURES_PER_MINUTE):
        with pytest.raises(Unauthenticated):
            authenticate(logins, sent("ann", f"wrong {attempt}"))

    for blocking in (True, False):
        with pytest.raises(TooManyLogins) as raised:
            logins.authenticate(sent("bob"), blocking=blocking)
        assert 1 <= int(raised.value.headers["Retry-After"]) <= 6
    assert logins.authenticate(sent("ann"), blocking=False) == remembered
    assert authenticate(logins, sent("bob", address="192.0.2.2")).name == "bob"


def test_failed_logins_of_an_ipv6_network_count_together(logins: BasicLogins) -> None:
    for attempt in range(FAILURES_PER_MINUTE):
        with pytest.raises(Unauthenticated):
            authenticate(logins, sent("ann", "wrong", f"2001:db8::{attempt}"))

    with pytest.raises(TooManyLogins):
        authenticate(logins, sent("bob", address="2001:db8::ffff"))
    assert authenticate(logins, sent("bob", address="2001:db8:0:1::1")).name == "bob"


def test_successful_logins_do_not_count(attempts: LoginAttempts) -> None:
    for _ in range(3 * FAILURES_PER_MINUTE):
        authenticate(BasicLogins({"ann": HASH}, attempts), sent("ann"))


def test_concurrent_requests_with_one_login_verify_it_once(
    logins: BasicLogins, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    go = threading.Event()
    check = bcrypt.checkpw

    def counted(password: bytes, stored: bytes) -> bool:
        checked.append(1)
        go.wait(30)
        return check(password, stored)

    monkeypatch.setattr("bcrypt.checkpw", counted)
    found: list[Principal] = []
    threads = [threading.Thread(target=lambda: found.append(authenticate(logins, sent("ann")))) for _ in range(20)]
    for each in threads:
        each.start()
    go.set()
    for each in threads:
        each.join(30)

    assert [each.name for each in found] == ["ann"] * 20
    assert len(checked) == 1


def load(tmp_path: Path, text: str, attempts: LoginAttempts) -> BasicLogins:
    file = tmp_path / "users.htpasswd"
    file.write_bytes(text.encode())
    return BasicLogins.from_file(str(file), attempts, 16)


def test_file_with_comments_and_crlf_is_read(tmp_path: Path, attempts: LoginAttempts) -> None:
    logins = load(tmp_path, f"# users\r\n\r\nann:{HASH}\r\nbob:{HASH}", attempts)

    assert authenticate(logins, sent("ann")).name == "ann"
    assert authenticate(logins, sent("bob")).name == "bob"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ann:$apr1$planted0$w5eZHtFZ5IpY4yDbBuYF1/", "htpasswd -B"),
        ("ann:{SHA}planted=", "htpasswd -B"),
        ("ann:$5$planted$x", "htpasswd -B"),
        ("ann:planted", "htpasswd -B"),
        ("ann:", "htpasswd -B"),
        ("ann", "htpasswd -B"),
        (f"ann:{HASH.replace('$2b$', '$2a$')}", "htpasswd -B"),
        (f"ann:{HASH}x", "htpasswd -B"),
        (f"ann:{HASH} ", "htpasswd -B"),
        (f"ann:{HASH.replace('$04$', '$31$')}", "cost 31"),
        (f"ann:{HASH.replace('$04$', '$03$')}", "cost 3"),
        (f"anonymous:{HASH}", "reserved"),
        (f"a\tb:{HASH}", "control characters"),
        (f"a\0b:{HASH}", "control characters"),
        (f":{HASH}", "empty"),
        (f"{'a' * 256}:{HASH}", "over 255"),
        (f"bob:{HASH}", "repeats the user bob"),
    ],
    ids=range(17),
)
def test_faulty_line_is_a_config_error_that_names_it_without_the_hash(
    tmp_path: Path, attempts: LoginAttempts, line: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        load(tmp_path, f"bob:{HASH}\n\n{line}\n", attempts)

    assert "users.htpasswd, line 3 " in str(raised.value)
    assert "planted" not in str(raised.value)
    assert HASH[7:] not in str(raised.value)


def test_hash_with_an_impossible_salt_matches_nothing(attempts: LoginAttempts) -> None:
    for filler in (".", "z", "/", "9"):
        with pytest.raises(Unauthenticated):
            authenticate(BasicLogins({"ann": "$2y$04$" + 53 * filler}, attempts), sent("ann"))


def test_logins_over_the_concurrent_limit_are_refused_and_not_counted(
    attempts: LoginAttempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logins from many addresses must not occupy all threads: requests with keys need some, too."""
    started, may_end = threading.Event(), threading.Event()

    def slow_check(password: bytes, stored: bytes) -> bool:
        started.set()
        return may_end.wait(30)

    monkeypatch.setattr(bcrypt, "checkpw", slow_check)
    logins = BasicLogins({"ann": HASH, "bob": HASH}, attempts, concurrent=1)
    first = threading.Thread(target=authenticate, args=(logins, sent("ann")))
    first.start()
    try:
        assert started.wait(30)
        for _ in range(2 * FAILURES_PER_MINUTE):
            with pytest.raises(TooManyLogins) as raised:
                authenticate(logins, sent("bob", address="192.0.2.2"))
            assert raised.value.headers == {"Retry-After": "1"}
    finally:
        may_end.set()
        first.join()
    assert authenticate(logins, sent("bob", address="192.0.2.2")).name == "bob"
