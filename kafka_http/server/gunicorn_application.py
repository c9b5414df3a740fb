"""`kafka-http serve`: gunicorn with our settings, our worker class and our log lines."""

import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from kafka_http.config import Config
from kafka_http.config.settings import is_loopback
from kafka_http.logs import LineFormatter, configure_logging
from kafka_http.server.app_interface import lifecycle_of, stop_seconds
from kafka_http.server.worker import Worker

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

LoadApp = Callable[[Config], "WSGIApplication"]

_POLLED_PATH = re.compile(r"/(messages/[^/]+(/[^/]+)?|instances|tasks)")


class CannotServe(Exception):
    """The server cannot start. The message is a sentence for the user."""


def run(
    config: Config,
    when_ready: Callable[[], None] | None = None,
    load_app: LoadApp | None = None,
    *,
    reloads: bool = True,
) -> None:
    """Serve until SIGTERM or SIGINT; a second SIGINT does not wait for the requests in flight.

    `reloads`: SIGHUP replaces the workers gracefully, unless standard input is a terminal, whose end it then is.
    Otherwise it stops the server.

    Call it in the main thread. `when_ready` is called once connections are accepted. Raises `ConfigError`,
    `CannotServe`. The worker processes are forked from here and end here: none returns to the caller or runs his
    `finally` clauses and `atexit` functions.
    """
    configure_logging(config.log_level)
    app = (load_app or _create_app)(config)
    check_address(config)
    warn_of_strangers(config)
    main_process = os.getpid()
    signals = {number: signal.getsignal(number) for number in (*Arbiter.SIGNALS, signal.SIGCHLD)}
    try:
        _Application(config, app, when_ready, reloads=reloads and not _has_terminal()).run()
    except BaseException as end:
        if os.getpid() != main_process:
            _end_worker(end)
        if not isinstance(end, SystemExit):
            raise
        if end.code:
            raise CannotServe("The server has ended; the lines above say why.") from None
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)


def check_config(config: Config) -> None:
    """Check all settings as a start does, without a start. Raises `ConfigError`."""
    _create_app(config)


def check_address(config: Config) -> None:
    """Try to listen on `bind`, since gunicorn's own error says nothing that helps. Raises `CannotServe`."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))
            probe.listen()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CannotServe(
            f"Cannot listen on {config.bind}: {reason}. Stop what listens there, or choose another with --bind."
        ) from None


def warn_of_strangers(config: Config) -> None:
    """Say so where others than this machine can reach the server."""
    if not is_loopback(config.host):
        log.warning(
            "Listening on %s, which others can reach, and nobody is asked who he is: whoever gets there may read and "
            "write all that this server may.", config.bind
        )  # fmt: skip


def _create_app(config: Config) -> "WSGIApplication":
    from kafka_http.app import create_app

    return create_app(config)


def _has_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:  # it is closed
        return False


def _end_worker(end: BaseException) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    code = end.code if isinstance(end, SystemExit) else 1
    os._exit(code if isinstance(code, int) else 1 if code else 0)


class _Application(BaseApplication):
    def __init__(
        self, config: Config, app: "WSGIApplication", when_ready: Callable[[], None] | None, *, reloads: bool
    ) -> None:
        self._reloads = reloads
        self._config = config
        self._app = app
        self._when_ready = when_ready
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_settings(self._config).items():
            self.cfg.set(name, value)
        if self._when_ready:
            tell = self._when_ready
            self.cfg.set("when_ready", lambda _: tell())
        self.cfg.set("post_worker_init", _check_brokers)

    def load(self) -> Any:
        return self._app

    def run(self) -> None:
        _Arbiter(self, reloads=self._reloads).run()


def _check_brokers(worker: Worker) -> None:
    """Once a start: in the first worker, since a connection of the arbiter would be inherited by all of them."""
    lifecycle = lifecycle_of(worker.wsgi)
    if worker.age == 1 and lifecycle is not None and hasattr(lifecycle, "check_brokers"):
        lifecycle.check_brokers()


class _Arbiter(Arbiter):
    """Ctrl-C, and the end of the terminal, stop as SIGTERM does; a second Ctrl-C is quick."""

    def __init__(self, app: BaseApplication, *, reloads: bool) -> None:
        self._reloads = reloads
        super().__init__(app)

    def init_signals(self) -> None:
        under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        super().init_signals()
        if under_nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def handle_int(self) -> None:
        self.handle_term()

    def handle_hup(self) -> None:
        if self._reloads:
            super().handle_hup()
        else:
            self.handle_term()


class _Logger(Logger):
    """gunicorn's events among ours, its access log in the same form."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in list(self.error_log.handlers):
            self.error_log.removeHandler(handler)
        self.error_log.propagate = True
        for handler in self.access_log.handlers:
            handler.setFormatter(LineFormatter())


class _LoggerBesideConsole(_Logger):
    """Leaves the calls that an open console page repeats out of the access log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.access_log.addFilter(_is_not_polling)  # adds the same function once only


def _is_not_polling(record: logging.LogRecord) -> bool:
    """False for a successful GET of metadata that the console marked. Reads and writes of messages are always
    logged, so that a client cannot hide them by the header."""
    atoms: Any = record.args
    return not (
        atoms["{x-console-poll}i"] != "-"
        and atoms["m"] == "GET"
        and str(atoms["s"]) == "200"
        and _POLLED_PATH.fullmatch(atoms["U"])
    )


def gunicorn_settings(config: Config) -> dict[str, Any]:
    """gunicorn's settings by their names."""
    return {
        "bind": config.bind,
        "workers": config.workers,
        "threads": config.threads,
        "worker_class": Worker,
        "worker_connections": config.threads + 1000,  # what is above `threads` may be kept alive
        "preload_app": True,
        "proc_name": "kafka-http",
        "keepalive": config.keepalive,
        "graceful_timeout": stop_seconds(config),
        "control_socket_disable": True,  # by default one in the home directory, shared by all servers of a user
        "limit_request_line": 8190,  # gunicorn's greatest: about 550 partitions in a position
        "limit_request_field_size": 8190,  # as nginx's
        "forwarded_allow_ips": ",".join(config.trusted_proxies),
        "forwarder_headers": "",  # else a client of a trusted proxy could set its PATH_INFO
        "logger_class": _LoggerBesideConsole if config.console else _Logger,
        "loglevel": config.log_level,
        "accesslog": "-" if config.access_log else None,
        "access_log_format": '%(h)s "%(r)s" %(s)s %(B)s bytes %(M)s ms "%(a)s"',
    }
