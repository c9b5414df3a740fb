"""Finding the node's daemon, and starting it where there is none: the worker's side."""

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
from kafka_http.node.daemon_protocol import VERSION, Goodbye, Hello, Refused, Welcome, greetings
from kafka_http.node.data_directory import DataDirectory
from kafka_http.node.message_channel import Channel

log = logging.getLogger(__name__)

_GREETING_SECONDS = 5.0
_LEAST_SECONDS = 0.1
_START_SECONDS = 20.0
_REST_SECONDS = 1.0


class DaemonMissing(Exception):
    """There is none, or it closes down."""


class NotResponding(Unavailable):
    """The daemon's process is there, and does not answer."""

    def __init__(self) -> None:
        super().__init__("The server's daemon does not respond. Try again.")


def settings_of(config: Config) -> Mapping[str, Any]:
    """The settings as JSON values."""
    settings: dict[str, Any] = msgspec.to_builtins(config, enc_hook=str, str_keys=True)
    return {name: value for name, value in settings.items() if name != "sources"}


def config_of(settings: Mapping[str, Any]) -> Config:
    """What `settings_of` was made of, without its sources."""
    return msgspec.convert(settings, Config, dec_hook=lambda kind, value: kind(value))


def digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


class DaemonLauncher:
    """Connects to the daemon of a node. Any thread may call."""

    def __init__(self, config: Config) -> None:
        self._directory = DataDirectory(config.data_dir)
        self._has_shared_store = bool(config.store_url)
        self._settings = settings_of(config)
        self._digest = digest(self._settings)
        self._failed_at = float("-inf")
        self._failure = ""

    def connect(self, worker: str, *, presence: bool) -> Channel:
        """A greeted connection. Raises `DaemonMissing`, `NotResponding`; `Unavailable` if the daemon rejects it."""
        deadline = time.monotonic() + _GREETING_SECONDS
        try:
            channel = Channel(self._directory.connect(_GREETING_SECONDS))
        except (TimeoutError, BlockingIOError):
            raise NotResponding from None
        except OSError as error:
            raise DaemonMissing(str(error)) from None
        try:
            channel.settimeout(max(_LEAST_SECONDS, deadline - time.monotonic()))
            self._greet(channel, Hello(VERSION, self._digest, worker, presence))
        except BaseException:
            channel.close()
            raise
        return channel

    def reach(self, worker: str, *, if_needed: bool = False) -> Channel | None:
        """The sign of life of a worker, at a daemon that is started where there is none.

        With `if_needed`, one that has nothing to hold is not started, and the answer is None. Raises `Unavailable`.
        """
        with suppress(DaemonMissing):
            return self.connect(worker, presence=True)
        if if_needed and not self._may_be_needed():
            return None
        self._directory.make()
        deadline = time.monotonic() + _START_SECONDS
        has_waited = False

        def is_late() -> bool:
            nonlocal has_waited
            has_waited = True
            return time.monotonic() > deadline

        while time.monotonic() < deadline:
            with self._directory.lock("start", is_late) as is_held:
                with suppress(DaemonMissing):
                    return self.connect(worker, presence=True)
                if has_waited and if_needed:
                    return None  # another has just found that it is not
                if is_held and not self._start(if_needed):
                    return None
        raise Unavailable("The server's daemon does not start; its log says more.")

    def _greet(self, channel: Channel, hello: Hello) -> None:
        try:
            channel.send(msgspec.msgpack.encode(hello))
            greeting = greetings.decode(channel.receive())
        except TimeoutError:
            raise NotResponding from None
        except (OSError, EOFError) as error:
            raise DaemonMissing(str(error)) from None
        if isinstance(greeting, Refused):
            raise Unavailable(greeting.why)
        if isinstance(greeting, Goodbye):
            raise DaemonMissing("it closes down")
        assert isinstance(greeting, Welcome)  # noqa: S101  there are no others

    def _may_be_needed(self) -> bool:
        return self._has_shared_store or any(self._directory.path.glob("store.*"))

    def _start(self, if_needed: bool) -> bool:
        """Start the daemon and wait until it serves; False where it was not needed. Raises `Unavailable`."""
        if time.monotonic() < self._failed_at + _REST_SECONDS:
            raise Unavailable(self._failure)
        began = time.monotonic()
        said = self._run({"settings": self._settings, "if_needed": if_needed})
        if "failed" in said:
            self._failed_at, self._failure = time.monotonic(), said["failed"]
            log.error("The daemon does not start: %s", self._failure)
            raise Unavailable(self._failure)
        if said.get("pid"):
            log.info("Started the daemon (process %d) in %.1f s", said["pid"], time.monotonic() - began)
        return bool(said["serves"])

    def _run(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Run the daemon's program, which leaves a process behind and says how it went."""
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
                said, _ = process.communicate(json.dumps(order).encode(), _START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                return {"failed": f"The server's daemon does not start within {_START_SECONDS:.0f} s."}
        lines = said.splitlines()
        return dict(json.loads(lines[-1])) if lines else {"failed": "The server's daemon failed; its log says more."}
