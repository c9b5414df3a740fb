"""The check point: which credentials decide, what a principal may do then, and when a decision must be made again."""

import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kafka_http.errors import Forbidden, KafkaHttpError, TopicNotFound, Unauthenticated
from kafka_http.security.access import ALL_RIGHTS, NO_RIGHTS, UNRESTRICTED, Access, NameFilter, Right, Rights
from kafka_http.security.check_point import CheckPoint, SecurityState
from kafka_http.security.principal import Credentials, KeyRestriction, Principal, Scheme
from kafka_http.security.rate_limits import NoLimits


class FixedAuthenticator:
    """Accepts one secret for its kind of credentials."""

    def __init__(self, scheme: Scheme, find: Callable[[Credentials], str | None], challenge: str = "") -> None:
        self.scheme = scheme
        self.challenge = challenge
        self.accepted = "right"
        self.expires = math.inf
        self.restriction: KeyRestriction | None = None
        self._find = find

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Principal | None:
        secret = self._find(credentials)
        if secret is None:
            return None
        if not secret.endswith(self.accepted):
            raise Unauthenticated("Wrong credentials.")
        return Principal(self.scheme, self.scheme, expires=self.expires, restriction=self.restriction)

    def is_current(self, principal: Principal) -> bool:
        return self.accepted == "right"


class FixedRules:
    rights: Rights = ALL_RIGHTS

    def rights_of(self, principal: Principal, address: str) -> Rights:
        return self.rights


KINDS = {
    "basic": FixedAuthenticator("basic", lambda sent: sent.headers.get("authorization"), "Basic realm"),
    "key": FixedAuthenticator(
        "key", lambda sent: sent.headers.get("authorization") or sent.headers.get("x-api-key") or sent.access_key
    ),
    "jwt": FixedAuthenticator("jwt", lambda sent: sent.headers.get("authorization"), "Bearer realm"),
    "certificate": FixedAuthenticator("certificate", lambda sent: sent.certificate and sent.certificate["name"]),
    "proxy": FixedAuthenticator("proxy", lambda sent: sent.headers.get("x-user")),
}


class Setup:
    """A check point whose parts a test may change before a reload."""

    def __init__(self, *kinds: str, anonymous: tuple[Right, ...] = ()) -> None:
        self.rules = FixedRules()
        self.kinds = [KINDS[each] for each in kinds]
        self.anonymous = frozenset(anonymous)
        self.check_point = CheckPoint(lambda: SecurityState(self.kinds, self.rules, self.anonymous, NoLimits()))

    def authenticate(self, headers: Mapping[str, str], **more: object) -> Access:
        sent = Credentials(headers, "127.0.0.1", "127.0.0.1")._replace(**more)
        return self.check_point.authenticate(sent, blocking=False)


@pytest.fixture(autouse=True)
def kinds_accept_again() -> None:
    for each in KINDS.values():
        each.accepted, each.expires, each.restriction = "right", math.inf, None


def swapped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the credentials with wrong in place of right, and right in place of wrong."""
    words = {"right": "wrong", "wrong": "right"}

    def swap(value: Any) -> Any:
        return (
            swapped(value) if isinstance(value, dict) else re.sub("right|wrong", lambda found: words[found[0]], value)
        )

    return {name: swap(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("headers", "more", "scheme"),
    [
        ({"authorization": "Basic right", "x-api-key": "wrong", "x-user": "wrong"}, {}, "basic"),
        ({"authorization": "bEARER kh_right", "x-api-key": "wrong"}, {}, "key"),
        ({"authorization": "Bearer eyright", "x-api-key": "wrong"}, {}, "jwt"),
        ({"x-api-key": "right"}, {"access_key": "wrong", "certificate": {"name": "wrong"}}, "key"),
        ({}, {"access_key": "right", "certificate": {"name": "wrong"}}, "key"),
        ({"x-user": "wrong"}, {"certificate": {"name": "right"}}, "certificate"),
        ({"x-user": "right"}, {}, "proxy"),
    ],
)
def test_first_kind_of_credentials_that_is_present_decides(
    headers: dict[str, str], more: dict[str, object], scheme: str
) -> None:
    setup = Setup(*KINDS)
    assert setup.authenticate(headers, **more).principal.scheme == scheme
    with pytest.raises(Unauthenticated):  # no later kind makes up for it
        setup.authenticate(swapped(headers), **swapped(more))


@pytest.mark.parametrize("sent", ["Digest right", "Basic", "", "Bearer", "right", "Basic right"])
def test_authorization_of_a_kind_that_is_off_is_refused_beside_a_valid_key(sent: str) -> None:
    with pytest.raises(Unauthenticated):
        Setup("key", "proxy").authenticate({"authorization": sent, "x-api-key": "right", "x-user": "right"})


@pytest.mark.parametrize(("headers", "problem"), [({}, "needs credentials"), ({"authorization": "kh_right"}, "kind")])
def test_refusal_names_the_kinds_of_credentials_that_are_accepted(headers: dict[str, str], problem: str) -> None:
    with pytest.raises(Unauthenticated, match=problem) as refusal:
        Setup("basic", "key").authenticate(headers)
    message = refusal.value.message
    assert "an API key that begins with kh_ (X-Api-Key, or Authorization: Bearer)" in message
    assert "a user and a password" in message
    assert "a token" not in message


def test_challenge_names_each_kind_once() -> None:
    assert Setup("basic", "key", "jwt").check_point.challenge == "Basic realm, Bearer realm"


def test_check_point_without_authenticators_asks_nothing() -> None:
    setup = Setup()
    assert setup.authenticate({"authorization": "Basic wrong"}) is UNRESTRICTED
    assert not setup.check_point.has_decisions


def test_anonymous_request_has_the_named_rights_only() -> None:
    access = Setup("key", anonymous=("publish",)).authenticate({})
    access.require("publish", "t")
    for right in ("read", "consumer", "admin"):
        with pytest.raises(Unauthenticated):
            access.require(right, "t")
    with pytest.raises(Unauthenticated, match="Wrong"):
        Setup("key", anonymous=("publish",)).authenticate({"x-api-key": "wrong"})


def test_key_restriction_narrows_the_rights_of_the_rules() -> None:
    setup = Setup("key")
    KINDS["key"].restriction = KeyRestriction(publish_only=True, topics=("a*",))
    access = setup.authenticate({"x-api-key": "right"})
    assert access.may("publish", "ab")
    assert not access.may("publish", "b")
    assert not any(access.may(right, "ab") for right in ("read", "consumer", "admin"))


REFUSALS: list[tuple[Rights, Right, type[KafkaHttpError]]] = [
    (NO_RIGHTS, "publish", TopicNotFound),
    (NO_RIGHTS, "read", TopicNotFound),
    (NO_RIGHTS, "consumer", Forbidden),
    (NO_RIGHTS, "admin", Forbidden),
    (Rights(read=NameFilter((("t",),))), "publish", Forbidden),
    (Rights(publish=NameFilter((("t",),))), "read", Forbidden),
    (Rights(describe=NameFilter((("t",),))), "read", Forbidden),
    (Rights(admin=True), "publish", Forbidden),
]


@pytest.mark.parametrize(("rights", "right", "error"), REFUSALS)
def test_missing_right_hides_a_topic_without_any_right(
    rights: Rights, right: Right, error: type[KafkaHttpError]
) -> None:
    access = Access(Principal("me", "key"), rights)
    with pytest.raises(error) as refusal:
        access.require(right, "t")
    if error is Forbidden:
        assert refusal.value.message.startswith(f"me does not have the right {right} on ")


def test_decision_ends_at_a_reload_and_when_credentials_expire() -> None:
    setup = Setup("key")
    access = setup.authenticate({"x-api-key": "right"})
    assert setup.check_point.is_current(access)
    setup.check_point.reload()
    assert not setup.check_point.is_current(access)
    KINDS["key"].expires = time.time() - 1
    assert not setup.check_point.is_current(setup.authenticate({"x-api-key": "right"}))


def test_renewed_access_has_the_rights_of_now_or_none() -> None:
    """A stream has no credentials any more when rules change or its key is revoked."""
    setup = Setup("key")
    access = setup.authenticate({"x-api-key": "right"})
    setup.rules.rights = NO_RIGHTS
    setup.check_point.reload()
    renewed = setup.check_point.renew(access)
    assert renewed is not None
    assert not renewed.may("read", "t")
    KINDS["key"].accepted = "other"
    assert setup.check_point.renew(access) is None
    setup.kinds = []
    setup.check_point.reload()
    assert setup.check_point.renew(access) is None


def test_stream_from_before_authentication_ends_when_it_is_switched_on() -> None:
    setup = Setup()
    renewed = setup.check_point.renew(UNRESTRICTED)
    assert renewed is not None
    assert renewed.is_unrestricted
    setup.kinds = [KINDS["key"]]
    setup.check_point.reload()
    assert setup.check_point.renew(UNRESTRICTED) is None


def test_faulty_reload_changes_nothing() -> None:
    setup = Setup("key")
    access = setup.authenticate({"x-api-key": "right"})
    setup.check_point._load = lambda: (_ for _ in ()).throw(ValueError("faulty"))  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="faulty"):
        setup.check_point.reload()
    assert setup.check_point.is_current(access)


def test_what_has_no_owner_needs_admin() -> None:
    mine, admin = Access(Principal("me", "key"), NO_RIGHTS), Access(Principal("boss", "key"), Rights(admin=True))
    assert [mine.may_use(owner) for owner in ("me", "other", "")] == [True, False, False]
    assert [admin.may_use(owner) for owner in ("me", "other", "")] == [True, True, True]
    assert [UNRESTRICTED.may_use(owner) for owner in ("me", "")] == [True, True]
