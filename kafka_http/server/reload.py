"""SIGHUP: the arbiter reads the settings and their files again, then each worker does.

The arbiter goes first, so that faulty files are reported once, and that later workers inherit what it has read.
"""

import logging
import mmap
import time
from collections.abc import Callable
from threading import Thread

from kafka_http.config import Config, ConfigError
from kafka_http.config.reloading import changes_for_restart
from kafka_http.logs import LogOnce
from kafka_http.server.app_interface import ServerHooks

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
    """Reloads the application in a worker. Its main loop calls `check`."""

    def __init__(self, count: ReloadCount, done: int, hooks: ServerHooks) -> None:
        """`done` is the count when the arbiter created the worker."""
        self._count = count
        self._done = done
        self._hooks = hooks
        self._is_running = False
        self._errors = LogOnce(log, _LOG_SECONDS)

    def check(self) -> None:
        """Start a thread that reloads, if the arbiter has. After a failure, the next call tries again."""
        if self._count.value != self._done and not self._is_running:
            self._is_running = True
            Thread(target=self._run, name="reload", daemon=True).start()

    def _run(self) -> None:
        try:
            while (number := self._count.value) != self._done:
                self._hooks.reload()
                self._done = number
        except Exception as error:
            reason = str(error) if isinstance(error, ConfigError) else type(error).__name__
            self._errors.warning("This worker could not reload and keeps what it has. Retrying: %s", reason)
        finally:
            self._is_running = False


def _milliseconds(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
