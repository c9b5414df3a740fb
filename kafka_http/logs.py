"""Logging: one line for each event, with time, level, process, request id, logger and message.

A line is a text, or with `log_format = "json"` a JSON object.

Control characters in a message are escaped, so that a client's text cannot forge a line. API keys are hidden wherever
they occur.

kafka-python logs each retry several times (21 lines per second and process while a broker is down). Each place in its
code is therefore logged once a minute, with the number of repetitions and without a traceback.
"""

import json
import logging
import re
import sys
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, TextIO

LogFormat = Literal["text", "json"]

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that this thread handles. It stays set until the next request, so that the access log, which is
written after the response, has it, too."""

_FORMAT = "%(asctime)s %(levelname)s %(process)d %(request_id)s %(name)s: %(message)s"
_QUIET_SECONDS = 60.0
_CLOSE_ERRORS = {
    *("Cancelled()", "GeneratorExit()", "KafkaConnectionError()"),
    "RuntimeError('NetworkSelector closed!')",
    "ValueError('Invalid file descriptor: -1')",  # a task that reads from a socket that this side closed
}
_MISSING_TOPIC = "Topic %s not found in cluster metadata"
_CLOSE_MESSAGE = re.compile(r"failed: (Cancelled|KafkaConnectionError) \(")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_API_KEY = re.compile(r"kh_[A-Za-z0-9_-]{43}")
_NOT_IN_A_WORD = re.compile(r'[\s"%\\]')
_KAFKA_LEVELS = {
    # DEBUG shows passwords, INFO shows each connection.
    "kafka": logging.WARNING,
    # Their warnings are about single retries. kafka.net.manager logs failed connections and the reasons as errors.
    "kafka.cluster": logging.ERROR,
    "kafka.net.manager": logging.ERROR,
    "kafka.net.transport": logging.CRITICAL,
    "kafka.net.selector": logging.ERROR,  # it warns of a step of 0.1 s on a busy machine
    # It warns of a password over plain TCP for each connection, but that is the user's choice of security_protocol.
    "kafka.net.sasl": logging.ERROR,
}


def word_text(name: str) -> str:
    """Return a name, such as that of a principal, as one word of a log line.

    Spaces, quotes and percent signs are encoded as in URLs. It is `-` without a name.
    """
    if name == "-":
        return "%2D"
    return _NOT_IN_A_WORD.sub(lambda found: "".join(f"%{each:02X}" for each in found[0].encode()), name) or "-"


class StructuredMessage:
    """The only argument of a log call whose message has fields of its own. `str` is the message of a text line."""

    def fields(self) -> Mapping[str, Any]:
        """Return the fields that a JSON line has in addition, and `message`."""
        raise NotImplementedError


class LineFormatter(logging.Formatter):
    """Formats a record as one line. The line ends of a traceback are escaped like all control characters.

    API keys are hidden, wherever a client has put one: into a parameter of another name than `access_key`, or a path.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        line = _API_KEY.sub("kh_(hidden)", self._line(record))
        return _CONTROL.sub(self._escape, line)

    def _line(self, record: logging.LogRecord) -> str:
        return super().format(record) + _repetitions(record)

    @staticmethod
    def _escape(found: re.Match[str]) -> str:
        return found[0].encode("unicode_escape").decode()


class JsonFormatter(LineFormatter):
    """Formats a record as a JSON object on one line, in ASCII."""

    def _line(self, record: logging.LogRecord) -> str:
        fields = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage() + _repetitions(record),
            "process": record.process,
        }
        if (sent_id := request_id.get()) != "-":
            fields["request_id"] = sent_id
        if isinstance(record.args, tuple) and len(record.args) == 1 and isinstance(record.args[0], StructuredMessage):
            fields |= record.args[0].fields()
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        return json.dumps(fields)

    @staticmethod
    def _escape(found: re.Match[str]) -> str:
        return f"\\u{ord(found[0]):04x}"


def _repetitions(record: logging.LogRecord) -> str:
    repeated = getattr(record, "repeated", 0)
    return f" (repeated {repeated} times)" if repeated else ""


def line_formatter(log_format: LogFormat) -> LineFormatter:
    """Return the formatter of our lines."""
    return JsonFormatter() if log_format == "json" else LineFormatter()


class KafkaLogFilter(logging.Filter):
    """Passes a record of kafka-python only if its place in the code was not logged for a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: dict[tuple[str, int], tuple[float, int]] = {}
        """For each place in the code: when it was last logged, and how often it was skipped since then."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != "kafka" and not record.name.startswith("kafka."):
            return True
        if _is_normal_operation(record):
            return False
        location, now = (record.pathname, record.lineno), time.monotonic()
        logged_at, skipped = self._logged.get(location, (-_QUIET_SECONDS, 0))
        if now - logged_at < _QUIET_SECONDS:
            self._logged[location] = logged_at, skipped + 1
            return False
        self._logged[location] = now, 0
        record.repeated = skipped
        _remove_traceback(record)
        return True


def _is_normal_operation(record: logging.LogRecord) -> bool:
    """Whether kafka-python logs an error although nothing failed.

    * It logs `Cancelled`, a `KafkaConnectionError` without a text, "NetworkSelector closed!" or a file descriptor of -1
      when this side closes a client while something is in progress.
    * It logs "Connection lost" when a broker closes an idle connection. If there is a real problem, the next connection
      fails, which it logs, too.
    * It logs each missing topic that a client names. The client gets a 404.
    """
    args = record.args if isinstance(record.args, tuple) else ()
    if not args:
        return _CLOSE_MESSAGE.search(str(record.msg)) is not None
    connection: Any = args[0]
    error: Any = args[-1]
    raised = record.exc_info[1] if record.exc_info else None
    if repr(error) in _CLOSE_ERRORS or repr(raised) in _CLOSE_ERRORS or record.msg == _MISSING_TOPIC:
        return True
    if not str(record.msg).endswith("Connection lost: %s"):
        return False
    if type(error).__name__ == "Unreachable":  # it was never connected, and "Connection failed" was logged
        return True
    return (
        "socket disconnected" in str(error)
        and connection.init_future.succeeded()
        and not (connection.in_flight_requests or connection._request_buffer)
    )


def _remove_traceback(record: logging.LogRecord) -> None:
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


def log_handler(stream: TextIO, log_format: LogFormat = "text") -> logging.Handler:
    """A handler that writes our lines to a stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(line_formatter(log_format))
    handler.addFilter(KafkaLogFilter())
    return handler


def configure_logging(level: str, log_format: LogFormat = "text") -> None:
    """Log to stderr, our own loggers from `level`. No effect if the root logger has a handler already.

    Warnings of Python and exceptions that nothing catches are logged, too: nothing else writes lines to stderr.
    """
    logging.raiseExceptions = False  # a closed stderr must not make logging print records, which may hold headers
    if logging.root.handlers:
        return
    logging.root.addHandler(log_handler(sys.stderr, log_format))
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    logging.getLogger("kafka_http").setLevel(level.upper())
    for name, kafka_level in _KAFKA_LEVELS.items():
        logging.getLogger(name).setLevel(kafka_level)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if error is not None and not issubclass(kind, KeyboardInterrupt | SystemExit):
        logging.getLogger("kafka_http").critical("Unexpected error.", exc_info=(kind, error, traceback))


def logs_json() -> bool:
    """Return whether this process logs JSON."""
    return any(isinstance(each.formatter, JsonFormatter) for each in logging.root.handlers)
