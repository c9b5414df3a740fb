"""A worker process of granian's: what the application is told of its life, and how it ends."""

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.util import Finalize
from threading import Lock, Thread
from typing import TYPE_CHECKING

from kafka_http.config import Config
from kafka_http.logs import configure_logging
from kafka_http.server.granian.access_log import AccessLog, open_access_log
from kafka_http.server.granian.answers import Answers
from kafka_http.server.granian.threadless import Threadless, take_first
from kafka_http.server.lifecycle import FLUSH_SECONDS, Lifecycle, lifecycle_of, stop_seconds

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

LINGER_SECONDS = 2.0
"""How long a stop waits for clients to whom nothing is owed, such as one that stopped amid a request's head."""

HURRY = signal.SIGUSR1
"""Tells a worker that stops not to wait for the requests in flight."""


def load(config: Config, load_app: Callable[[Config], "WSGIApplication"]) -> "WSGIApplication":
    """The application for this worker process. To be called by its main thread."""
    _forget_what_looks_like_headers()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, HURRY})
    configure_logging(config.log_level)  # again where this process was not forked
    app = load_app(config)
    lifecycle = lifecycle_of(app)
    if config.access_log:
        open_access_log()
    answers = Answers(AccessLog(app) if config.access_log else app)
    counted: list[Answers | Threadless] = [answers, *_threadless(lifecycle, access_log=config.access_log)]
    end = _End(lifecycle, lambda: sum(each.in_flight for each in counted), stop_seconds(config) - FLUSH_SECONDS)
    Finalize(None, end.close, exitpriority=0)  # when granian's own part is over
    end.watch()
    if lifecycle is not None and hasattr(lifecycle, "started"):
        lifecycle.started()
    return answers


def _threadless(lifecycle: Lifecycle | None, *, access_log: bool) -> list[Threadless]:
    """What takes publishes that need no thread, where that is wanted."""
    publishes = getattr(lifecycle, "publishes", None)
    if publishes is None:
        return []
    threadless = Threadless(publishes, access_log=access_log)
    take_first(threadless.take)
    return [threadless]


def _forget_what_looks_like_headers() -> None:
    """granian puts the environment into each request's: HTTP_FORWARDED would be a header of all clients.

    HTTP_PROXY stays: clients in this process look for their proxy there, and nobody here for a header `Proxy`.
    """
    for name in [*os.environ]:
        if name.startswith(("HTTP_", "CONTENT_")) and name != "HTTP_PROXY":
            del os.environ[name]


class _End:
    """The end of a worker: after SIGTERM, or without its parent.

    A thread waits for the signals, which are blocked in all: a terminal and systemd send some to the parent and to its
    workers alike, and the second would let granian hang, whose handler takes a lock that the main thread may hold.
    """

    def __init__(self, lifecycle: Lifecycle | None, in_flight: Callable[[], int], patience: float) -> None:
        """`in_flight`: how many requests are. `patience`: seconds for them."""
        self._lifecycle = lifecycle
        self._in_flight = in_flight
        self._patience = patience
        self._lock = Lock()
        self._closed = False

    def watch(self) -> None:
        Thread(target=_watch_parent, name="parent", daemon=True).start()
        Thread(target=self._watch, name="end", daemon=True).start()

    def _watch(self) -> None:
        signal.sigwait({signal.SIGTERM})
        if self._lifecycle is not None and hasattr(self._lifecycle, "stopping"):
            self._lifecycle.stopping()
        told = signal.getsignal(signal.SIGTERM)
        if callable(told):
            told(signal.SIGTERM, None)  # granian's own handler, which is as good in this thread
        self._wait_until_quiet()
        self.close()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(0)

    def _wait_until_quiet(self) -> None:
        """Wait until granian has ended what is in flight, which ends this thread too, or should have."""
        quiet_since = now = time.monotonic()
        deadline = now + self._patience
        while now < deadline and now < quiet_since + LINGER_SECONDS and HURRY not in signal.sigpending():
            time.sleep(0.1)
            now = time.monotonic()
            if self._in_flight():
                quiet_since = now

    def close(self) -> None:
        """Let the application hand over what it holds. Once is enough."""
        with self._lock:
            if self._closed or self._lifecycle is None:
                return
            self._closed = True
            try:
                self._lifecycle.close(FLUSH_SECONDS)
            except Exception:
                log.exception("The application did not close in order")


def _watch_parent() -> None:
    """Stop without it as after SIGTERM."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
