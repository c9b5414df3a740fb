"""`kafka-http key create`: the key, and the entry for the file of keys."""

import time
from pathlib import Path

import pytest

from kafka_http.cli.main import main
from kafka_http.security.api_keys import ApiKeys
from kafka_http.security.principal import Credentials, KeyRestriction, Principal


def created(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """Return the key on stderr and the entry on stdout."""
    assert main(["key", "create", *arguments]) == 0
    out, err = capsys.readouterr()
    (key,) = [each for each in err.splitlines() if each.startswith("kh_")]
    assert key not in out
    return key, out


def authenticate(file: Path, key: str) -> Principal:
    found = ApiKeys.from_file(str(file)).authenticate(Credentials({"x-api-key": key}, "", ""), blocking=False)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["web-1", "web.1", 'a "b" \\ ä', "[x]", "#1", "'", "web 1"])
def test_created_key_is_accepted_with_its_entry(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    file = tmp_path / "keys.toml"
    first, entry = created(capsys, "first")
    file.write_text(entry)
    key, entry = created(capsys, name)
    with file.open("a") as appended:
        appended.write(entry)

    assert len(key) == 46
    found = authenticate(file, key)
    assert (found.name, found.restriction) == (name, None)
    assert authenticate(file, first).name == "first"


def test_key_is_narrowed_by_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    key, entry = created(capsys, "web", "--days", "7", "--publish-only", "--topic", "orders.*", "--topic", 'a"b')
    (tmp_path / "keys.toml").write_text(entry)

    found = authenticate(tmp_path / "keys.toml", key)

    assert found.restriction == KeyRestriction(publish_only=True, topics=("orders.*", 'a"b'))
    assert abs(found.expires - time.time() - 7 * 86400) < 60


@pytest.mark.parametrize("name", ["", "anonymous", "a\nb", "a\0b", "\x7f", "a" * 256, " a"])
def test_name_that_no_principal_may_have_is_an_error(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["key", "create", name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "The name of a key must not be" in err
    assert "kh_" not in err


@pytest.mark.parametrize("arguments", [["create"], ["list", "a"], ["create", "a", "--days", "0"], ["create", "a", "b"]])
def test_wrong_usage_makes_no_key(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["key", *arguments])
    assert "kh_" not in capsys.readouterr().err


def test_entry_is_only_announced_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `kafka-http key create NAME >> keys.toml` the announcement would be followed by nothing."""
    assert main(["key", "create", "web"]) == 0
    assert "The entry" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["key", "create", "web"]) == 0
    assert "The entry for the file that auth.keys names:" in capsys.readouterr().err
