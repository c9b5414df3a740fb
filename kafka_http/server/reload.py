"""SIGHUP: the arbiter reads the settings and their files again, then each worker does.

The arbiter goes first, so that faulty files are reported once, and that later workers inherit what it has read.
"""

import logging
import mmap
import signal
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

from kafka_http.config import Config, ConfigError
from kafka_http.config.reloading import changes_for_restart
from kafka_http.event_loop import EventLoop
from kafka_http.logs import LogOnce
from kafka_http.server.app_interface import DefaultHooks, ServerHooks

log = logging.getLogger(__name__)

_LOG_SECONDS = 60.0


class ReloadCount:
    """The number of reloads, in memory that the arbiter shares with its workers. Created before the fork.

    A signal alone could be lost: a worker that has just been forked still has the arbiter's handlers.
    """

    def __init__(self) -> None:
        self._shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    @property
    def value(self) -> int:
        return self._shared[0]

    def increment(self) -> None:
        """Let each worker reload. Only the arbiter calls this."""
        self._shared[0] += 1


class ArbiterReload:
    """Reloads the application in the arbiter."""

    def __init__(self, config: Config, hooks: ServerHooks, on_success: Callable[[Config], None]) -> None:
        """`config` has the settings of the start. `on_success` gets those of each reload."""
        self.count = ReloadCount()
        self._config = config
        self._hooks = hooks
        self._on_success = on_success

    def run(self) -> bool:
        """Reload, and return whether the workers must follow. A faulty file changes nothing and is logged."""
        started = time.monotonic()
        try:
            config = self._config.loaded_again()
            self._hooks.reload()
        except ConfigError as error:
            log.error("Reload failed, nothing has changed: %s", error)
            return False
        except Exception:
            log.exception("Reload failed, nothing has changed.")
            return False
        log.info("Reloaded users, keys, rules, limits, origins and certificates (%d ms).", _milliseconds(started))
        if changed := changes_for_restart(self._config, config):
            log.warning("These settings have changed and need a restart: %s.", ", ".join(changed))
        self._on_success(config)
        self.count.increment()
        return True


class WorkerReload:
    """Reloads the application in a worker after the arbiter has. The arbiter creates it; the main loop calls it."""

    def __init__(self, app: Any) -> None:
        """`app` is gunicorn's application. Without an `arbiter_reload`, nothing is ever reloaded."""
        reload: ArbiterReload | None = getattr(app, "arbiter_reload", None)
        self._count = None if reload is None else reload.count
        self._done = 0 if self._count is None else self._count.value  # what the worker inherits
        self._hooks: ServerHooks = DefaultHooks()
        self._is_running = False
        self._errors = LogOnce(log, _LOG_SECONDS)

    def start(self, hooks: ServerHooks, loop: EventLoop) -> None:
        """Begin to handle SIGHUP. It says no more than that the count may have changed: a terminal sends it, too."""
        if self._count is None:
            return
        self._hooks = hooks
        signal.signal(signal.SIGHUP, lambda *_: loop.call_soon(self.check))
        signal.siginterrupt(signal.SIGHUP, False)
        self.check()

    def check(self) -> None:
        """Start a thread that reloads, if the arbiter has. After a failure, the next call tries again."""
        if self._count is not None and self._count.value != self._done and not self._is_running:
            thread = Thread(target=self._run, args=(self._count,), name="reload", daemon=True)
            self._is_running = True
            try:
                thread.start()
            except RuntimeError as error:  # there are too many threads
                self._is_running = False
                self._fail(str(error))

    def _run(self, count: ReloadCount) -> None:
        try:
            while (number := count.value) != self._done:
                self._hooks.reload()
                self._done = number
        except Exception as error:
            self._fail(str(error) if isinstance(error, ConfigError) else type(error).__name__)
        finally:
            self._is_running = False

    def _fail(self, reason: str) -> None:
        self._errors.warning("This worker could not reload and keeps what it has. Retrying: %s", reason)


def _milliseconds(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
