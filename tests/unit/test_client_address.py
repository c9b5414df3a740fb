"""Where the client commands find the server and the key: flags, environment, profile."""

import argparse
import os
from base64 import b64encode
from pathlib import Path

import pytest

from kafka_http.cli.client_address import ServerAddress, add_server_flags, server_address
from kafka_http.cli.main import main
from kafka_http.config import ConfigError
from kafka_http.config.sources import load_config
from tests.support.certificates import Authority

SECRET = "kh_hush"  # noqa: S105
PROFILES = f"""
url = "https://main.example"
api_key = "{SECRET}"

[test]
url = "http://test.example:8090/prefix/"
api_key = "kh_test"
"""


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    file = tmp_path / "kafka_http.toml"
    file.touch(mode=0o600)
    file.write_text(PROFILES)
    return file


def address(directory: Path, *flags: str, **environ: str) -> ServerAddress:
    parser = argparse.ArgumentParser()
    add_server_flags(parser)
    return server_address(parser.parse_args(flags), {"XDG_CONFIG_HOME": str(directory), **environ})


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_server_without_anything_given_is_the_demo(tmp_path: Path) -> None:
    assert address(tmp_path) == ServerAddress("http://127.0.0.1:8082", {})


def test_flags_override_environment_and_environment_overrides_profile(profiles: Path) -> None:
    directory = profiles.parent
    environ = {"KAFKA_HTTP_URL": "https://main.example/", "KAFKA_HTTP_API_KEY": "kh_environ"}

    assert address(directory) == ServerAddress("https://main.example", bearer(SECRET))
    assert address(directory, **environ) == ServerAddress("https://main.example", bearer("kh_environ"))
    flags = ("--url", "http://flag.example", "--api-key", "kh_flag")
    assert address(directory, *flags, **environ) == ServerAddress("http://flag.example", bearer("kh_flag"))


def test_named_profile_is_used(profiles: Path) -> None:
    found = address(profiles.parent, "--profile", "test")
    assert found == ServerAddress("http://test.example:8090/prefix", bearer("kh_test"))


def test_default_profile_may_be_a_table(tmp_path: Path) -> None:
    (tmp_path / "kafka_http.toml").write_text('[default]\nurl = "http://a.example"\n')
    assert address(tmp_path) == address(tmp_path, "--profile", "default") == ServerAddress("http://a.example", {})


def test_key_of_a_profile_goes_to_no_other_server(profiles: Path) -> None:
    assert address(profiles.parent, "--url", "https://other.example").credentials == {}
    assert address(profiles.parent, KAFKA_HTTP_URL="http://main.example").credentials == {}
    assert address(profiles.parent, "--url", "https://main.example:443/x").credentials == bearer(SECRET)


def test_login_in_url_is_sent_as_basic_and_not_shown(tmp_path: Path) -> None:
    found = address(tmp_path, "--url", "http://me:hu%40sh@a.example:81/")
    assert found.url == "http://a.example:81"
    assert found.credentials == {"Authorization": f"Basic {b64encode(b'me:hu@sh').decode()}"}
    assert "hu" not in repr(found)


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_profile_with_a_key_that_others_can_read_is_refused(profiles: Path, mode: int) -> None:
    profiles.chmod(mode)
    with pytest.raises(ConfigError, match=r"Other users may read .*, which has a key\. Run: chmod 600"):
        address(profiles.parent)


def test_profile_without_a_key_may_be_read_by_others(tmp_path: Path) -> None:
    file = tmp_path / "kafka_http.toml"
    file.write_text('url = "http://a.example"\n')
    file.chmod(0o644)
    assert address(tmp_path).url == "http://a.example"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('uri = "http://a.example"', "has an unknown key uri. Did you mean url?"),
        ("[test]\nport = 1", "The profile test in .* has an unknown key port"),
        ("url = 1", "The key url of the profile default in .* must be a text"),
        ("url", "is not TOML"),
    ],
)
def test_wrong_profile_is_an_error_that_says_where(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "kafka_http.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        address(tmp_path)


def test_user_without_a_home_directory_has_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of a container may have no entry in /etc/passwd."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert server_address(argparse.Namespace(url=None, api_key=None, profile=None, ca=None), {}).credentials == {}


def test_unknown_profile_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no profile nowhere in"):
        address(tmp_path, "--profile", "nowhere")


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8082", "ftp://a", "http://", "http://me:hush@a:99999", "http://me:hush@a?b", "http://[me:hush@a", "x"],
)
def test_invalid_url_is_an_error_without_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"The URL of the server \(--url\) must be like") as error:
        address(tmp_path, "--url", url)
    assert "hush" not in str(error.value)


def test_key_that_no_header_can_carry_is_an_error_without_the_key(tmp_path: Path) -> None:
    for key in ("kh_hush\n", "kh hush", "kh_hüsh"):
        with pytest.raises(ConfigError, match=r"The API key \(KAFKA_HTTP_API_KEY\) has a space") as error:
            address(tmp_path, KAFKA_HTTP_API_KEY=key)
        assert key not in str(error.value)


def test_ca_file_is_trusted_in_place_of_the_system(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    found = address(tmp_path, "--ca", str(authority.file))
    assert found.tls is not None
    assert len(found.tls.get_ca_certs()) == 1
    for name, said in (("missing", "cannot be read: No such file"), ("kafka_http.toml", "has no certificate")):
        (tmp_path / "kafka_http.toml").touch()
        with pytest.raises(ConfigError, match=said):
            address(tmp_path, "--ca", str(tmp_path / name))


def test_serve_ignores_url_and_key_of_the_client_commands() -> None:
    environ = {"KAFKA_HTTP_URL": "http://a.example", "KAFKA_HTTP_API_KEY": SECRET, "KAFKA_HTTP_WORKERS": "3"}
    config = load_config(environ=environ)
    assert config.workers == 3
    assert not any(SECRET in source for source in config.sources)
    with pytest.raises(ConfigError, match="Did you mean"):
        load_config(environ={"KAFKA_HTTP_WORKER": "3"})


def test_wrong_profile_is_exit_status_2(
    profiles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("KAFKA_HTTP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(profiles.parent))
    profiles.chmod(0o644)
    assert main(["topics"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kafka-http: Other users may read ")
    assert SECRET not in line
