"""Reloads of settings and of the files that they name: all of it, or nothing."""

from hashlib import sha256
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from kafka_http.app import create_app
from kafka_http.config import ConfigError
from kafka_http.config.reloading import changes_for_restart
from kafka_http.config.sources import load_config
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker


def entry(name: str, **more: str) -> str:
    """Return the entry of the key `kh_` + name."""
    digest = sha256(f"kh_{name}".encode()).hexdigest()
    return f'[{name}]\nsha256 = "{digest}"\n' + "".join(f"{key} = {value}\n" for key, value in more.items())


def status(client: FlaskClient, key: str | None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer kh_{key}"}
    return client.put("/messages/t", data=b"x", headers=headers).status_code


def reload(client: FlaskClient) -> None:
    client.application.extensions["kafka_http"].reload()


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    keys = tmp_path / "keys.toml"
    keys.write_text(entry("alice") + entry("bob"), "utf-8")
    return keys


@pytest.fixture
def file(tmp_path: Path, keys: Path) -> Path:
    file = tmp_path / "settings.toml"
    file.write_text(f'[auth]\nkeys = "{keys}"\n', "utf-8")
    return file


@pytest.fixture
def client(make_client: ClientFactory, file: Path) -> FlaskClient:
    return make_client(config=str(file))


def test_reload_reads_the_files_that_the_settings_name(client: FlaskClient, keys: Path) -> None:
    assert [status(client, each) for each in ("alice", "bob", "carol")] == [200, 200, 401]
    keys.write_text(entry("alice") + entry("carol"), "utf-8")
    assert status(client, "bob") == 200, "nothing changes before the reload"
    reload(client)
    assert [status(client, each) for each in ("alice", "bob", "carol")] == [200, 401, 200]


def test_reload_reads_the_settings_file(client: FlaskClient, file: Path, keys: Path) -> None:
    others = keys.with_name("others.toml")
    others.write_text(entry("carol"), "utf-8")
    file.write_text(f'[auth]\nkeys = "{others}"\nanonymous = ["read"]\n', "utf-8")
    reload(client)
    assert [status(client, each) for each in ("alice", "carol")] == [401, 200]
    assert client.get("/messages/t/me/earliest").status_code == 200


def test_reload_reads_access_rules_and_limits(client: FlaskClient, file: Path) -> None:
    before = file.read_text("utf-8")
    rules = '[access.alice]\npublish = ["t"]\n[limits.alice]\nrequests = 0.01\nburst = 200\n'
    file.write_text(before + rules, "utf-8")
    reload(client)
    assert [status(client, each) for each in ("bob", "alice", "alice", "alice")] == [404, 200, 200, 429]
    file.write_text(before, "utf-8")
    reload(client)
    assert [status(client, each) for each in ("bob", "alice", "alice", "alice")] == [200] * 4
    file.write_text(before + rules, "utf-8")
    reload(client)
    assert [status(client, each) for each in ("bob", "alice")] == [404, 429], "a reload does not refill what was used"


@pytest.mark.parametrize(
    ("settings", "entries", "named"),
    [
        ("[auth]\nkeys = {keys}\n[", "", "settings.toml is not TOML"),
        ("[auth]\nkeys = {keys}\nkays = 1", "", "auth.kays"),
        ("[auth]\nkeys = 'nowhere.toml'", "", "nowhere.toml"),
        ("[auth]\nkeys = {keys}", "[carol]", "[carol] needs sha256"),
        ("[auth]\nkeys = {keys}", entry("bob") + "expires = 'tomorrow'", "expires"),
        ("[auth]\nkeys = {keys}", "[bob", "is not TOML"),
    ],
)
def test_faulty_reload_changes_nothing_and_names_the_fault(
    client: FlaskClient, file: Path, settings: str, entries: str, named: str
) -> None:
    keys = file.with_name("keys.toml")
    file.write_text(settings.replace("{keys}", repr(str(keys))), "utf-8")
    keys.write_text(entries, "utf-8")
    with pytest.raises(ConfigError) as raised:
        reload(client)
    assert named in str(raised.value)
    assert [status(client, each) for each in ("alice", "bob", "carol", None)] == [200, 200, 401, 401]


def test_authentication_can_be_turned_on_and_off_by_a_reload(client: FlaskClient, file: Path) -> None:
    with_keys = file.read_text("utf-8")
    for _ in range(2):
        file.write_text("", "utf-8")
        reload(client)
        assert [status(client, each) for each in ("bob", None)] == [200, 200]
        file.write_text(with_keys, "utf-8")
        reload(client)
        assert [status(client, each) for each in ("bob", None)] == [200, 401]


def test_environment_and_flags_stay_as_at_the_start(file: Path) -> None:
    environ = {"KAFKA_HTTP_CONFIG": str(file), "KAFKA_HTTP_THREADS": "7"}
    config = load_config({"workers": 3}, environ)
    environ["KAFKA_HTTP_THREADS"] = "8"
    file.write_text("threads = 9\nworkers = 9\nkeepalive = 9\n[kafka]\nsasl_plain_password = 'planted'", "utf-8")
    again = config.loaded_again()
    assert (again.threads, again.workers, again.keepalive, again.auth) == (7, 3, 9, {})
    assert changes_for_restart(config, again) == ["kafka.sasl_plain_password", "keepalive"]
    assert changes_for_restart(config, config.loaded_again().loaded_again()) == changes_for_restart(config, again)


@pytest.mark.parametrize(("bind", "is_allowed"), [("127.0.0.1:8082", True), ("[::1]:8082", True), ("0.0.0.0:1", False)])
def test_require_auth_rejects_an_open_address_without_authentication(
    broker: FakeBroker, tmp_path: Path, file: Path, bind: str, is_allowed: bool
) -> None:
    flags = {"bind": bind, "require_auth": True, "data_dir": str(tmp_path / "data")}
    create_app(load_config({**flags, "config": str(file)}, {}), broker)
    if is_allowed:
        create_app(load_config(flags, {}), broker)
    else:
        with pytest.raises(ConfigError, match=r"require_auth: other hosts can reach 0\.0\.0\.0:1, and no client"):
            create_app(load_config(flags, {}), broker)


def test_reload_checks_what_the_server_does_and_not_settings_that_need_a_restart(
    make_client: ClientFactory, file: Path
) -> None:
    """Otherwise an address that only the file has would let authentication be turned off."""
    before = file.read_text("utf-8")
    file.write_text('bind = "0.0.0.0:1"\nrequire_auth = true\n' + before, "utf-8")
    client = make_client(config=str(file))
    for changed in ('bind = "127.0.0.1:1"', "", 'access_rules = "kafka"\n' + before):
        file.write_text(changed, "utf-8")
        with pytest.raises(ConfigError, match=r"require_auth|access_rules has changed to kafka, which needs a restart"):
            reload(client)
        assert status(client, None) == 401


def test_require_auth_rejects_a_reload_that_turns_authentication_off(make_client: ClientFactory, file: Path) -> None:
    client = make_client(config=str(file), bind="0.0.0.0:1", require_auth=True)
    file.write_text("", "utf-8")
    with pytest.raises(ConfigError, match="require_auth"):
        reload(client)
    assert status(client, None) == 401


def test_require_auth_behind_a_proxy_rejects_a_reload_that_turns_authentication_off(
    make_client: ClientFactory, file: Path
) -> None:
    """The server listens on a loopback address, and a settings file that is half written has no [auth]."""
    client = make_client(config=str(file), require_auth=True)
    for without in ("", "[auth]\n", "[auth]\nkeys = ''\n"):
        file.write_text(without, "utf-8")
        with pytest.raises(ConfigError, match="require_auth"):
            reload(client)
        assert status(client, None) == 401


def test_reload_that_opens_the_server_is_logged(
    client: FlaskClient, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_keys = file.read_text("utf-8")
    for settings, warned in (
        (with_keys + '[access.alice]\npublish = ["t"]\n', ""),
        (with_keys, "may do everything from now on: the section [access] is gone"),
        (with_keys, ""),
        ("", "Authentication is off from now on: the section [auth] is gone"),
        ("", ""),
    ):
        caplog.clear()
        file.write_text(settings, "utf-8")
        reload(client)
        messages = [each.message for each in caplog.records if each.levelname == "WARNING"]
        assert len(messages) == bool(warned)
        assert warned in "".join(messages)
