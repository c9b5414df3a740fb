"""Where the server of a client command is, and the credentials for it: flags > environment > profile > default."""

import argparse
import os
import ssl
import tomllib
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from kafka_http.config import ConfigError
from kafka_http.config.spelling import nearest

_DEFAULT_URL = "http://127.0.0.1:8082"
_PROFILE_KEYS = ("url", "api_key", "ca")
_OTHERS_MODE = 0o077
SERVER_EPILOG = (
    "The URL and the key come from the flags, else from KAFKA_HTTP_URL and KAFKA_HTTP_API_KEY, else from the profile "
    "in ~/.config/kafka_http.toml."
)


class ServerAddress(NamedTuple):
    """A server: its URL without credentials and without a slash at the end, the credentials, and how to verify it."""

    url: str
    credentials: Mapping[str, str]
    """Headers of each request."""
    tls: ssl.SSLContext | None = None
    """None: the certificates that the system trusts."""

    def __repr__(self) -> str:
        return f"ServerAddress({self.url!r})"  # without the credentials


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where the server is."""
    group = parser.add_argument_group("server")
    group.add_argument("--url", metavar="URL", help=f"URL of the server (default: {_DEFAULT_URL})")
    group.add_argument(
        "--api-key", metavar="KEY", help="API key or token; other users of this machine can see it in the process list"
    )
    group.add_argument("--profile", metavar="NAME", help="the profile [NAME] in ~/.config/kafka_http.toml")
    group.add_argument(
        "--ca", metavar="FILE", help="certificates of the authorities to trust, in place of those of the system"
    )


def server_address(arguments: argparse.Namespace, environ: Mapping[str, str] | None = None) -> ServerAddress:
    """Return the server that flags, environment and profile name. Raises `ConfigError`, which shows no credentials."""
    environ = os.environ if environ is None else environ
    profile = _load_profile(arguments.profile, environ)
    url, source = _first(
        (arguments.url, "--url"),
        (environ.get("KAFKA_HTTP_URL"), "KAFKA_HTTP_URL"),
        (profile.get("url"), "the profile"),
        (_DEFAULT_URL, "the default"),
    )
    parts = _split(url, source)
    if "url" in profile and _origin(_split(profile["url"], "the profile")) != _origin(parts):
        profile = {}  # its key is for another server
    key, source = _first(
        (arguments.api_key, "--api-key"),
        (environ.get("KAFKA_HTTP_API_KEY"), "KAFKA_HTTP_API_KEY"),
        (profile.get("api_key"), "the profile"),
    )
    plain = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
    return ServerAddress(plain, _credentials(parts, key, source), _tls(arguments.ca or profile.get("ca")))


def _first(*candidates: tuple[str | None, str]) -> tuple[str, str]:
    """Return the first value that is given, and its source."""
    return next(((value, source) for value, source in candidates if value), ("", ""))


def _split(url: str, source: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        url.encode()  # an argument may have bytes that are not UTF-8
        is_valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or parts.query or parts.fragment:  # not shown: it may have a password
        raise ConfigError(f"The URL of the server ({source}) must be like {_DEFAULT_URL} or https://kafka.example.org.")
    return parts


def _origin(parts: SplitResult) -> tuple[object, ...]:
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]


def _credentials(parts: SplitResult, key: str, source: str) -> dict[str, str]:
    if key:
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ConfigError(f"The API key ({source}) has a space or a character that is not printable ASCII.")
        return {"Authorization": f"Bearer {key}"}
    if parts.username is None:
        return {}
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {b64encode(login.encode()).decode()}"}


def _tls(ca: str | None) -> ssl.SSLContext | None:
    if not ca:
        return None
    try:
        return ssl.create_default_context(cafile=os.path.expanduser(ca))  # noqa: PTH111
    except ssl.SSLError:
        raise ConfigError(f"The file of certificates {ca} has no certificate in PEM form.") from None
    except OSError as error:
        raise ConfigError(f"The file of certificates {ca} cannot be read: {error.strerror}.") from None


def _load_profile(name: str | None, environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the values of a profile. Without a name: those at the top of the file and in its table `default`."""
    # `Path.expanduser` raises an error for a user without a home directory.
    directory = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111
    file = Path(directory) / "kafka_http.toml"
    try:
        document = tomllib.loads(file.read_text("utf-8"))
        mode = file.stat().st_mode
    except FileNotFoundError:
        document, mode = {}, 0
    except OSError as error:
        raise ConfigError(f"The profiles in {file} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"The file of profiles {file} is not TOML: {error}.") from None
    profiles = {key: value for key, value in document.items() if isinstance(value, dict)}
    profiles["default"] = {**profiles.get("default", {}), **{k: v for k, v in document.items() if k not in profiles}}
    if name is not None and not profiles.get(name):
        raise ConfigError(f"There is no profile {name} in {file}. Add a table [{name}] with url and api_key.")
    for each, values in profiles.items():
        _check_profile(each, values, file)
    if mode & _OTHERS_MODE and any("api_key" in each or "@" in each.get("url", "") for each in profiles.values()):
        raise ConfigError(f"Other users may read {file}, which has a key. Run: chmod 600 {file}")
    return profiles[name or "default"]


def _check_profile(name: str, values: Mapping[str, Any], file: Path) -> None:
    for key, value in values.items():
        if key not in _PROFILE_KEYS:
            near = nearest(key, _PROFILE_KEYS)
            hint = f"Did you mean {near}?" if near else f"A profile has {', '.join(_PROFILE_KEYS)}."
            raise ConfigError(f"The profile {name} in {file} has an unknown key {key}. {hint}")
        if not isinstance(value, str):
            raise ConfigError(f"The key {key} of the profile {name} in {file} must be a text.")
