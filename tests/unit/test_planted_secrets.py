"""The search for secrets finds them wherever kafka_http could write them."""

import base64
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest
import requests
from werkzeug import Response
from werkzeug.test import Client

from kafka_http.errors import InvalidRequest
from tests.support.planted_secrets import plant, plant_settings, take_leaks

KEY = plant("kh_planted-by-its-own-test")
PASSWORD = "pass-phrase-of-its-own-test"  # noqa: S105
BASIC = base64.b64encode(f"user:{PASSWORD}".encode()).decode()


def raise_error() -> None:
    InvalidRequest(f"The key {KEY} is wrong.")


def log_record() -> None:
    logging.getLogger("kafka_http.web").warning("Key %s is wrong.", KEY)


def log_exception() -> None:
    try:
        raise ValueError(KEY)
    except ValueError:
        logging.getLogger("kafka_http.web").exception("Unexpected error.")


def answer_body() -> None:
    Client(Response(KEY)).get("/")


def answer_header() -> None:
    Client(Response(headers={"X-Key": KEY})).get("/")


def answer_with_sent_password() -> None:
    Client(Response(PASSWORD)).get("/", headers={"Authorization": f"Basic {BASIC}"})


def answer_with_sent_key() -> None:
    Client(Response("kh_sent-in-the-query")).get("/?access_key=kh_sent-in-the-query")


def run_command() -> None:
    subprocess.run([sys.executable, "-c", f"import kafka_http; print({KEY!r})"], capture_output=True, check=True)


def show_setting() -> None:
    plant_settings({"kafka__sasl_plain_password": "planted-in-a-setting", "store_url": "postgresql://u:in-a-url@h/d"})
    raise_errors = [InvalidRequest("planted-in-a-setting"), InvalidRequest("in-a-url")]
    assert len(raise_errors) == 2


@pytest.mark.parametrize(
    "leak",
    [
        raise_error,
        log_record,
        log_exception,
        answer_body,
        answer_header,
        answer_with_sent_password,
        answer_with_sent_key,
        run_command,
        show_setting,
    ],
)
def test_search_finds_secret_in_each_output(leak: Callable[[], None]) -> None:
    assert not take_leaks()
    leak()
    assert take_leaks()


def test_search_finds_printed_secret(capsys: pytest.CaptureFixture[str]) -> None:
    print(KEY)
    capsys.readouterr()
    assert take_leaks()


def test_other_texts_are_no_leaks() -> None:
    InvalidRequest("The key is wrong.")
    assert not take_leaks()


def test_short_secret_is_rejected() -> None:
    with pytest.raises(ValueError, match="too short"):
        plant("short")


def test_requests_are_searched() -> None:
    with pytest.raises(requests.ConnectionError):
        requests.get("http://127.0.0.1:1/", headers={"X-Api-Key": KEY}, timeout=1)
    assert not take_leaks()
