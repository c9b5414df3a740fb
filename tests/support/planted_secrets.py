"""Secrets that tests use, and the search for them in everything that kafka_http writes.

`plant` registers a secret. Credentials in requests, hashes of passwords, and secret settings of servers are registered
without a call. The fixture `watch_outputs` of `tests/conftest.py` searches log records, errors, answers, and the output
of commands; the logs of servers are searched when they stop. A test during which a secret was found fails.
"""

import base64
import binascii
import logging
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

import bcrypt
import pytest
import requests
from werkzeug.test import Client, TestResponse

from kafka_http.config import ConfigError
from kafka_http.config.settings import is_secret
from kafka_http.errors import KafkaHttpError

MIN_LENGTH = 8
"""A shorter text may occur by chance."""
CREDENTIAL_HEADERS = ("authorization", "proxy-authorization", "x-api-key")
_OURS = ("kafka_http", "gunicorn", "werkzeug")
_planted: set[str] = set()
_leaks: list[str] = []


def plant(secret: str) -> str:
    """Register a secret of at least `MIN_LENGTH` characters, and return it. Of a PEM file, each line is registered."""
    if len(secret) < MIN_LENGTH:
        raise ValueError(f"{secret!r} is too short to be searched for")
    lines = [each for each in secret.splitlines() if len(each) >= MIN_LENGTH and not each.startswith("-----")]
    _planted.update(lines)
    return secret


def plant_header(value: str) -> None:
    """Register what a credential header has: a key, a token, or a password, which is also in base64."""
    _plant_long(secret := value.rpartition(" ")[2])
    if value.lower().startswith("basic "):
        with suppress(binascii.Error, UnicodeDecodeError):
            _plant_long(base64.b64decode(secret).decode().partition(":")[2])


def plant_settings(settings: Mapping[str, Any]) -> None:
    """Register the secrets among settings: by the name of the setting, and passwords in URLs."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            plant_settings({f"{name}.{inner}": each for inner, each in value.items()})
        elif isinstance(value, str):
            parts = name.replace("__", ".").split(".")
            if parts[0] != "auth" and is_secret(".".join(parts)):
                for each in value.split(","):
                    _plant_long(each)
            with suppress(ValueError):
                _plant_long(urlsplit(value).password or "")


def _plant_long(secret: str) -> None:
    if len(secret) >= MIN_LENGTH:
        plant(secret)


_SEARCHED_BYTES = 1 << 16
"""Of an answer. Longer ones are pages of messages, and searching them took minutes."""


def search(where: str, output: str | bytes) -> None:
    """Search an output for all secrets. What is found fails the test that runs."""
    text = output if isinstance(output, str) else output.decode(errors="replace")
    _leaks.extend(f"{where}: {secret}" for secret in _planted if secret in text)


def take_leaks() -> list[str]:
    """Return what was found since the last call."""
    found = _leaks.copy()
    _leaks.clear()
    return found


@contextmanager
def searching_outputs() -> Iterator[None]:
    """Search all outputs of this process, its requests and its commands."""
    with ExitStack() as stack:
        stack.enter_context(_searching_log_records())
        for each in (KafkaHttpError, ConfigError):
            stack.enter_context(_around(each, "__init__", _search_error))
        stack.enter_context(_around(bcrypt, "hashpw", lambda _, hashed: plant(hashed.decode())))
        stack.enter_context(_around(requests.Session, "send", _search_exchange))
        stack.enter_context(_around(Client, "open", _search_response))
        stack.enter_context(_around(subprocess.Popen, "communicate", _search_command))
        stack.enter_context(_around(pytest.CaptureFixture, "readouterr", _search_captured))
        yield


@contextmanager
def _around(owner: Any, name: str, after: Any) -> Iterator[None]:
    """Call `after(arguments, result)` after each call of a method. `arguments` begin with its object."""
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        after(arguments, result)
        return result

    with mock.patch.object(owner, name, wrapped):
        yield


@contextmanager
def _searching_log_records() -> Iterator[None]:
    factory = logging.getLogRecordFactory()

    def searched(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = factory(*arguments, **named)
        if _planted and str(record.name).startswith(_OURS):
            with suppress(TypeError, ValueError):  # the handler reports arguments that do not fit
                search(f"log of {record.name}", record.getMessage())
            if record.exc_info:
                search(f"traceback in the log of {record.name}", str(record.exc_info[1]))
        return record

    logging.setLogRecordFactory(searched)
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)


def _search_error(arguments: tuple[Any, ...], result: None) -> None:
    search(f"error {type(arguments[0]).__name__}", str(arguments[0]))


def _search_exchange(arguments: tuple[Any, ...], response: requests.Response) -> None:
    sent = arguments[1]
    _plant_request(sent.headers, sent.url or "")
    _search_answer(response.headers, response.content if response._content else b"")  # type: ignore[attr-defined]


def _search_response(arguments: tuple[Any, ...], response: TestResponse) -> None:
    sent = response.request
    _plant_request(sent.headers, sent.url)
    is_page = sent is not None and sent.path.endswith("/records")  # it counts as delivered when it was read
    is_whole = "Content-Length" in response.headers and not is_page
    _search_answer(response.headers, response.get_data() if is_whole else b"")


def _plant_request(headers: Mapping[str, Any], url: str) -> None:
    for name, value in headers.items():
        if name.lower() in CREDENTIAL_HEADERS:
            plant_header(value if isinstance(value, str) else value.decode("latin-1"))
    for name, value in parse_qsl(urlsplit(url).query):
        if name == "access_key":
            _plant_long(value)


def _search_answer(headers: Mapping[str, str], body: bytes) -> None:
    search("headers of an answer", "\n".join(f"{name}: {value}" for name, value in headers.items()))
    search("answer", body[:_SEARCHED_BYTES])


def _search_command(arguments: tuple[Any, ...], outputs: tuple[Any, Any]) -> None:
    command = arguments[0].args
    words = [command] if isinstance(command, str) else [str(each) for each in command]
    if any("kafka_http" in each or "kafka-http" in each for each in words):
        for each in outputs:
            search(f"output of {' '.join(words)[:100]}", each or "")


def _search_captured(arguments: tuple[Any, ...], captured: Any) -> None:
    search("captured output", f"{captured.out}\n{captured.err}")
