"""One line an event, with the request's id, and a client library that does not flood."""

import io
import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kafka_http.logs import OncePerMinute, log_handler, request_id


class Written:
    """A logger of its own under a name, and the lines that its handler wrote."""

    def __init__(self, name: str) -> None:
        self._stream = io.StringIO()
        self.handler = log_handler(self._stream)
        self.logger = logging.getLogger(name)
        self.logger.addHandler(self.handler)
        self.logger.propagate = False

    @property
    def lines(self) -> list[str]:
        return self._stream.getvalue().splitlines()

    def stop(self) -> None:
        self.logger.removeHandler(self.handler)
        self.logger.propagate = True


@pytest.fixture
def ours() -> Iterator[Written]:
    written = Written("kafka_http.of_a_test")
    yield written
    written.stop()


@pytest.fixture
def kafkas() -> Iterator[Written]:
    written = Written("kafka.of_a_test")
    yield written
    written.stop()


def test_a_line_has_time_level_process_request_logger_and_message(ours: Written) -> None:
    token = request_id.set("abc")
    ours.logger.warning("It is %s.", "late")
    request_id.reset(token)

    (line,) = ours.lines
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING \d+ abc kafka_http\.of_a_test: It is late\.", line
    )


def test_a_traceback_is_kept_on_its_line(ours: Written) -> None:
    try:
        raise KeyError("x")
    except KeyError:
        ours.logger.exception("Unforeseen")

    (line,) = ours.lines
    assert "Traceback" in line
    assert line.endswith("KeyError: 'x'")


@pytest.mark.parametrize("sign", ["\n", "\r", "\x1b[31m", "\x85", "\u2028"])
def test_a_clients_text_cannot_forge_a_line(ours: Written, sign: str) -> None:
    ours.logger.warning("unknown topic %s", f"x{sign}2026-11-21 all is well")

    (line,) = ours.lines
    assert sign not in line


def test_our_own_lines_are_all_written(ours: Written) -> None:
    for _ in range(3):
        ours.logger.warning("again")

    assert len(ours.lines) == 3


def test_a_place_in_kafka_python_speaks_once_a_minute_and_says_how_often_it_was_silent(
    kafkas: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("kafka_http.logs.time.monotonic", lambda: now)

    for seconds in (0, 1, 59, 61):
        now = 1000.0 + seconds
        kafkas.logger.warning("Connection %s failed", seconds)
        kafkas.logger.warning("Something else")

    first, other, later, other_later = kafkas.lines
    assert first.endswith("Connection 0 failed")
    assert other.endswith("Something else")
    assert later.endswith("Connection 61 failed (and 2 times more since it last said so)")
    assert "Something else" in other_later


def test_kafka_pythons_tracebacks_become_their_last_line(kafkas: Written) -> None:
    try:
        raise ConnectionResetError("peer")
    except ConnectionResetError:
        kafkas.logger.exception("Error receiving")

    (line,) = kafkas.lines
    assert "Traceback" not in line
    assert line.endswith("Error receiving: ConnectionResetError('peer')")


def test_task_that_ends_with_its_closed_loop_is_not_logged(kafkas: Written) -> None:
    """kafka-python logs the task and has the error in `exc_info` alone. Seen at the stop of a server."""
    closed = (RuntimeError("NetworkSelector closed!"), ValueError("Invalid file descriptor: -1"))
    for error in (*closed, RuntimeError("another")):
        try:
            raise error
        except (RuntimeError, ValueError):
            kafkas.logger.exception("Unhandled exception in task %s:", "<Task>")

    (line,) = kafkas.lines
    assert line.endswith("RuntimeError('another')")


def test_topic_that_a_client_named_and_is_missing_is_not_logged(kafkas: Written) -> None:
    kafkas.logger.error("Topic %s not found in cluster metadata", "nope")

    assert kafkas.lines == []


def test_a_logger_whose_name_only_begins_like_kafka_pythons_is_let_be() -> None:
    quiet = OncePerMinute()
    record = logging.makeLogRecord({"name": "kafkaesque", "pathname": "x", "lineno": 1})

    assert quiet.filter(record)
    assert quiet.filter(record)


PROGRAM = """
import logging
from kafka_http.logs import configure_logging
configure_logging("debug")
configure_logging("debug")
logging.getLogger("kafka_http.x").debug("ours")
logging.getLogger("kafka.admin.client").debug("Starting with configuration: {'sasl_plain_password': 'hush'}")
logging.getLogger("kafka.net.connection").info("Connected")
logging.getLogger("kafka.net.connection").error("Connection lost")
logging.getLogger("kafka.net.manager").warning("Bootstrap not ready; waiting")
logging.getLogger("kafka.net.sasl.plain").warning("Sending username and password in the clear")
logging.getLogger("urllib3").warning("someone else's")
"""


def test_at_every_level_kafka_python_keeps_its_debugging_and_with_it_passwords_to_itself() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    said = [line.partition(" - ")[2] for line in done.stderr.splitlines()]
    assert said == ["kafka_http.x: ours", "kafka.net.connection: Connection lost", "urllib3: someone else's"]


def test_who_has_configured_logging_himself_keeps_it() -> None:
    program = "import logging; logging.basicConfig(format='%(message)s'); " + PROGRAM.strip().replace("\n", "; ")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "someone else's" in done.stderr.splitlines()
