"""JSON Web Tokens: which tokens are accepted, and how the issuer's keys are fetched."""

import hashlib
import hmac
import json
import logging
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kafka_http.config import ConfigError
from kafka_http.errors import Unauthenticated, Unavailable, WouldBlock
from kafka_http.security.auth_settings import JwtSettings
from kafka_http.security.issuer_keys import FileKey, PublishedKeys
from kafka_http.security.json_web_tokens import LEEWAY, JsonWebTokens
from kafka_http.security.principal import Credentials, Principal
from tests.support.clock import Clock
from tests.support.polling import wait_for
from tests.support.token_issuer import (
    AUDIENCE,
    ISSUER,
    KeySetServer,
    claims,
    jwk,
    new_private_key,
    private_pem,
    public_pem,
    running_key_set_server,
    token,
    unsigned,
)

RSA, EC, ED = (new_private_key(each) for each in ("RS256", "ES256", "EdDSA"))
SETTINGS = JwtSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url="http://127.0.0.1:1/", groups_claim="groups")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Iterator[KeySetServer]:
    with running_key_set_server() as server:
        server.keys = [jwk(RSA, "RS256", kid="rsa", use="sig", alg="RS256"), jwk(EC, "ES256", kid="ec")]
        yield server


@pytest.fixture
def tokens(server: KeySetServer, clock: Clock) -> JsonWebTokens:
    return JsonWebTokens(SETTINGS, PublishedKeys(server.url, clock))


@pytest.fixture
def with_file(tmp_path: Path) -> JsonWebTokens:
    """Tokens that are verified with the public RSA key, and all algorithms that the settings can have by default."""
    return JsonWebTokens(SETTINGS, file_key(tmp_path, public_pem(RSA)))


def file_key(tmp_path: Path, text: str, *algorithms: str) -> FileKey:
    file = tmp_path / "key.pem"
    file.write_text(text)
    return FileKey.from_file(str(file), algorithms or SETTINGS.algorithms)


def bearer(sent: str) -> Credentials:
    return Credentials({"authorization": f"Bearer {sent}"}, "192.0.2.1", "192.0.2.1")


def authenticate(tokens: JsonWebTokens, sent: str) -> Principal:
    found = tokens.authenticate(bearer(sent), blocking=True)
    assert found is not None
    return found


def refusal(tokens: JsonWebTokens, sent: str) -> str:
    """Return the message without `Nothing was done.`, after a check that it does not repeat the token."""
    with pytest.raises(Unauthenticated) as raised:
        authenticate(tokens, sent)
    for part in sent.split("."):
        assert len(part) < 8 or part not in raised.value.message
    assert raised.value.__cause__ is None
    return raised.value.message.removesuffix(" Nothing was done.")


def test_token_of_the_issuer_returns_principal_and_groups(tokens: JsonWebTokens) -> None:
    found = authenticate(tokens, token(RSA, "RS256", "rsa", groups=["ops", "dev"]))

    assert (found.name, found.scheme, found.groups) == ("ann", "jwt", {"ops", "dev"})
    assert tokens.is_current(found)
    assert authenticate(tokens, token(EC, "ES256", "ec", aud=["other", AUDIENCE])).groups == frozenset()


@pytest.mark.parametrize("algorithm", ["RS512", "PS256", "ES256", "ES384", "EdDSA"])
def test_each_asymmetric_algorithm_works(server: KeySetServer, algorithm: str) -> None:
    key = new_private_key(algorithm)
    server.keys = [jwk(key, algorithm, kid="k", alg=algorithm)]
    settings = JwtSettings(issuer=ISSUER, audience=AUDIENCE, algorithms=(algorithm,))  # type: ignore[arg-type]

    assert authenticate(JsonWebTokens(settings, PublishedKeys(server.url)), token(key, algorithm, "k")).name == "ann"


def test_token_is_verified_in_a_thread_and_then_remembered(tokens: JsonWebTokens, server: KeySetServer) -> None:
    sent = token(RSA, "RS256", "rsa")
    with pytest.raises(WouldBlock):
        tokens.authenticate(bearer(sent), blocking=False)
    assert server.requests == 0
    found = authenticate(tokens, sent)

    assert tokens.authenticate(bearer(sent), blocking=False) == found
    assert sent not in repr(found)


def test_other_credentials_are_left_to_others(tokens: JsonWebTokens) -> None:
    for headers in ({}, {"authorization": "Basic eA=="}, {"authorization": "Bearer kh_x"}, {"x-api-key": "a.b.c"}):
        assert tokens.authenticate(Credentials(headers, "", ""), blocking=False) is None


def test_principal_claim_names_another_claim(server: KeySetServer) -> None:
    settings = JwtSettings(issuer=ISSUER, audience=AUDIENCE, principal_claim="client_id")
    tokens = JsonWebTokens(settings, PublishedKeys(server.url))

    assert authenticate(tokens, token(RSA, "RS256", "rsa", client_id="web-1", sub=None)).name == "web-1"
    assert "claim client_id" in refusal(tokens, token(RSA, "RS256", "rsa"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"exp": int(time.time()) - LEEWAY - 1}, "has expired"),
        ({"exp": None}, "lacks the claim exp"),
        ({"aud": None}, "lacks the claim aud"),
        ({"iss": None}, "lacks the claim iss"),
        ({"aud": "other"}, f"for another audience (expected: {AUDIENCE})"),
        ({"aud": ["other"]}, "for another audience"),
        ({"iss": ISSUER + "/"}, f"from another issuer (expected: {ISSUER})"),
        ({"nbf": int(time.time()) + 86400}, "not valid yet"),
        ({"iat": int(time.time()) + 86400}, "not valid yet"),
        ({"exp": "soon"}, "malformed"),
        ({"exp": float("inf")}, "malformed"),
        ({"exp": float("nan")}, "malformed"),
        ({"exp": [1]}, "malformed"),
        ({"exp": 10**400}, "malformed"),  # it is not a float
        ({"sub": None}, "no valid name in the claim sub"),
        ({"sub": ""}, "no valid name in the claim sub"),
        ({"sub": 7}, "no valid name in the claim sub"),
        ({"sub": ["ann"]}, "no valid name in the claim sub"),
        ({"sub": "anonymous"}, "no valid name in the claim sub"),
        ({"sub": "ann\nroot"}, "no valid name in the claim sub"),
        ({"sub": "ann\0"}, "no valid name in the claim sub"),
        ({"sub": "ann\u202e"}, "no valid name in the claim sub"),
        ({"sub": " ann"}, "no valid name in the claim sub"),
        ({"sub": "a" * 256}, "no valid name in the claim sub"),
        ({"groups": "ops"}, "not a list of names"),
        ({"groups": [1]}, "not a list of names"),
        ({"groups": ["a\nb"]}, "not a list of names"),
        ({"groups": {"ops": 1}}, "not a list of names"),
    ],
    ids=range(28),
)
def test_token_with_wrong_claims_is_refused(with_file: JsonWebTokens, changes: dict[str, Any], problem: str) -> None:
    header = {"alg": "RS256", "typ": "JWT"}
    unsigned_part = unsigned(header, claims(**changes)).rpartition(".")[0]
    signature = urlsafe_b64encode(_sign(unsigned_part)).rstrip(b"=").decode()

    assert problem in refusal(with_file, f"{unsigned_part}.{signature}")


def _sign(text: str) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    signature: bytes = RSA.sign(text.encode(), PKCS1v15(), SHA256())
    return signature


def test_clocks_may_differ_by_thirty_seconds(with_file: JsonWebTokens) -> None:
    now = int(time.time())

    assert authenticate(with_file, token(RSA, "RS256", exp=now - LEEWAY + 10)).name == "ann"
    assert authenticate(with_file, token(RSA, "RS256", nbf=now + LEEWAY - 10)).name == "ann"


def test_token_without_exp_is_accepted_only_if_the_settings_say_so(tmp_path: Path) -> None:
    settings = JwtSettings(issuer=ISSUER, audience=AUDIENCE, public_key="key.pem", require_exp=False)
    tokens = JsonWebTokens(settings, file_key(tmp_path, public_pem(RSA)))

    found = authenticate(tokens, token(RSA, "RS256", exp=None))

    assert tokens.is_current(found)
    assert found.expires < time.time() + 61


def with_hmac(key: bytes, **header: Any) -> str:
    signed = unsigned({"alg": "HS256", "typ": "JWT", **header}, claims()).rpartition(".")[0]
    return f"{signed}.{urlsafe_b64encode(hmac.digest(key, signed.encode(), hashlib.sha256)).decode().rstrip('=')}"


@pytest.mark.parametrize(
    "sent",
    [
        *(unsigned({"alg": alg}, claims()) for alg in ("none", "None", "NONE", "", None, 1, ["RS256"], {"a": 1})),
        unsigned({"typ": "JWT"}, claims()),
        with_hmac(public_pem(RSA).encode()),
        with_hmac(public_pem(RSA).strip().encode()),
        with_hmac(b""),
        token(EC, "ES256"),  # the algorithm is accepted, the key is an RSA key
        token(ED, "EdDSA"),
        token(RSA, "RS384"),
        token(RSA, "PS256"),
        token(new_private_key("RS256"), "RS256"),
        token(RSA, "RS256")[:-8],
        token(RSA, "RS256").rpartition(".")[0] + ".",
        token(RSA, "RS256").rpartition(".")[0],
        token(RSA, "RS256") + ".x",
        token(RSA, "RS256") + " x",
        token(RSA, "RS256") + "\0",
        *("", ".", "..", "a.b.c", "....", "ä.ö.ü", "\0.\n.\t", "x" * 8192, "x." * 4000),
        unsigned(b"[" * 5000, claims()),
        unsigned({"alg": "RS256"}, b"[" * 5000),
        unsigned(b"1", b"1"),
        unsigned(b"{}", b"{}"),
        unsigned({"alg": "RS256", "kid": 1}, claims()),
        unsigned({"alg": "RS256", "kid": ["a"]}, claims()),
        unsigned({"alg": "RS256", "crit": ["x"], "x": 1}, claims()),
        unsigned({"alg": "RS256", "b64": False, "crit": ["b64"]}, claims()),
        unsigned({"alg": "RS256", "jwk": jwk(EC, "ES256"), "jku": "http://127.0.0.1:1/"}, claims()),
        "x" * 20000,
    ],
    ids=range(42),
)
def test_forged_or_malformed_token_is_refused(with_file: JsonWebTokens, sent: str) -> None:
    refusal(with_file, sent)


def test_algorithm_of_the_published_key_counts(tokens: JsonWebTokens, server: KeySetServer) -> None:
    settings = JwtSettings(issuer=ISSUER, audience=AUDIENCE, algorithms=("RS256", "RS512"))
    tokens = JsonWebTokens(settings, PublishedKeys(server.url))

    assert "algorithm that is not accepted" in refusal(tokens, token(RSA, "RS512", "rsa"))
    assert authenticate(tokens, token(RSA, "RS256", "rsa")).name == "ann"


def test_published_keys_that_are_symmetric_private_weak_or_for_encryption_are_skipped(server: KeySetServer) -> None:
    weak = new_private_key("RS256", 1024)
    private = {**json.loads(json.dumps(jwk(EC, "ES256"))), "d": "AAAA", "kid": "private"}
    server.keys = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        jwk(weak, "RS256", kid="weak"),
        jwk(RSA, "RS256", kid="enc", use="enc"),
        private,
        *({"kty": "RSA", "kid": "broken"}, {"kty": "other"}, {}),
        jwk(RSA, "RS256", kid="good", x5c=["?"]),
    ]
    tokens = JsonWebTokens(SETTINGS, PublishedKeys(server.url))

    assert authenticate(tokens, token(RSA, "RS256", "good")).name == "ann"
    for kid in ("secret", "enc", "private", "weak", "broken"):
        assert "does not publish" in refusal(tokens, token(RSA, "RS256", kid))


def test_token_without_kid_uses_the_only_published_key(server: KeySetServer, tokens: JsonWebTokens) -> None:
    assert "does not publish" in refusal(tokens, token(RSA, "RS256"))
    server.keys = server.keys[:1]
    assert authenticate(JsonWebTokens(SETTINGS, PublishedKeys(server.url)), token(RSA, "RS256")).name == "ann"


def test_flood_of_unknown_keys_fetches_at_most_once_in_ten_seconds(
    tokens: JsonWebTokens, server: KeySetServer, clock: Clock
) -> None:
    authenticate(tokens, token(RSA, "RS256", "rsa"))
    assert server.requests == 1

    for step in range(100):
        clock.now += 0.1 + 1e-9
        assert "does not publish" in refusal(tokens, token(RSA, "RS256", f"unknown {step}"))

    assert server.requests == 2  # after ten seconds
    assert authenticate(tokens, token(RSA, "RS256", "rsa", sub="bob")).name == "bob"


def test_token_with_an_algorithm_that_is_not_accepted_fetches_nothing(
    tokens: JsonWebTokens, server: KeySetServer
) -> None:
    refusal(tokens, unsigned({"alg": "none"}, claims()))
    refusal(tokens, with_hmac(b"x", kid="rsa"))

    assert server.requests == 0


def test_new_key_is_fetched_when_a_token_names_it(tokens: JsonWebTokens, server: KeySetServer, clock: Clock) -> None:
    old = authenticate(tokens, token(RSA, "RS256", "rsa"))
    server.keys = [jwk(ED, "EdDSA", kid="new")]
    clock.now += 11

    assert authenticate(tokens, token(ED, "EdDSA", "new")).name == "ann"
    assert not tokens.is_current(old)
    assert "does not publish" in refusal(tokens, token(RSA, "RS256", "rsa", sub="bob"))


def test_keys_are_fetched_again_after_300_seconds(tokens: JsonWebTokens, server: KeySetServer, clock: Clock) -> None:
    authenticate(tokens, token(RSA, "RS256", "rsa"))
    clock.now += 239
    authenticate(tokens, token(RSA, "RS256", "rsa", sub="bob"))
    assert server.requests == 1
    server.keys = server.keys[1:]
    clock.now += 62

    assert "does not publish" in refusal(tokens, token(RSA, "RS256", "rsa", sub="eve"))
    assert server.requests == 2


def test_keys_in_use_are_fetched_early_in_the_background(
    tokens: JsonWebTokens, server: KeySetServer, clock: Clock
) -> None:
    first = authenticate(tokens, token(RSA, "RS256", "rsa"))
    server.hold.clear()
    clock.now += 241

    assert authenticate(tokens, token(RSA, "RS256", "rsa", sub="bob")).name == "bob"
    server.keys = [jwk(ED, "EdDSA", kid="new")]
    server.hold.set()
    wait_for(lambda: not tokens.is_current(first))
    assert server.requests == 2


@pytest.mark.parametrize(
    "answer",
    [(500, None), (301, None), (200, b"[" * 10_000), (200, b"[]"), (200, b'{"keys": 1}'), (200, b'{"keys": [1]}')],
    ids=range(6),
)
def test_known_keys_stay_valid_while_fetching_fails(
    tokens: JsonWebTokens,
    server: KeySetServer,
    clock: Clock,
    answer: tuple[int, bytes | None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    authenticate(tokens, token(RSA, "RS256", "rsa"))
    server.status, server.body = answer
    clock.now += 301

    with caplog.at_level(logging.WARNING):
        assert authenticate(tokens, token(RSA, "RS256", "rsa", sub="bob")).name == "bob"
        with pytest.raises(Unavailable):  # whether it is a new key is not known
            authenticate(tokens, token(RSA, "RS256", "unknown"))
    assert len(caplog.records) == 1
    assert "Cannot fetch the keys of the tokens' issuer: 127.0.0.1" in caplog.text

    server.status, server.body = 200, None
    clock.now += 11
    assert "does not publish" in refusal(tokens, token(RSA, "RS256", "unknown"))


def test_issuer_that_withdraws_all_keys_is_believed(
    tokens: JsonWebTokens, server: KeySetServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    old = authenticate(tokens, token(RSA, "RS256", "rsa"))
    server.keys = []
    clock.now += 301

    for _ in range(5):
        assert "does not publish" in refusal(tokens, token(RSA, "RS256", "rsa", sub="bob"))
    assert not tokens.is_current(old)
    assert server.requests == 2
    assert "publishes no key" in caplog.text


def test_unreachable_issuer_is_a_503_until_it_answers(server: KeySetServer, clock: Clock) -> None:
    server.status = 500
    tokens = JsonWebTokens(SETTINGS, PublishedKeys(server.url, clock))
    for _ in range(5):
        with pytest.raises(Unavailable) as raised:
            authenticate(tokens, token(RSA, "RS256", "rsa"))
        assert server.url not in raised.value.message
    assert server.requests == 1

    server.status = 200
    clock.now += 2
    assert authenticate(tokens, token(RSA, "RS256", "rsa")).name == "ann"


def test_concurrent_tokens_fetch_the_keys_once(tokens: JsonWebTokens, server: KeySetServer) -> None:
    server.hold.clear()
    found: list[str] = []
    sent = [token(RSA, "RS256", "rsa", sub=f"user {n}") for n in range(8)]
    threads = [threading.Thread(target=lambda t=t: found.append(authenticate(tokens, t).name)) for t in sent]
    for each in threads:
        each.start()
    wait_for(lambda: server.requests)
    server.hold.set()
    for each in threads:
        each.join(30)

    assert sorted(found) == [f"user {n}" for n in range(8)]
    assert server.requests == 1


def test_reload_keeps_known_keys_if_they_cannot_be_fetched_again(server: KeySetServer) -> None:
    settings = JwtSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url=server.url)
    authenticate(JsonWebTokens.from_settings(settings), token(RSA, "RS256", "rsa"))
    server.status = 500

    reloaded = JsonWebTokens.from_settings(settings)

    assert authenticate(reloaded, token(RSA, "RS256", "rsa")).name == "ann"
    assert server.requests == 2


@pytest.mark.parametrize(
    ("text", "algorithms"),
    [
        ("planted", ()),
        ("-----BEGIN PUBLIC KEY-----\nplanted\n-----END PUBLIC KEY-----\n", ()),
        (private_pem(RSA), ()),
        (public_pem(new_private_key("RS256", 1024)), ()),
        (public_pem(RSA), ("ES256", "EdDSA")),
        (public_pem(EC), ("RS256", "ES384")),
        (public_pem(ED), ("RS256",)),
    ],
    ids=range(7),
)
def test_unusable_public_key_is_a_config_error_without_the_key(
    tmp_path: Path, text: str, algorithms: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"key\.pem \(auth\.jwt\.public_key\)") as raised:
        file_key(tmp_path, text, *algorithms)

    assert "planted" not in str(raised.value)
    assert text.splitlines()[1:2] == [] or text.splitlines()[1] not in str(raised.value)


def test_key_set_over_plain_http_beyond_this_machine_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    JsonWebTokens.from_settings(JwtSettings(jwks_url="http://issuer.example.org/keys?token=planted"))

    assert "auth.jwt.jwks_url uses http" in caplog.text
    assert "planted" not in caplog.text
