"""The access rules in the settings: which entries match, that they add up, and what is warned about."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from kafka_http.config import ConfigError
from kafka_http.config.sources import load_config
from kafka_http.security.access import Right, Rights
from kafka_http.security.access_rules import SettingsRules, can_match_topics
from kafka_http.security.acl_cache import AclCache
from kafka_http.security.check_point import SecurityState
from kafka_http.security.principal import Principal
from kafka_http.security.security_state import load_security
from kafka_http.security.shared_counters import SharedCounters
from tests.support.fake_broker import FakeBroker

WEB = """
[access."web-*"]
publish = ["orders.*", "events"]
read = ["orders.*"]
consumer = ["web-*"]

[access."web-2"]
read = ["audit"]

[access."@ops"]
admin = true

[access."*"]
read = ["public"]
"""
RIGHTS: tuple[Right, ...] = ("publish", "read", "consumer")


def rules_of(text: str, tmp_path: Path) -> SettingsRules:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return SettingsRules.from_config(load_config({"config": str(file)}, environ={}))


def load(file: Path) -> SecurityState:
    config = load_config({"config": str(file)}, environ={})
    return load_security(config, SharedCounters.create(), AclCache(FakeBroker()))


def allowed(rights: Rights, names: Iterable[str]) -> Mapping[str, list[str]]:
    return {right: [each for each in names if rights.allows(right, each)] for right in RIGHTS}


def test_rights_of_all_matching_entries_add_up(tmp_path: Path) -> None:
    rules = rules_of(WEB, tmp_path)
    names = ["orders", "orders.eu", "events", "events2", "audit", "public", "web-1"]
    assert allowed(rules.rights_of(Principal("web-1", "key"), ""), names) == {
        "publish": ["orders.eu", "events"],
        "read": ["orders.eu", "public"],
        "consumer": ["web-1"],
    }
    assert allowed(rules.rights_of(Principal("web-2", "key"), ""), names)["read"] == ["orders.eu", "audit", "public"]
    assert allowed(rules.rights_of(Principal("other", "key"), ""), names) == {
        "publish": [],
        "read": ["public"],
        "consumer": [],
    }


def test_group_entry_matches_groups_of_a_token_only(tmp_path: Path) -> None:
    rules = rules_of(WEB, tmp_path)
    assert rules.rights_of(Principal("alice", "jwt", frozenset(("dev", "ops"))), "").admin
    assert not rules.rights_of(Principal("alice", "jwt", frozenset(("ops2",))), "").admin
    for name in ("@ops", "ops"):
        assert not rules.rights_of(Principal(name, "jwt"), "").admin


def test_anonymous_has_the_rights_of_its_own_entry_only(tmp_path: Path) -> None:
    anonymous = Principal("anonymous", "anonymous")
    assert not rules_of(WEB, tmp_path).rights_of(anonymous, "").allows("read", "public")
    own = rules_of(WEB + '[access."anonymous"]\nread = ["news"]\n', tmp_path).rights_of(anonymous, "")
    assert own.allows("read", "news")
    assert not own.allows("read", "public")


def test_principal_and_group_names_are_never_patterns(tmp_path: Path) -> None:
    rules = rules_of('[access."web-1"]\nadmin = true\n[access."@ops"]\nadmin = true', tmp_path)
    for name in ("*", "web-?", "web-[0-9]", "WEB-1", "web-1\n"):
        assert not rules.rights_of(Principal(name, "jwt", frozenset((name, "OPS"))), "").admin


@pytest.mark.parametrize("text", ["[access]", '[access."alice"]', '[access."alice"]\npublish = []'])
def test_rules_without_any_right_allow_nothing(text: str, tmp_path: Path) -> None:
    """An empty table is a rule: without [access], everyone may do everything."""
    (tmp_path / "keys.toml").write_text("")
    file = tmp_path / "settings.toml"
    file.write_text(f'{text}\n[auth]\nkeys = "{tmp_path}/keys.toml"\n')
    state = load(file)
    rights = state.rules.rights_of(Principal("alice", "key"), "")
    assert not (rights.admin)
    assert not (rights.may_describe("t"))
    assert not (rights.allows("consumer", "c"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[access."web"]\nwrite = ["a"]', "The setting access.web.write ({file}) does not exist."),
        ('[access."web"]\npublis = ["a"]', "Did you mean publish?"),
        ('[access."web"]\npublish = [1]', "The setting access.web.publish ({file}) must be patterns of names"),
        ('[access."web"]\nadmin = "yes"', "The setting access.web.admin ({file}) must be true or false."),
        ("[access]\nadmin = true", "The setting access.admin ({file}) must be a table of settings for each name."),
        ('[access."web".publish]', "The setting access.web.publish ({file}) must be patterns of names"),
    ],
)
def test_wrong_rule_is_an_error_that_names_setting_and_source(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        rules_of(text, tmp_path)
    assert message.format(file=tmp_path / "settings.toml") in str(error.value)


def test_rules_in_settings_and_in_kafka_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f'access_rules = "kafka"\n{WEB}\n[auth]\nkeys = "keys.toml"')
    with pytest.raises(ConfigError, match="Remove one of the two"):
        load(file)


def test_rules_without_authentication_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    for text in (WEB, "[access]", 'access_rules = "kafka"'):
        file.write_text(text)
        with pytest.raises(ConfigError, match="Access rules need authentication"):
            load(file)


@pytest.mark.parametrize(
    ("pattern", "can_match"),
    [
        ("*", True),
        ("orders.*", True),
        ("order?-[a-c]*", True),
        ("[!a]", True),
        ("", False),
        ("orders/*", False),
        (r"orders\..*", False),
        ("orders.[", False),
        ("[/ ]x", False),
        ("größe", False),
        ("a" * 250, False),
        ("*" + "a" * 249, True),
    ],
)
def test_topic_patterns_that_can_match_nothing_are_found(pattern: str, can_match: bool) -> None:
    assert can_match_topics(pattern) is can_match


def test_rules_without_effect_are_warned_about(tmp_path: Path) -> None:
    text = r"""
[access."idle"]
[access."alise"]
admin = true
[access."al*"]
admin = true
[access."@ops"]
admin = true
[access."anonymous"]
publish = ["events"]
[access."web"]
read = ["orders/*", "t"]
consumer = ["any name / at all"]
"""
    rules = rules_of(text, tmp_path)
    alice, web = Principal("alice", "key"), Principal("web", "basic")
    assert list(rules.warnings(["read"], has_groups=False, principals=[alice, web])) == [
        '[access."idle"] has no effect: it has no rights.',
        '[access."alise"] has no effect: no user and no key has a matching name.',
        '[access."@ops"] has no effect: no principal has groups, because auth.jwt.groups_claim is not set.',
        '[access."anonymous"] has no effect: auth.anonymous has none of its rights.',
        "read of [access.\"web\"]: no topic can have a name that matches 'orders/*'.",
    ]
    assert len(list(rules.warnings(["publish"], has_groups=True, principals=None))) == 2


def test_anonymous_rights_without_an_entry_are_warned_about(tmp_path: Path) -> None:
    rules = rules_of('[access."*"]\nread = ["t"]', tmp_path)
    (warning,) = rules.warnings(["read"], has_groups=True, principals=None)
    assert warning == 'auth.anonymous has no effect: there is no [access."anonymous"].'


def test_start_warns_about_rules_without_effect(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    (tmp_path / "keys.toml").write_text(f'[alice]\nsha256 = "{"0" * 64}"\ntopics = ["a b", "t"]\n')
    file.write_text(f"{WEB}\n[auth]\nkeys = '{tmp_path}/keys.toml'")
    assert list(load(file).warnings) == [
        "topics of the API key alice: no topic can have a name that matches 'a b'.",
        '[access."web-*"] has no effect: no user and no key has a matching name.',
        '[access."web-2"] has no effect: no user and no key has a matching name.',
        '[access."@ops"] has no effect: no principal has groups, because auth.jwt.groups_claim is not set.',
    ]
