"""Runs gunicorn for `kafka-http serve`, with the settings, the worker class and the log format of this server."""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from kafka_http.config import Config
from kafka_http.config.settings import is_loopback
from kafka_http.logs import LogFormat, configure_logging, line_formatter
from kafka_http.server.access_log import AccessLogger
from kafka_http.server.app_interface import ServerHooks, hooks_of, stop_seconds
from kafka_http.server.reload import ArbiterReload
from kafka_http.server.service_manager import FIRST_LISTENER, ServiceManager, listener_address, passed_listeners
from kafka_http.server.start_log import log_start
from kafka_http.server.worker import Worker

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)
_server_log = logging.getLogger("kafka_http.server")


_START_POLL_SECONDS = 0.1
_NODE_STOP_SECONDS = 5.0


class CannotServe(Exception):
    """The server cannot start. The message says why and is meant for the user."""


def run(
    config: Config,
    when_ready: Callable[[], None] | None = None,
    load_app: Callable[[Config], "WSGIApplication"] | None = None,
    *,
    reloads: bool = True,
) -> None:
    """Serve until SIGTERM or SIGINT. A second SIGINT does not wait for the requests in flight.

    Call it in the main thread. The worker processes are forked and end in this function: they do not return to the
    caller, and run neither its `finally` clauses nor its `atexit` functions.

    `when_ready` is called when the server accepts connections. `load_app` replaces `kafka_http.app.create_app`.
    `reloads`: SIGHUP reads users, keys, rules and certificates again, unless standard input is a terminal, which SIGHUP
    reports closed. Otherwise SIGHUP stops the server.

    Raises `ConfigError` if a setting is wrong, and `CannotServe` if the server cannot start or ends with an error.
    """
    configure_logging(config.log_level, config.log_format)
    app = (load_app or _create_app)(config)
    _check_address(config)
    hooks_of(app).check_before_fork()
    log_start(config)
    _warn_if_exposed(hooks_of(app), config)
    main_process = os.getpid()
    signals = {number: signal.getsignal(number) for number in (*Arbiter.SIGNALS, signal.SIGCHLD)}
    if config.tls_cert:
        _server_log.addFilter(_say_https)
    try:
        _Application(config, app, when_ready, reloads=reloads and not _has_terminal()).run()
    except BaseException as end:
        if os.getpid() != main_process:
            _end_worker(end)
        if not isinstance(end, SystemExit):
            raise
        if end.code:
            raise CannotServe("The server stopped with an error. See the log lines above.") from None
    finally:
        hooks_of(app).end()
        for number, handler in signals.items():
            signal.signal(number, handler)
        _server_log.removeFilter(_say_https)


def _say_https(record: logging.LogRecord) -> bool:
    """Log the URL of this server as https: gunicorn knows of its own TLS only."""
    if record.msg.startswith("Listening at:") and isinstance(record.args, tuple):
        record.args = tuple(each.replace("http:", "https:") if isinstance(each, str) else each for each in record.args)
    return True


def check_config(config: Config) -> None:
    """Check all settings as `run` does, without starting the server. Raises `ConfigError`."""
    _create_app(config)


def _check_address(config: Config) -> None:
    """Try to listen on `bind`, because gunicorn's own error does not help. Raises `CannotServe`."""
    if count := passed_listeners():
        _check_passed_listener(config, count)
        return
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))
            probe.listen()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CannotServe(
            f"Cannot listen on {config.bind}: {reason}. Stop the program that uses this address, or choose another "
            "address with --bind."
        ) from None


def _check_passed_listener(config: Config, count: int) -> None:
    """Check that systemd has passed one socket, on `bind`: rights and links depend on that setting."""
    try:
        address = listener_address(FIRST_LISTENER)
    except OSError as error:
        raise CannotServe(f"Cannot listen on the socket that systemd has passed: {error}") from None
    expected = {info[4][:2] for info in socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)}
    if count != 1 or address not in expected:
        raise CannotServe(
            f"systemd has passed {count} sockets, the first one on port {address[1]} of {address[0]}. The setting bind "
            f"is {config.bind}. Pass one socket, and set bind to the ListenStream= of the socket unit."
        )


def _warn_if_exposed(hooks: ServerHooks, config: Config) -> None:
    """Log a warning if other hosts can reach the server and it does not authenticate them."""
    if not is_loopback(config.host) and not hooks.has_authentication:
        log.warning(
            "Listening on %s without authentication: everyone who can reach this address can read and write all topics "
            "that this server can. Add the section [auth]. With require_auth, the server does not start like this.",
            config.bind,
        )


def _create_app(config: Config) -> "WSGIApplication":
    from kafka_http.app import create_app

    return create_app(config)


def _has_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:  # standard input is closed
        return False


def _end_worker(end: BaseException) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    code = end.code if isinstance(end, SystemExit) else 1
    os._exit(code if isinstance(code, int) else int(bool(code)))


class _Application(BaseApplication):
    def __init__(
        self, config: Config, app: "WSGIApplication", when_ready: Callable[[], None] | None, *, reloads: bool
    ) -> None:
        self.config = config
        self._app = app
        self._when_ready = when_ready
        self.stop_node = hooks_of(app).stop_node
        self.service_manager = ServiceManager()
        hooks = hooks_of(app)
        on_success = partial(_warn_if_exposed, hooks)
        self.arbiter_reload = ArbiterReload(config, hooks, on_success) if reloads else None
        """None if SIGHUP stops the server. The workers use its count."""
        super().__init__()

    def load_config(self) -> None:
        for name, value in _gunicorn_settings(self.config).items():
            self.cfg.set(name, value)
        if when_ready := self._when_ready:
            self.cfg.set("when_ready", lambda _: when_ready())
        self.cfg.set("post_worker_init", _check_brokers)

    def load(self) -> Any:
        return self._app

    def run(self) -> None:
        _Arbiter(self).run()


def _check_brokers(worker: Worker) -> None:
    """Check the brokers once, in the first worker: all workers would inherit a connection of the arbiter."""
    if worker.age == 1:
        hooks_of(worker.wsgi).check_brokers()


class _Arbiter(Arbiter):
    """Handles Ctrl-C and the end of the terminal like SIGTERM. A second Ctrl-C does not wait for requests.

    SIGHUP reloads without new workers, so that connections and streams stay. It tells systemd the state of the server.
    """

    def __init__(self, app: _Application) -> None:
        self._application = app
        self._manager = app.service_manager
        super().__init__(app)

    def init_signals(self) -> None:
        under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        super().init_signals()
        if under_nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def handle_int(self) -> None:
        self.handle_term()

    def handle_hup(self) -> None:
        if self._application.arbiter_reload is None:
            self.handle_term()
            return
        self._manager.reloading()
        if self._application.arbiter_reload.run():
            self.kill_workers(signal.SIGHUP)  # they only look at the count
            self._manager.ready(self._status)
        else:
            self._manager.ready("The last reload failed, nothing has changed. See the log.")

    def handle_usr2(self) -> None:
        """Do not start a second server beside this one, as gunicorn does: both would use the same data directory."""
        _server_log.warning("SIGUSR2 has no effect. The page Deployment of the manual describes upgrades.")

    # The state for systemd

    @property
    def _status(self) -> str:
        return f"Listening on {self._application.config.bind}. Workers: {self.num_workers}."

    def wait_for_signals(self, timeout: float | None = 1.0) -> list[int]:
        """Wait for signals. Until the first worker is ready, only for a moment."""
        is_starting = self._manager.is_present and not self._manager.is_ready
        signals: list[int] = super().wait_for_signals(_START_POLL_SECONDS if is_starting else timeout)
        return signals

    def murder_workers(self) -> None:
        """Kill hung workers. gunicorn calls this at least once per second."""
        super().murder_workers()
        silences = self._silences()
        if silences and not self._manager.is_ready:
            self._manager.ready(self._status)
        self._manager.ping(silences)

    def reap_workers(self) -> None:
        """Collect ended workers. gunicorn calls this again and again while it stops."""
        super().reap_workers()
        self._manager.ping(self._silences())

    def _silences(self) -> list[float]:
        """Return the seconds since the last sign of life of each worker that has begun to accept connections."""
        now, found = time.monotonic(), []
        for worker in list(self.WORKERS.values()):
            with suppress(OSError, ValueError):  # it has just ended
                found.append(now - worker.tmp.last_update())
        return [each for each in found if each >= 0]  # until its first sign, a worker's file has the time of the day

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers, then what else would be killed at the end of this process."""
        end = time.monotonic() + self.cfg.graceful_timeout
        self._manager.stopping()
        super().stop(graceful)
        if self._manager.is_present or 1 in (os.getpid(), os.getppid()):
            self._application.stop_node(min(_NODE_STOP_SECONDS, max(1.0, end - time.monotonic())))


class _Logger(AccessLogger):
    """Logs gunicorn's events as `kafka_http.server`, and the access log in the same format as all other lines."""

    log_format: LogFormat

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in list(self.error_log.handlers):  # gunicorn adds one each time
            self.error_log.removeHandler(handler)
        self.error_log = _server_log
        if cfg.loglevel == "debug":
            self.access_log.setLevel(logging.DEBUG)
        for handler in self.access_log.handlers:
            handler.setFormatter(line_formatter(self.log_format))


def _logger_class(config: Config) -> type[_Logger]:
    """Return the class that gunicorn makes its logger of. It passes its own settings only."""

    class ConfiguredLogger(_Logger):
        log_format = config.log_format
        has_console = config.console

    return ConfiguredLogger


def _gunicorn_settings(config: Config) -> dict[str, Any]:
    """Return gunicorn's settings by name."""
    return {
        "bind": config.bind,
        "workers": config.workers,
        "threads": config.threads,
        "worker_class": Worker,
        "worker_connections": config.threads + 1000,  # connections above `threads` may be idle
        "preload_app": True,
        "proc_name": "kafka-http",
        "keepalive": config.keepalive,
        "graceful_timeout": stop_seconds(config),
        "control_socket_disable": True,  # by default all servers of a user share one in the home directory
        "limit_request_line": 8190,  # gunicorn's maximum; a position of about 550 partitions
        "limit_request_field_size": 8190,  # the same as in nginx
        "forwarded_allow_ips": ",".join(config.trusted_proxies),
        "forwarder_headers": "",  # otherwise a client behind a trusted proxy could set PATH_INFO
        "logger_class": _logger_class(config),
        "loglevel": config.log_level,
        "accesslog": "-" if config.access_log else None,
    }
