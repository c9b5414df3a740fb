"""Lines of the access log: their fields as a text and as JSON."""

import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config as GunicornConfig
from gunicorn.glogging import Logger

from kafka_http.environ import PRINCIPAL, RECEIVED_BYTES, REQUEST_FACTS
from kafka_http.logs import LogFormat, log_handler, request_id
from kafka_http.request_facts import RequestFacts
from kafka_http.server.access_log import AccessLog, AccessLogger, end_logger
from kafka_http.server.app_interface import FastPathResponse
from kafka_http.server.client_connection import LoggedRequest
from kafka_http.server.fast_path_parser import FastPathHead
from tests.support.manual import page, section

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"{TRACE_ID}-00f067aa0ba902b7"
NOW = timedelta(seconds=0.0043)


class Written:
    """A logger of gunicorn that writes its access log as a text or as JSON."""

    def __init__(self, log_format: LogFormat, *, level: int = logging.INFO) -> None:
        config = GunicornConfig()
        config.set("accesslog", "-")
        self.stream = io.StringIO()
        self.logger = AccessLogger(config)
        self.logger.access_log.handlers = [log_handler(self.stream, log_format)]
        self.logger.access_log.setLevel(level)
        self.logger.has_console = True

    def write(self, environ: dict[str, Any], status: str = "200 OK") -> None:
        self.logger.access(SimpleNamespace(status=status, sent=85), [], environ, NOW)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(each) for each in self.lines]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    access = logging.getLogger("gunicorn.access")
    before, level = list(access.handlers), access.level
    token = request_id.set("r-1")
    yield
    request_id.reset(token)
    access.handlers = before
    access.setLevel(level)


def environ_of(**changes: Any) -> dict[str, Any]:
    facts = RequestFacts("/messages/<topic>", "orders")
    facts.records, facts.kafka_seconds = 2, 0.0031
    return {
        "REMOTE_ADDR": "192.0.2.7",
        "REQUEST_METHOD": "POST",
        "RAW_URI": "/messages/orders?key=7",
        "PATH_INFO": "/messages/orders",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_USER_AGENT": "curl/8.5.0",
        "HTTP_TRACEPARENT": f"00-{PARENT}-01",
        PRINCIPAL: "web%20shop",
        RECEIVED_BYTES: 12,
        REQUEST_FACTS: facts,
        **changes,
    }


def test_access_line_has_what_is_known_about_the_request() -> None:
    written = Written("text")
    written.write(environ_of())
    (line,) = written.lines
    assert line.partition("gunicorn.access: ")[2] == (
        '192.0.2.7 web%20shop "POST /messages/orders?key=7 HTTP/1.1" 200 85 bytes 4 ms "curl/8.5.0" '
        f"route=/messages/<topic> topic=orders records=2 bytes_in=12 kafka_seconds=0.003 trace_id={TRACE_ID}"
    )


def test_json_access_line_has_what_is_known_about_the_request() -> None:
    written = Written("json")
    written.write(environ_of())
    (found,) = written.objects
    assert found.pop("time").endswith("Z")
    assert isinstance(found.pop("process"), int)
    assert found == {
        "level": "INFO",
        "logger": "gunicorn.access",
        "message": "POST /messages/orders 200",
        "request_id": "r-1",
        "client": "192.0.2.7",
        "principal": "web shop",
        "method": "POST",
        "route": "/messages/<topic>",
        "path": "/messages/orders",
        "query": "key=7",
        "status": 200,
        "topic": "orders",
        "records": 2,
        "bytes_in": 12,
        "bytes_out": 85,
        "seconds": 0.0043,
        "kafka_seconds": 0.0031,
        "trace_id": TRACE_ID,
        "user_agent": "curl/8.5.0",
    }


def test_access_line_of_a_request_that_no_view_has_seen_has_no_facts() -> None:
    environ = {"REQUEST_METHOD": "GET", "RAW_URI": "/", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "192.0.2.7"}
    text = Written("text")
    text.write(environ, "400 Bad Request")
    assert ' - "GET / HTTP/1.1" 400 85 bytes 4 ms "-" route=none topic=- records=0 bytes_in=0 ' in text.lines[0]
    objects = Written("json")
    objects.write(environ, "400 Bad Request")
    (found,) = objects.objects
    assert (found["route"], found["topic"], found["principal"], found["query"]) == ("none", None, None, None)
    assert (found["records"], found["bytes_in"], found["status"]) == (0, 0, 400)


def test_response_without_a_status_has_no_line() -> None:
    """The view has failed, and the response to its error has a line."""
    written = Written("text")
    written.logger.access(SimpleNamespace(status=None), [], environ_of(), NOW)
    assert written.lines == []


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"00-{PARENT}-01", TRACE_ID),
        (f"01-{PARENT}-01-more", TRACE_ID),
        (f"00-{PARENT}-01-more", None),
        (f"ff-{PARENT}-01", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE_ID}-{'0' * 16}-01", None),
        (f"00-{PARENT.upper()}-01", None),
        (f"00-{PARENT}", None),
        ("", None),
    ],
)
def test_trace_id_is_that_of_a_valid_traceparent(header: str, expected: str | None) -> None:
    written = Written("json")
    written.write(environ_of(HTTP_TRACEPARENT=header))
    assert written.objects[0]["trace_id"] == expected


@pytest.mark.parametrize(
    ("changes", "status", "is_poll"),
    [
        ({"PATH_INFO": "/messages"}, 200, True),
        ({"PATH_INFO": "/messages/t/me"}, 200, True),
        ({"PATH_INFO": "/consumers"}, 200, True),
        ({"PATH_INFO": "/consumers/g"}, 200, True),
        ({"PATH_INFO": "/tasks"}, 200, True),
        ({"PATH_INFO": "/messages/t/me/0"}, 200, False),
        ({"PATH_INFO": "/consumers/g/instances/i/records"}, 200, False),
        ({"PATH_INFO": "/tasks", "REQUEST_METHOD": "DELETE"}, 200, False),
        ({"PATH_INFO": "/tasks"}, 503, False),
    ],
)
def test_poll_of_the_console_is_logged_at_debug(changes: dict[str, str], status: int, is_poll: bool) -> None:
    environ = environ_of(REQUEST_METHOD="GET", HTTP_X_CONSOLE_POLL="true") | changes
    written = Written("json", level=logging.DEBUG)
    written.write(environ, f"{status} X")
    assert written.objects[0]["level"] == ("DEBUG" if is_poll else "INFO")
    written = Written("json")
    written.write(environ, f"{status} X")
    assert bool(written.lines) != is_poll


def test_quotes_of_a_client_do_not_end_a_field_of_a_text_line() -> None:
    written = Written("text")
    written.write(environ_of(HTTP_USER_AGENT='x" route=/health', RAW_URI='/a"b'))
    assert '"POST /a\\"b HTTP/1.1" 200' in written.lines[0]
    assert '"x\\" route=/health" route=/messages/<topic>' in written.lines[0]


@pytest.mark.parametrize("text", [r'"\" route=/health topic="x', "ends with \\", r"\\", 'a"b', r"\"", "plain"])
def test_quoted_text_of_a_client_can_be_read_back(text: str) -> None:
    """A backslash before a quote was not escaped, so that what followed looked like a field of the server."""
    written = Written("text")
    written.write(environ_of(HTTP_USER_AGENT=text))
    found = re.search(r' 4 ms "((?:[^"\\]|\\.)*)" route=/messages/<topic> ', written.lines[0])
    assert found is not None
    assert re.sub(r"\\(.)", r"\1", found[1]) == text


@pytest.mark.parametrize("text", ['"}\n{"level": "INFO', "\x7f\x85\u2028", "\udcff", "Jürgen"])
def test_text_of_a_client_stays_within_its_json_field(text: str) -> None:
    written = Written("json")
    written.write(environ_of(HTTP_USER_AGENT=text))
    (line,) = written.lines
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["user_agent"] == text


def test_line_of_the_fast_path_has_the_same_fields() -> None:
    written = Written("json")
    headers = {"user-agent": "curl/8.5.0", "traceparent": f"00-{PARENT}-01"}
    head = FastPathHead("PUT", "/messages/orders?key=7", headers, False)
    connection: Any = SimpleNamespace(
        logged_request=LoggedRequest(head, 12, 0.0), conn=SimpleNamespace(client=("192.0.2.7", 1)), started=0.0
    )
    sent = FastPathResponse(200, {}, "text/plain", "r-2", b"12345", "web shop", "/messages/<topic>", "orders", 2)
    AccessLog(written.logger).write(connection, sent)
    (found,) = written.objects
    assert (found["request_id"], found["principal"], found["trace_id"]) == ("r-2", "web shop", TRACE_ID)
    assert (found["route"], found["topic"], found["path"]) == ("/messages/<topic>", "orders", "/messages/orders")
    assert (found["bytes_in"], found["bytes_out"], found["records"]) == (12, 5, 2)
    assert 0 < found["kafka_seconds"] <= found["seconds"]
    assert connection.logged_request is None


def test_line_of_a_stream_has_what_was_sent_until_its_end() -> None:
    written, environ = Written("json"), environ_of()
    response = SimpleNamespace(status="200 OK", headers=[], sent=20)
    write = end_logger(written.logger, response, SimpleNamespace(headers=[]), environ, 0.0)
    assert write is not None
    environ[REQUEST_FACTS].records = 7
    token = request_id.set("-")
    write(100)
    request_id.reset(token)
    (found,) = written.objects
    assert (found["request_id"], found["records"], found["bytes_out"]) == ("r-1", 7, 120)


@pytest.mark.parametrize("kind", [AccessLogger, Logger])
def test_nothing_is_kept_for_the_access_log_while_it_is_off(kind: type[Logger]) -> None:
    logger = kind(GunicornConfig())
    assert not AccessLog(logger).is_on
    assert end_logger(logger, None, None, {}, 0.0) is None


ACCESS_LOG, JSON_LINES = section(page("operations"), "## Logs").split("### ")[1:]


def test_manual_lists_the_fields_of_a_json_line() -> None:
    written = Written("json")
    written.write(environ_of())
    listed = re.findall(r"^\| `(\w+)` \|", JSON_LINES, re.MULTILINE)
    assert set(listed) == written.objects[0].keys() | {"exception"}
    assert len(listed) == len(set(listed))


def test_examples_in_the_manual_have_the_fields_of_the_access_log() -> None:
    names = re.compile(r" (\w+)=")
    written = Written("text")
    written.write(environ_of())
    (example,) = (each for each in ACCESS_LOG.splitlines() if "gunicorn.access" in each)
    assert names.findall(example) == names.findall(written.lines[0])
    written = Written("json")
    written.write(environ_of())
    (example,) = re.findall(r"^\{.*\}$", JSON_LINES, re.MULTILINE)
    assert list(json.loads(example)) == list(written.objects[0])
