"""Kafka's ACLs for the principals of HTTP requests: patterns, hosts, and deny before allow.

`tests/integration/test_kafka_acl_rules.py` compares this with the decisions of a real broker.
"""

from collections.abc import Iterable

import pytest

from kafka_http.acls import Acl
from kafka_http.security.access import Rights
from kafka_http.security.kafka_acls import AclRules
from kafka_http.security.principal import Principal, Scheme

ALICE = "User:alice"


def rights_of(acls: Iterable[Acl], address: str = "10.0.0.1", name: str = "alice", scheme: Scheme = "key") -> Rights:
    return AclRules(acls).rights_of(Principal(name, scheme), address)


def test_without_acls_nothing_is_allowed() -> None:
    rights = rights_of([])
    assert not rights.admin
    assert not rights.may_describe("t")
    assert not rights.allows("consumer", "c")


@pytest.mark.parametrize(
    ("name", "is_prefix", "allowed"),
    [
        ("orders", False, ["orders"]),
        ("orders", True, ["orders", "orders.eu", "orders2"]),
        ("*", False, ["orders", "orders.eu", "orders2", "a*b", "[x]", "ORDERS"]),
        ("*", True, []),
        ("a*", True, ["a*b"]),
        ("[x]", False, ["[x]"]),
        ("order?", False, []),
    ],
)
def test_names_are_literal_prefixed_or_all(name: str, is_prefix: bool, allowed: list[str]) -> None:
    names = ["orders", "orders.eu", "orders2", "a*b", "[x]", "ORDERS"]
    rights = rights_of([Acl(ALICE, "read", "group", name, is_prefix)])
    assert [each for each in names if rights.allows("consumer", each)] == allowed
    rights = rights_of([Acl(ALICE, "write", "topic", name, is_prefix)])
    assert [each for each in names if rights.allows("publish", each)] == allowed


@pytest.mark.parametrize(
    ("operation", "rights"),
    [
        ("write", {"publish", "describe"}),
        ("read", {"read", "describe"}),
        ("describe", {"describe"}),
        ("alter", {"describe"}),
        ("delete", {"describe"}),
        ("all", {"publish", "read", "describe"}),
        ("create", set()),
        ("describe_configs", set()),
        ("unknown", set()),
    ],
)
def test_operations_on_a_topic_give_rights(operation: str, rights: set[str]) -> None:
    found = rights_of([Acl(ALICE, operation, "topic", "t")])
    held = {"publish": found.allows("publish", "t"), "read": found.allows("read", "t")}
    assert {each for each, holds in held.items() if holds} | (
        {"describe"} if found.may_describe("t") else set()
    ) == rights
    assert not found.allows("consumer", "t")


@pytest.mark.parametrize(
    ("denied", "publish", "read", "describe"),
    [
        ("write", False, True, True),
        ("read", True, False, True),
        ("describe", False, False, False),
        ("all", False, False, False),
        ("create", True, True, True),
    ],
)
def test_denied_operation_takes_the_right_whatever_allows_it(
    denied: str, publish: bool, read: bool, describe: bool
) -> None:
    allow = [Acl("User:*", "all", "topic", "*"), Acl(ALICE, "all", "topic", "orders", is_prefix=True)]
    for name, is_prefix in (("orders", False), ("or", True), ("*", False)):
        for principal in (ALICE, "User:*"):
            rights = rights_of([*allow, Acl(principal, denied, "topic", name, is_prefix, is_denied=True)])
            assert rights.allows("publish", "orders") is publish
            assert rights.allows("read", "orders") is read
            assert rights.may_describe("orders") is describe


def test_only_alter_on_the_cluster_gives_admin() -> None:
    for operation in ("alter", "all"):
        assert rights_of([Acl(ALICE, operation, "cluster", "kafka-cluster")]).admin
        assert not rights_of([Acl(ALICE, operation, "topic", "*"), Acl(ALICE, operation, "group", "*")]).admin
    for operation in ("describe", "create", "cluster_action", "alter_configs"):
        assert not rights_of([Acl(ALICE, operation, "cluster", "kafka-cluster")]).admin
    both = [
        Acl(ALICE, "all", "cluster", "kafka-cluster"),
        Acl("User:*", "alter", "cluster", "kafka-cluster", is_denied=True),
    ]
    assert not rights_of(both).admin


def test_acls_apply_to_their_principal_and_to_all_users() -> None:
    acls = [
        Acl(ALICE, "read", "topic", "a"),
        Acl("User:*", "read", "topic", "all"),
        Acl("Group:dev", "read", "topic", "g"),
    ]
    for name, expected in (("alice", ["a", "all"]), ("bob", ["all"]), ("*", ["all"]), ("Alice", ["all"])):
        assert [each for each in ("a", "all", "g") if rights_of(acls, name=name).allows("read", each)] == expected


def test_requests_without_credentials_are_the_user_anonymous() -> None:
    acls = [Acl("User:ANONYMOUS", "read", "topic", "a"), Acl("User:anonymous", "read", "topic", "b")]
    rights = rights_of(acls, name="anonymous", scheme="anonymous")
    assert (rights.allows("read", "a"), rights.allows("read", "b")) == (True, False)


@pytest.mark.parametrize(
    ("host", "address", "applies"),
    [
        ("*", "10.0.0.1", True),
        ("*", "", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("10.0.0.1", "", False),
        ("10.0.0.1", "unknown", False),
        ("not-an-address", "", False),
        ("not-an-address", "not-an-address", False),
        ("other", "10.0.0.2", False),
    ],
)
def test_allowing_acl_applies_to_its_host(host: str, address: str, applies: bool) -> None:
    assert rights_of([Acl(ALICE, "read", "topic", "t", host=host)], address).allows("read", "t") is applies


@pytest.mark.parametrize(
    ("address", "allowed"), [("10.0.0.1", False), ("10.0.0.2", True), ("", False), ("_hidden", False)]
)
def test_what_is_denied_to_a_host_is_denied_to_an_unknown_address(address: str, allowed: bool) -> None:
    acls = [Acl(ALICE, "read", "topic", "t"), Acl(ALICE, "read", "topic", "t", host="10.0.0.1", is_denied=True)]
    assert rights_of(acls, address).allows("read", "t") is allowed


def test_explanation_names_each_acl_and_its_rights() -> None:
    acls = [
        Acl(ALICE, "all", "topic", "orders.", is_prefix=True),
        Acl("User:*", "describe", "topic", "orders.secret", is_denied=True),
        Acl(ALICE, "read", "group", "*", host="10.0.0.1"),
        Acl(ALICE, "alter", "cluster", "kafka-cluster"),
        Acl("User:bob", "read", "topic", "t"),
    ]
    explained = AclRules(acls).explain(Principal("alice", "key"), "10.0.0.1")
    assert [(each.right, each.names, each.is_denied) for each in explained] == [
        ("publish", ("orders.*",), False),
        ("read", ("orders.*",), False),
        ("consumer", ("*",), False),
        ("admin", (), False),
        ("publish", ("orders.secret",), True),
        ("read", ("orders.secret",), True),
        ("describe", ("orders.secret",), True),
    ]
    assert explained[0].rule == "User:alice: Allow all on topic orders. (prefixed) from host *"
    assert explained[2].rule == "User:alice: Allow read on group * from host 10.0.0.1"


@pytest.mark.parametrize(
    ("allowed", "is_prefix", "shown"),
    [
        (None, False, ()),
        ("orders", False, ("o*", "orders")),
        ("hid", False, ("hid*",)),
        ("h", True, ("hid*", "hidden")),
        ("hidde", True, ("hid*", "hidden")),
        ("*", False, ("hid*", "hidden", "o*", "orders")),
        ("t", False, ()),
    ],
)
def test_denied_names_of_which_nothing_is_allowed_are_not_shown(
    allowed: str | None, is_prefix: bool, shown: tuple[str, ...]
) -> None:
    """`GET /access` shows these patterns. A topic without any right must look as if it did not exist."""
    denied = [("hidden", False), ("hid", True), ("orders", False), ("o", True)]
    acls = [Acl("User:*", "all", "topic", name, each, is_denied=True) for name, each in denied]
    acls += [Acl(ALICE, "read", "topic", allowed, is_prefix)] if allowed else []

    assert rights_of(acls).read.exclude == shown
    assert rights_of(acls).publish.exclude == ()
