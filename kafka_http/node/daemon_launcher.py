"""Connects a worker to the node's daemon, and starts the daemon if there is none."""

import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from kafka_http.config import Config
from kafka_http.errors import Unavailable
from kafka_http.node.daemon_protocol import VERSION, Channel, Hello, Rejected, Stopping, Welcome, greetings
from kafka_http.node.data_directory import DataDirectory

log = logging.getLogger(__name__)

_GREETING_SECONDS = 5.0
_MIN_GREETING_SECONDS = 0.1
_START_SECONDS = 20.0
_RESTART_DELAY = 1.0
_NOT_FOR_DAEMON = frozenset(
    (
        *("sources", "auth", "access", "access_rules", "limits", "require_auth"),
        *("cors_origins", "cors_credentials", "cors_max_age", "tls_cert", "tls_key", "tls_key_password"),
        *("tls_client_ca", "tls_client_required", "tls_min_version", "node_tls_ca"),
    )
)
"""Settings of workers. They may change, and hold secrets, and the daemon does not need them."""


class DaemonMissing(Exception):
    """There is no daemon, or it is stopping."""


class NotResponding(Unavailable):
    """The daemon's process runs and does not answer."""

    def __init__(self) -> None:
        super().__init__("The server's daemon does not respond. Retry.")


def settings_to_json(config: Config) -> Mapping[str, Any]:
    """Return the settings as JSON values, without their sources and without those that only workers use."""
    settings: dict[str, Any] = msgspec.to_builtins(config, enc_hook=str, str_keys=True)
    return {name: value for name, value in settings.items() if name not in _NOT_FOR_DAEMON}


def config_from_json(settings: Mapping[str, Any]) -> Config:
    """Return the configuration that `settings_to_json` was called with, without what that leaves out."""
    return msgspec.convert(settings, Config, dec_hook=lambda kind, value: kind(value))


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return a digest by which workers and daemon find out whether they have the same settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


class DaemonLauncher:
    """Connects to the daemon of a node and starts it. Each worker's `DaemonClient` has one. Any thread may call."""

    def __init__(self, config: Config) -> None:
        self._directory = DataDirectory(config.data_dir)
        self._has_shared_store = bool(config.store_url)
        self._settings = settings_to_json(config)
        self._digest = settings_digest(self._settings)
        self._failed_at = float("-inf")
        self._failure = ""

    def connect(self, worker: str, *, is_heartbeat: bool) -> Channel:
        """Open a connection and exchange greetings.

        Raises `DaemonMissing`, `NotResponding`, and `Unavailable` if the daemon rejects the connection.
        """
        deadline = time.monotonic() + _GREETING_SECONDS
        try:
            channel = Channel(self._directory.connect(_GREETING_SECONDS))
        except (TimeoutError, BlockingIOError):
            raise NotResponding from None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise Unavailable(f"This server cannot connect to its daemon: {error.strerror}. Retry.") from None
            raise DaemonMissing(str(error)) from None
        try:
            channel.settimeout(max(_MIN_GREETING_SECONDS, deadline - time.monotonic()))
            self._greet(channel, Hello(VERSION, self._digest, worker, is_heartbeat))
        except BaseException:
            channel.close()
            raise
        return channel

    def connect_or_start(self, worker: str, *, if_needed: bool = False) -> Channel | None:
        """Open the heartbeat connection of a worker, and start the daemon if there is none.

        With `if_needed`, the daemon is not started if its store has no work for it, and None is returned. Blocks for up
        to 20 s. Raises `Unavailable`.
        """
        with suppress(DaemonMissing):
            return self.connect(worker, is_heartbeat=True)
        if if_needed and not self._may_be_needed():
            return None
        self._directory.create()
        return self._start_and_connect(worker, if_needed)

    def _start_and_connect(self, worker: str, if_needed: bool) -> Channel | None:
        deadline = time.monotonic() + _START_SECONDS
        has_waited = False

        def is_late() -> bool:
            nonlocal has_waited
            has_waited = True
            return time.monotonic() > deadline

        while time.monotonic() < deadline:
            # One worker of the node starts the daemon, and the others wait for it.
            with self._directory.lock("start", is_late) as is_held:
                with suppress(DaemonMissing):
                    return self.connect(worker, is_heartbeat=True)
                if has_waited and if_needed:
                    return None  # another worker has just found that no daemon is needed
                if is_held and not self._start(if_needed):
                    return None
        raise Unavailable("The server's daemon does not start; see its log (daemon.log in data_dir).")

    def _greet(self, channel: Channel, hello: Hello) -> None:
        try:
            channel.send(msgspec.msgpack.encode(hello))
            greeting = greetings.decode(channel.receive())
        except TimeoutError:
            raise NotResponding from None
        except (OSError, EOFError) as error:
            raise DaemonMissing(str(error)) from None
        if isinstance(greeting, Rejected):
            raise Unavailable(greeting.reason)
        if isinstance(greeting, Stopping):
            raise DaemonMissing("the daemon is stopping")
        assert isinstance(greeting, Welcome)  # noqa: S101  there are no others

    def _may_be_needed(self) -> bool:
        return self._has_shared_store or any(self._directory.path.glob("store.*"))

    def _start(self, if_needed: bool) -> bool:
        """Start the daemon and wait until it serves. Returns False if it was not needed. Raises `Unavailable`."""
        if time.monotonic() < self._failed_at + _RESTART_DELAY:
            raise Unavailable(self._failure)
        started = time.monotonic()
        report = self._run({"settings": self._settings, "if_needed": if_needed})
        if "failed" in report:
            self._failed_at, self._failure = time.monotonic(), report["failed"]
            log.error("Daemon failed to start: %s", self._failure)
            raise Unavailable(self._failure)
        if report.get("pid"):
            log.info("Daemon started in %.1f s (process %d).", time.monotonic() - started, report["pid"])
        return bool(report["serves"])

    def _run(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Run the daemon's program, which leaves the daemon in the background, and return its report."""
        command = [sys.executable, "-P", "-m", "kafka_http.node.daemon", "--data-dir", str(self._directory.path)]
        with self._directory.open_log() as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(each or str(Path.cwd()) for each in sys.path)},
                start_new_session=True,
            )
        try:
            output, _ = process.communicate(json.dumps(order).encode(), _START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return {"failed": f"The server's daemon does not start within {_START_SECONDS:.0f} s."}
        lines = output.splitlines()
        return dict(json.loads(lines[-1])) if lines else {"failed": "The server's daemon failed to start; see its log."}
