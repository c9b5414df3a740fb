"""The cluster's ACLs as access rules: when they are read, and what holds while they cannot be read."""

import time
from collections.abc import Iterator

import pytest

from kafka_http.acls import Acl
from kafka_http.config import ConfigError
from kafka_http.errors import Unavailable
from kafka_http.security import acl_cache
from kafka_http.security.acl_cache import AclCache
from kafka_http.security.principal import Principal
from tests.support.fake_broker import FakeBroker
from tests.support.polling import wait_for

ALICE = Principal("alice", "key")
READ, WRITE = Acl("User:alice", "read", "topic", "t"), Acl("User:alice", "write", "topic", "t")


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker()
    broker.acl_entries = [READ]
    return broker


@pytest.fixture
def cache(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[AclCache]:
    """A cache that reads the ACLs every 10 ms."""
    monkeypatch.setattr(acl_cache, "REFRESH_SECONDS", 0.01)
    cache = AclCache(broker)
    yield cache
    cache.close()


def may(cache: AclCache, right: str) -> bool | None:
    """Whether alice has a right on the topic t. None: the ACLs are not known."""
    try:
        return cache.rights_of(ALICE, "").allows(right, "t")  # type: ignore[arg-type]
    except Unavailable:
        return None


def test_rights_are_unavailable_until_the_acls_are_known(broker: FakeBroker, cache: AclCache) -> None:
    broker.down = True
    with pytest.raises(Unavailable, match="The cluster's ACLs are not known"):
        cache.rights_of(ALICE, "")
    assert may(cache, "read") is None
    broker.down = False
    wait_for(lambda: may(cache, "read"))


def test_changed_acls_take_effect_and_expire_decisions_once(broker: FakeBroker, cache: AclCache) -> None:
    changes: list[float] = []
    cache.on_change = lambda: changes.append(time.monotonic())
    wait_for(lambda: may(cache, "read"))
    assert may(cache, "publish") is False
    broker.acl_entries = [WRITE]
    wait_for(lambda: may(cache, "publish"))
    assert may(cache, "read") is False
    broker.acl_entries = [WRITE, WRITE]  # the same ACLs
    read_at = cache._read_at
    wait_for(lambda: cache._read_at > read_at + 0.02)
    assert len(changes) == 2


def test_refresh_reads_the_acls_at_once(broker: FakeBroker) -> None:
    cache = AclCache(broker)
    wait_for(lambda: may(cache, "read"))
    broker.acl_entries = [WRITE]
    cache.refresh()
    wait_for(lambda: may(cache, "publish"))
    cache.close()


def test_known_acls_remain_valid_while_kafka_is_down(
    broker: FakeBroker, cache: AclCache, caplog: pytest.LogCaptureFixture
) -> None:
    wait_for(lambda: may(cache, "read"))
    broker.down = True
    wait_for(lambda: "cannot be read" in caplog.text)
    assert may(cache, "read")
    broker.acl_entries = []
    broker.down = False
    wait_for(lambda: may(cache, "read") is False)


@pytest.mark.parametrize("is_hidden", [False, True], ids=["no authorizer", "not permitted"])
def test_acls_that_the_cluster_no_longer_shows_allow_nothing(
    broker: FakeBroker, cache: AclCache, is_hidden: bool
) -> None:
    wait_for(lambda: may(cache, "read"))
    broker.hides_acls, broker.acl_entries = is_hidden, None
    wait_for(lambda: may(cache, "read") is None)
    broker.hides_acls, broker.acl_entries = False, [READ]
    wait_for(lambda: may(cache, "read"))


def test_start_check_without_authorizer_or_permission_is_an_error(broker: FakeBroker, cache: AclCache) -> None:
    broker.hides_acls = True
    with pytest.raises(ConfigError, match="needs the permission to describe ACLs"):
        cache.check(broker)
    broker.hides_acls, broker.acl_entries = False, None
    with pytest.raises(ConfigError, match="needs a cluster with an authorizer"):
        cache.check(broker)


def test_start_check_without_kafka_warns(broker: FakeBroker, cache: AclCache, caplog: pytest.LogCaptureFixture) -> None:
    broker.down = True
    cache.check(broker)
    assert "Until then, all requests get a 503" in caplog.text


def test_acls_of_the_start_check_hold_after_the_fork(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker does not refuse its first requests. One that starts later does not trust old ACLs."""
    for age, expected in ((0.0, True), (31.0, None)):
        cache = AclCache(FakeBroker())
        cache.check(broker)
        cache._read_at -= age
        cache._acls.down = True  # type: ignore[attr-defined]
        assert may(cache, "read") is expected
        cache.close()
