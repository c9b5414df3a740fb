"""One line an event: time, level, process, request, logger, what happened.

Control characters in a message are escaped, so that what a client sends cannot forge a line. kafka-python says each
retry several times (21 lines a second and process while a broker is down): what it says from one place in its code
comes once a minute, with the number of times it stands for, without traceback.
"""

import logging
import re
import sys
import time
from contextvars import ContextVar
from typing import Any, TextIO

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that this thread is at. Set at the start of each request and left until the next, so that
the access log, written after the answer, has it too."""

_FORMAT = "%(asctime)s %(levelname)s %(process)d %(request_id)s %(name)s: %(message)s"
_QUIET_SECONDS = 60.0
_OF_OWN_CLOSE = {
    *("Cancelled()", "GeneratorExit()", "KafkaConnectionError()"),
    "RuntimeError('NetworkSelector closed!')",
    "ValueError('Invalid file descriptor: -1')",  # a task that reads from a socket that was closed on this side
}
_MISSING_TOPIC = "Topic %s not found in cluster metadata"
_OWN_CLOSE = re.compile(r"failed: (Cancelled|KafkaConnectionError) \(")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_KAFKA_LEVELS = {
    # DEBUG shows passwords, INFO each connection.
    "kafka": logging.WARNING,
    # What these warn of is each single retry; that a connection failed, and why, kafka.net.manager says as an error.
    "kafka.cluster": logging.ERROR,
    "kafka.net.manager": logging.ERROR,
    "kafka.net.transport": logging.CRITICAL,
    "kafka.net.selector": logging.ERROR,  # a step of 0.1 s on a busy machine
    # A password over plain TCP is what security_protocol says; no need to repeat it with each connection.
    "kafka.net.sasl": logging.ERROR,
}


class LineFormatter(logging.Formatter):
    """A record as one line. Tracebacks are kept, their line ends escaped as every control character."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        repeated = getattr(record, "repeated", 0)
        line = super().format(record) + (f" (and {repeated} times more since it last said so)" if repeated else "")
        return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), line)


class OncePerMinute(logging.Filter):
    """Lets a record of kafka-python pass where its place in the code has said nothing for a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != "kafka" and not record.name.startswith("kafka."):
            return True
        if _is_no_failure(record):
            return False
        place, now = (record.pathname, record.lineno), time.monotonic()
        since, unsaid = self._said.get(place, (-_QUIET_SECONDS, 0))
        if now - since < _QUIET_SECONDS:
            self._said[place] = since, unsaid + 1
            return False
        self._said[place] = now, 0
        record.repeated = unsaid
        _shorten(record)
        return True


def _is_no_failure(record: logging.LogRecord) -> bool:
    """Whether kafka-python logs as an error what belongs to normal operation.

    It logs `Cancelled`, a `KafkaConnectionError` without a text, "NetworkSelector closed!" or a file descriptor of -1
    where a client was closed on this side while something was in progress. It logs "Connection lost" where a broker
    closes a connection that is idle; if more is wrong than that, the next connection fails, which it logs as well. And
    it logs each topic that a client names and that is not there: the client gets a 404.
    """
    args = record.args if isinstance(record.args, tuple) else ()
    if not args:
        return _OWN_CLOSE.search(str(record.msg)) is not None
    connection: Any = args[0]
    error: Any = args[-1]
    raised = record.exc_info[1] if record.exc_info else None
    if repr(error) in _OF_OWN_CLOSE or repr(raised) in _OF_OWN_CLOSE or record.msg == _MISSING_TOPIC:
        return True
    if not str(record.msg).endswith("Connection lost: %s"):
        return False
    if type(error).__name__ == "Unreachable":  # it was never there: "Connection failed" has said so
        return True
    return (
        "socket disconnected" in str(error)
        and connection.init_future.succeeded()
        and not (connection.in_flight_requests or connection._request_buffer)
    )


def _shorten(record: logging.LogRecord) -> None:
    if record.exc_info:
        record.msg, record.args = f"{record.getMessage()}: {record.exc_info[1]!r}", None
        record.exc_info = None


class LogOnce:
    """Logs a warning when it first occurs and when its text changes, not each time that a retry fails again.

    `interval` is the time in seconds after which the same text is logged again. Any thread may use it; a race logs a
    line twice.
    """

    def __init__(self, logger: logging.Logger, interval: float = float("inf")) -> None:
        self._logger = logger
        self._interval = interval
        self._last = ""
        self._logged_at = 0.0

    def warning(self, message: str, *args: object) -> None:
        """Log `message % args` unless it was the last warning, less than `interval` ago."""
        text = message % args if args else message
        now = time.monotonic()
        if text == self._last and now - self._logged_at < self._interval:
            return
        self._last, self._logged_at = text, now
        self._logger.warning("%s", text)

    def clear(self) -> bool:
        """Forget the last warning, because the problem is over. Return whether there was one."""
        had_problem = self._last != ""
        self._last = ""
        return had_problem


def log_handler(stream: TextIO) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    handler.addFilter(OncePerMinute())
    return handler


def configure_logging(level: str) -> None:
    """Log to stderr, ours from `level` on. Whoever has given the root logger a handler before keeps what he has."""
    logging.raiseExceptions = False  # else a log nobody reads any more shows what it could not say, headers too
    if logging.root.handlers:
        return
    logging.root.addHandler(log_handler(sys.stderr))
    logging.getLogger("kafka_http").setLevel(level.upper())
    for name, lowest in _KAFKA_LEVELS.items():
        logging.getLogger(name).setLevel(lowest)
