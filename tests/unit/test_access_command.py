"""`kafka-http access`: what a principal may do, and which rule says so."""

from pathlib import Path

import pytest

from kafka_http.acls import Acl
from kafka_http.cli import access
from kafka_http.cli.main import main
from tests.support.fake_broker import FakeBroker

SETTINGS = """
[auth]
keys = "{keys}"
anonymous = ["read"]
[access."web-*"]
publish = ["orders.*", "events"]
consumer = ["web-*"]
[access."@ops"]
admin = true
[access."anonymous"]
read = ["news"]
publish = ["news"]
"""
KEYS = f'[web-1]\nsha256 = "{"0" * 64}"\n[web-2]\nsha256 = "{"1" * 64}"\npublish_only = true\ntopics = ["orders.eu"]\n'


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "keys.toml").write_text(KEYS)
    file = tmp_path / "settings.toml"
    file.write_text(SETTINGS.format(keys=tmp_path / "keys.toml"))
    return file


WEB = ['publish   orders.*, events  [access."web-*"]', 'consumer  web-*             [access."web-*"]']
REST = "Everything else is refused."


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["web-1"], [*WEB, REST]),
        (["web-2"], [*WEB, REST, "The API key web-2 narrows this: publish only; topics orders.eu."]),
        (
            ["web-1", "--groups", "dev,ops"],
            [*WEB, 'admin                       [access."@ops"]', REST],
        ),
        (
            ["anonymous"],
            [
                'read  news  [access."anonymous"]',
                REST,
                "Requests without credentials have at most the rights in auth.anonymous: read.",
            ],
        ),
        (["bob"], ["No rule matches: everything is refused.", "No user and no key has the name bob."]),
    ],
    ids=lambda value: value[0],
)
def test_access_prints_the_rules_of_a_principal(
    settings: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], lines: list[str]
) -> None:
    assert main(["access", *arguments, "--config", str(settings)]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_access_without_authentication_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["access", "alice"]) == 0
    assert "every client may do everything" in capsys.readouterr().out


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    broker = FakeBroker()
    monkeypatch.setattr(access, "KafkaBroker", lambda config: broker)
    return broker


def explain_acls(tmp_path: Path, *arguments: str) -> int:
    (tmp_path / "keys.toml").write_text(KEYS)
    flags = ("--access-rules", "kafka", "--auth", f"keys={tmp_path / 'keys.toml'}")
    return main(["access", "web-1", *flags, *arguments])


def test_access_prints_acls_of_the_cluster(
    broker: FakeBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.acl_entries = [
        Acl("User:web-1", "write", "topic", "orders.", is_prefix=True),
        Acl("User:*", "read", "group", "web", host="10.0.0.1"),
        Acl("User:web-1", "write", "topic", "orders.eu", is_denied=True),
    ]
    lines = [
        "publish      orders.*   User:web-1: Allow write on topic orders. (prefixed) from host *",
        "not publish  orders.eu  User:web-1: Deny write on topic orders.eu from host *",
        "Everything else is refused.",
    ]
    assert explain_acls(tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert explain_acls(tmp_path, "--address", "10.0.0.1") == 0
    assert "consumer     web" in capsys.readouterr().out


@pytest.mark.parametrize("problem", ["down", "hides_acls", ""])
def test_access_with_unknown_acls_prints_the_reason(
    broker: FakeBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str], problem: str
) -> None:
    if problem:
        setattr(broker, problem, True)
    assert explain_acls(tmp_path) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert {"down": "No Kafka broker answers", "hides_acls": "permission to describe ACLs", "": "an authorizer"}[
        problem
    ] in printed.err
