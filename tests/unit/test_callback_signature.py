"""The signature of callbacks, and the secret that is created if the settings have none."""

import hashlib
import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from kafka_http.config import Config
from kafka_http.errors import Unavailable
from kafka_http.node.callbacks.callback_delivery import sign, signing_secrets


def test_signature_covers_time_and_body_with_one_value_per_secret() -> None:
    signed = sign(b'{"task": {}}', 1790000000, ["a secret of sorts", "änother secret"])

    expected = [
        hmac.new(secret, b'1790000000.{"task": {}}', hashlib.sha256).hexdigest()
        for secret in (b"a secret of sorts", "änother secret".encode())
    ]
    assert signed == f"t=1790000000,v1={expected[0]},v1={expected[1]}"


def test_secrets_of_settings_take_precedence(tmp_path: Path) -> None:
    config = Config(callback_secret=("a secret of sorts",), data_dir=tmp_path)

    assert list(signing_secrets(config)) == ["a secret of sorts"]
    assert list(tmp_path.iterdir()) == []


def test_missing_secret_is_created_once_with_mode_0600(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path / "data")

    (secret,) = signing_secrets(config)

    assert list(signing_secrets(config)) == [secret]
    assert len(secret) >= 32
    (file,) = (tmp_path / "data").iterdir()
    assert file.name == "callback-secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_concurrent_creation_returns_the_same_secret(tmp_path: Path) -> None:
    for number in range(20):
        config = Config(data_dir=tmp_path / str(number))
        at_once = Barrier(8)

        def made(_: int, config: Config = config, at_once: Barrier = at_once) -> str:
            at_once.wait()
            return signing_secrets(config)[0]

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(made, range(8)))) == 1
        assert [file.name for file in config.data_dir.iterdir()] == ["callback-secret"]


def test_each_data_directory_has_its_own_secret(tmp_path: Path) -> None:
    secrets = {signing_secrets(Config(data_dir=tmp_path / name))[0] for name in ("a", "b")}

    assert len(secrets) == 2


@pytest.mark.parametrize("content", ["", "\n", "short"])
def test_secret_file_that_is_too_short_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "callback-secret").write_text(content)

    with pytest.raises(Unavailable, match="a secret of at least 16 characters"):
        signing_secrets(Config(data_dir=tmp_path))


def test_unwritable_data_directory_error_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(Unavailable, match="callback_secret") as error:
        signing_secrets(Config(data_dir=tmp_path / "file"))

    assert str(tmp_path) not in error.value.message
