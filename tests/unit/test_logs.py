"""Log lines: their format, their request id, and the filter of kafka-python's log."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kafka_http.logs import KafkaLogFilter, LogFormat, log_handler, request_id


class CapturedLog:
    """A logger and the lines that its handler wrote."""

    def __init__(self, name: str, log_format: LogFormat = "text") -> None:
        self._stream = io.StringIO()
        self.handler = log_handler(self._stream, log_format)
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
def our_log() -> Iterator[CapturedLog]:
    log = CapturedLog("kafka_http.of_a_test")
    yield log
    log.stop()


@pytest.fixture
def json_log() -> Iterator[CapturedLog]:
    log = CapturedLog("kafka_http.of_a_test", "json")
    yield log
    log.stop()


@pytest.fixture
def kafka_log() -> Iterator[CapturedLog]:
    log = CapturedLog("kafka.of_a_test")
    yield log
    log.stop()


def test_api_key_in_a_parameter_of_another_name_is_hidden(our_log: CapturedLog) -> None:
    key = "kh_" + "aB3_-" * 8 + "xyz"
    our_log.logger.warning('"GET /messages?api_key=%s&limit=1"', key)
    assert our_log.lines[0].endswith('"GET /messages?api_key=kh_(hidden)&limit=1"')


def test_log_line_has_time_level_process_request_id_logger_and_message(our_log: CapturedLog) -> None:
    token = request_id.set("abc")
    our_log.logger.warning("It is %s.", "late")
    request_id.reset(token)

    (line,) = our_log.lines
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING \d+ abc kafka_http\.of_a_test: It is late\.", line
    )


def test_json_line_has_the_fields_of_a_text_line(json_log: CapturedLog) -> None:
    token = request_id.set("-")
    json_log.logger.warning("It is %s.", "late")
    request_id.set("abc")
    json_log.logger.warning("100 %")
    request_id.reset(token)

    first, last = map(json.loads, json_log.lines)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "WARNING",
        "logger": "kafka_http.of_a_test",
        "message": "It is late.",
        "process": os.getpid(),
    }
    assert (last["message"], last["request_id"]) == ("100 %", "abc")


def test_json_line_has_a_traceback_in_its_own_field(json_log: CapturedLog) -> None:
    try:
        raise KeyError("x")
    except KeyError:
        json_log.logger.exception("Unforeseen")

    (found,) = map(json.loads, json_log.lines)
    assert found["message"] == "Unforeseen"
    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith("KeyError: 'x'")


def test_json_line_hides_api_keys_and_control_characters(json_log: CapturedLog) -> None:
    json_log.logger.warning("\x7f\n\u2028 %s", "kh_" + "aB3_-" * 8 + "xyz")

    (line,) = json_log.lines
    assert line.isascii()
    assert json.loads(line)["message"] == "\x7f\n\u2028 kh_(hidden)"


def test_traceback_of_our_logger_stays_on_one_line(our_log: CapturedLog) -> None:
    try:
        raise KeyError("x")
    except KeyError:
        our_log.logger.exception("Unforeseen")

    (line,) = our_log.lines
    assert "Traceback" in line
    assert line.endswith("KeyError: 'x'")


@pytest.mark.parametrize("sign", ["\n", "\r", "\x1b[31m", "\x85", "\u2028"])
def test_control_characters_in_message_are_escaped(our_log: CapturedLog, sign: str) -> None:
    our_log.logger.warning("unknown topic %s", f"x{sign}2026-11-21 all is well")

    (line,) = our_log.lines
    assert sign not in line


def test_repeated_lines_of_our_logger_are_all_written(our_log: CapturedLog) -> None:
    for _ in range(3):
        our_log.logger.warning("again")

    assert len(our_log.lines) == 3


def test_repeated_line_of_kafka_python_is_logged_once_a_minute_with_count(
    kafka_log: CapturedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("kafka_http.logs.time.monotonic", lambda: now)

    for seconds in (0, 1, 59, 61):
        now = 1000.0 + seconds
        kafka_log.logger.warning("Connection %s failed", seconds)
        kafka_log.logger.warning("Something else")

    first, other, later, other_later = kafka_log.lines
    assert first.endswith("Connection 0 failed")
    assert other.endswith("Something else")
    assert later.endswith("Connection 61 failed (repeated 2 times)")
    assert "Something else" in other_later


def test_traceback_of_kafka_python_is_reduced_to_its_exception(kafka_log: CapturedLog) -> None:
    try:
        raise ConnectionResetError("peer")
    except ConnectionResetError:
        kafka_log.logger.exception("Error receiving")

    (line,) = kafka_log.lines
    assert "Traceback" not in line
    assert line.endswith("Error receiving: ConnectionResetError('peer')")


def test_task_that_ends_with_closed_loop_is_not_logged(kafka_log: CapturedLog) -> None:
    """kafka-python logs the task and has the error in `exc_info` alone. Seen at the stop of a server."""
    closed = (RuntimeError("NetworkSelector closed!"), ValueError("Invalid file descriptor: -1"))
    for error in (*closed, RuntimeError("another")):
        try:
            raise error
        except (RuntimeError, ValueError):
            kafka_log.logger.exception("Unhandled exception in task %s:", "<Task>")

    (line,) = kafka_log.lines
    assert line.endswith("RuntimeError('another')")


def test_missing_topic_of_client_is_not_logged(kafka_log: CapturedLog) -> None:
    kafka_log.logger.error("Topic %s not found in cluster metadata", "nope")

    assert kafka_log.lines == []


def test_logger_with_similar_name_is_not_filtered() -> None:
    log_filter = KafkaLogFilter()
    record = logging.makeLogRecord({"name": "kafkaesque", "pathname": "x", "lineno": 1})

    assert log_filter.filter(record)
    assert log_filter.filter(record)


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


def test_debug_level_does_not_log_passwords_of_kafka_python() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    said = [line.partition(" - ")[2] for line in done.stderr.splitlines()]
    assert said == ["kafka_http.x: ours", "kafka.net.connection: Connection lost", "urllib3: someone else's"]


LAST_LINES = """
import threading, warnings
from kafka_http.logs import configure_logging
configure_logging("info", "json")
warnings.warn("old", DeprecationWarning, stacklevel=1)
warnings.simplefilter("always")
warnings.warn("careful", stacklevel=1)
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise ValueError("the end")
"""


def test_warnings_and_uncaught_exceptions_are_json_lines() -> None:
    done = subprocess.run([sys.executable, "-c", LAST_LINES], capture_output=True, text=True, check=False)

    *_, warning, in_thread, at_end = map(json.loads, done.stderr.splitlines())
    assert (warning["logger"], warning["level"]) == ("py.warnings", "WARNING")
    assert "careful" in warning["message"]
    assert "ZeroDivisionError" in in_thread["exception"]
    assert (at_end["level"], at_end["message"]) == ("CRITICAL", "Unexpected error.")
    assert at_end["exception"].endswith("ValueError: the end")
    assert done.returncode == 1


def test_configure_logging_keeps_existing_root_handler() -> None:
    program = "import logging; logging.basicConfig(format='%(message)s'); " + PROGRAM.strip().replace("\n", "; ")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "someone else's" in done.stderr.splitlines()
