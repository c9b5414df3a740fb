"""API keys: the file of keys, and which keys are accepted."""

import time
from hashlib import sha256
from pathlib import Path

import pytest

from kafka_http.config import ConfigError
from kafka_http.errors import Unauthenticated
from kafka_http.security.api_keys import ApiKeys, new_key
from kafka_http.security.principal import Credentials, KeyRestriction, Principal

KEY = new_key()
DIGEST = sha256(KEY.encode()).hexdigest()


def load(tmp_path: Path, text: str) -> ApiKeys:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    return ApiKeys.from_file(str(file))


def sent(key: str, header: str = "x-api-key") -> Credentials:
    return Credentials({header: key}, "127.0.0.1", "127.0.0.1")


def sent_in_query(key: str) -> Credentials:
    return Credentials({}, "127.0.0.1", "127.0.0.1", access_key=key)


def authenticate(keys: ApiKeys, credentials: Credentials) -> Principal | None:
    return keys.authenticate(credentials, blocking=False)


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_key_in_a_header_returns_its_principal(tmp_path: Path, header: str) -> None:
    keys = load(tmp_path, f'[web-1]\nsha256 = "{DIGEST.upper()}"')

    found = authenticate(keys, sent(f"bEARER {KEY} " if header == "authorization" else KEY, header))

    assert found is not None
    assert (found.name, found.scheme, found.restriction) == ("web-1", "key", None)
    assert keys.is_current(found)
    assert DIGEST not in repr(found)


def test_request_without_a_key_returns_none(tmp_path: Path) -> None:
    keys = load(tmp_path, f'[web-1]\nsha256 = "{DIGEST}"')

    assert authenticate(keys, sent("Basic eA==", "authorization")) is None
    assert authenticate(keys, sent("Bearer eyJ.e.s", "authorization")) is None
    assert authenticate(keys, Credentials({}, "", "")) is None


@pytest.mark.parametrize(
    "key",
    [
        "",
        "kh_",
        "kh_other",
        KEY[:-1],
        KEY + "x",
        KEY.upper(),
        KEY[3:],
        KEY + "\0",
        KEY + "\n",
        f"kh_{'x' * 8192}",
        "kh_ä",
    ],
    ids=range(11),
)
def test_other_key_is_refused_without_repeating_it(tmp_path: Path, key: str) -> None:
    keys = load(tmp_path, f'[web-1]\nsha256 = "{DIGEST}"')

    for credentials in (sent(key), sent_in_query(key)):
        with pytest.raises(Unauthenticated) as raised:
            authenticate(keys, credentials)
        assert raised.value.message == "Unknown API key. Nothing was done."


def test_key_whose_text_is_hashed_without_the_prefix_is_refused(tmp_path: Path) -> None:
    keys = load(tmp_path, f'[web-1]\nsha256 = "{sha256(b"password").hexdigest()}"')

    with pytest.raises(Unauthenticated):
        authenticate(keys, sent("password"))


def test_expired_key_is_refused_and_not_current(tmp_path: Path) -> None:
    keys = load(tmp_path, f'[web-1]\nsha256 = "{DIGEST}"\nexpires = 2020-01-01T00:00:00Z')

    with pytest.raises(Unauthenticated, match="expired"):
        authenticate(keys, sent(KEY))
    assert not keys.is_current(Principal("web-1", "key", expires=time.time() - 1))


def test_access_key_needs_a_key_that_may_only_publish(tmp_path: Path) -> None:
    ordinary = load(tmp_path, f'[web-1]\nsha256 = "{DIGEST}"\ntopics = ["clicks"]')
    with pytest.raises(Unauthenticated, match="publish_only"):
        authenticate(ordinary, sent_in_query(KEY))

    narrow = load(tmp_path, f'[web-1]\nsha256 = "{DIGEST}"\npublish_only = true\norigins = ["https://a.example.org"]')
    found = authenticate(narrow, sent_in_query(KEY))
    assert found is not None
    assert found.restriction == KeyRestriction(publish_only=True, origins=("https://a.example.org",))


def test_header_decides_before_access_key(tmp_path: Path) -> None:
    keys = load(tmp_path, f'[web-1]\nsha256 = "{DIGEST}"\npublish_only = true')

    with pytest.raises(Unauthenticated):
        authenticate(keys, sent("kh_wrong")._replace(access_key=KEY))


@pytest.mark.parametrize(
    "entry",
    ["", f'[web-1]\nsha256 = "{"0" * 64}"', f'[web-1]\nsha256 = "{DIGEST}"\ntopics = ["t"]', f'[b]\nsha256="{DIGEST}"'],
    ids=["removed", "replaced", "narrowed", "renamed"],
)
def test_key_that_a_reload_changes_is_not_current(tmp_path: Path, entry: str) -> None:
    found = authenticate(load(tmp_path, f'[web-1]\nsha256 = "{DIGEST}"'), sent(KEY))

    assert found is not None
    assert not load(tmp_path, entry).is_current(found)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[web-1", "not TOML"),
        ("web-1 = 1", "must be a table"),
        ("[web-1]", "needs sha256"),
        ('[web-1]\nsha256 = "planted"', r"web-1\.sha256 .* 64 hexadecimal digits"),
        (f'[web-1]\nsha265 = "{DIGEST}"', "Did you mean sha256"),
        (f'[web-1]\nsha256 = "{DIGEST}"\nexpires = 2030-01-01T00:00:00', "with its zone"),
        (f'[web-1]\nsha256 = "{DIGEST}"\nexpires = 2030-01-01', "with its zone"),
        (f'[web-1]\nsha256 = "{DIGEST}"\npublish_only = "yes"', "true or false"),
        (f'[web-1]\nsha256 = "{DIGEST}"\norigins = ["a.example.org"]', "origins"),
        (f'[web-1]\nsha256 = "{DIGEST}"\ntopics = [1]', "topics"),
        (f'[a]\nsha256 = "{DIGEST}"\n[b]\nsha256 = "{DIGEST}"', r"\[a\] and \[b\] have the same key"),
        (f'[anonymous]\nsha256 = "{DIGEST}"', "reserved"),
        (f'["a\\nb"]\nsha256 = "{DIGEST}"', "control characters"),
        (f'["a\\u0000b"]\nsha256 = "{DIGEST}"', "control characters"),
        (f'["{"a" * 256}"]\nsha256 = "{DIGEST}"', "over 255"),
        (f'[""]\nsha256 = "{DIGEST}"', "reserved"),
    ],
    ids=range(16),
)
def test_faulty_file_is_a_config_error_without_its_secrets(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        load(tmp_path, text)

    assert "keys.toml" in str(raised.value)
    assert "planted" not in str(raised.value)
    assert DIGEST not in str(raised.value)


def test_missing_file_is_a_config_error_that_names_file_and_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml \(auth\.keys\) cannot be read: No such file"):
        ApiKeys.from_file(str(tmp_path / "nothing.toml"))


def test_restriction_has_what_the_entry_says(tmp_path: Path) -> None:
    keys = load(tmp_path, f'["web.1"]\nsha256 = "{DIGEST}"\ntopics = ["orders.*"]\nexpires = 2100-01-01T00:00:00+02:00')

    found = authenticate(keys, sent(KEY))

    assert found is not None
    assert found.name == "web.1"
    assert found.restriction == KeyRestriction(topics=("orders.*",))
    assert found.expires == 4102437600
