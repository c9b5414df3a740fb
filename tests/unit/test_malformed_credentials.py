"""Random credentials are refused with a 401 and nothing else, whatever kinds are on."""

from base64 import b64encode
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_http.errors import TooManyLogins, Unauthenticated
from kafka_http.security.access_rules import AllowAll
from kafka_http.security.api_keys import ApiKeys
from kafka_http.security.auth_settings import JwtSettings
from kafka_http.security.certificates import ClientCertificates
from kafka_http.security.check_point import CheckPoint, SecurityState
from kafka_http.security.issuer_keys import FileKey
from kafka_http.security.json_web_tokens import JsonWebTokens
from kafka_http.security.login_attempts import LoginAttempts
from kafka_http.security.passwords import BasicLogins
from kafka_http.security.principal import Credentials
from kafka_http.security.proxy_header import ProxyHeader
from kafka_http.security.rate_limits import NoLimits
from kafka_http.security.shared_counters import SharedBuckets
from kafka_http.security.trusted_networks import TrustedNetworks
from tests.support.token_issuer import AUDIENCE, ISSUER, claims, new_private_key, public_pem, token, unsigned

KEY = new_private_key("ES256")
GOOD_TOKEN = token(KEY, "ES256")
LATIN = st.characters(max_codepoint=255)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
HEADERS = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), JSON, max_size=4)


def changed_token(cut: tuple[int, str]) -> str:
    """Return a valid token with one character replaced."""
    place = cut[0] % len(GOOD_TOKEN)
    return GOOD_TOKEN[:place] + cut[1] + GOOD_TOKEN[place + 1 :]


TOKENS = st.one_of(
    st.text(LATIN),
    st.tuples(st.integers(0), LATIN).map(changed_token),
    st.builds(unsigned, HEADERS, JSON.map(lambda value: {"sub": value})),
    st.builds(lambda header: unsigned({"alg": "ES256", **header}, claims(), b"x" * 64), HEADERS),
)
AUTHORIZATIONS = st.one_of(
    st.text(LATIN),
    st.binary().map(lambda text: "Basic " + b64encode(text).decode()),
    st.text(LATIN).map("Basic {}".format),
    TOKENS.map("Bearer {}".format),
    st.text(LATIN).map("Bearer kh_{}".format),
)


def new_check_point() -> CheckPoint:
    with TemporaryDirectory() as directory:
        (Path(directory) / "key.pem").write_text(public_pem(KEY))
        key = FileKey.from_file(f"{directory}/key.pem", ("ES256",))
    kinds: list[Any] = [
        BasicLogins({}, LoginAttempts(SharedBuckets())),
        ApiKeys({}),
        JsonWebTokens(JwtSettings(issuer=ISSUER, audience=AUDIENCE, algorithms=("ES256",)), key),
        ClientCertificates("cn"),
        ProxyHeader("X-User", TrustedNetworks(["10.0.0.0/8"])),
    ]
    return CheckPoint(lambda: SecurityState(kinds, AllowAll(), frozenset(), NoLimits()))


CHECK_POINT = new_check_point()


def is_refused(credentials: Credentials) -> bool:
    try:
        access = CHECK_POINT.authenticate(credentials, blocking=True)
    except (Unauthenticated, TooManyLogins):
        return True
    # The last character of a token has bits without a meaning.
    return access.principal.name == "ann" and credentials.headers["authorization"][7:-1] == GOOD_TOKEN[:-1]


@settings(max_examples=300, deadline=None)
@given(AUTHORIZATIONS)
def test_random_authorization_is_refused(authorization: str) -> None:
    assert is_refused(Credentials({"authorization": authorization}, "192.0.2.1", "192.0.2.1"))


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text(LATIN))
def test_random_key_is_refused(access_key: str, header: str) -> None:
    assert is_refused(Credentials({}, "192.0.2.1", "192.0.2.1", access_key))
    assert is_refused(Credentials({"x-api-key": header}, "192.0.2.1", "192.0.2.1"))


@settings(max_examples=100, deadline=None)
@given(st.text(LATIN))
def test_random_name_from_a_proxy_is_refused_or_printable(name: str) -> None:
    credentials = Credentials({"x-user": name}, "10.0.0.1", "10.0.0.1")
    try:
        found = CHECK_POINT.authenticate(credentials, blocking=False).principal.name
    except Unauthenticated:
        return
    assert found.isprintable()
    assert "," not in found
