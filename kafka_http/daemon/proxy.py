"""The node's daemon, as its workers have it."""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast
from uuid import uuid4

import msgspec

from kafka_http.config import Config
from kafka_http.core.idempotency import IdempotencyKeys
from kafka_http.core.instances import Instances
from kafka_http.core.nodes import Nodes
from kafka_http.core.tasks import Tasks
from kafka_http.daemon.calls import CALLS, Call, Goodbye, greetings
from kafka_http.daemon.channel import Channel
from kafka_http.daemon.launch import Launcher, NoDaemon
from kafka_http.errors import Unavailable
from kafka_http.logs import request_id

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 90.0
"""More than the longest wait of a call."""

_ONCE = {"create", "delete", "cancel_task"}
"""What a second try would answer differently, where the first was done and its answer lost."""


class NodeDaemon:
    """Calls the node's daemon, which is started where a call needs it.

    Connects on first use, so it can be made before a fork. `instances`, `nodes`, `tasks` and `keys` may be used by any
    thread.
    """

    def __init__(self, config: Config) -> None:
        self._idle: deque[Channel] = deque()
        self._presence = _Presence(Launcher(config), self._hang_up)
        calls = _Calls(self._call)
        self.instances = cast("Instances", calls)
        self.nodes = cast("Nodes", calls)
        self.tasks = cast("Tasks", calls)
        self.keys = cast("IdempotencyKeys", calls)

    @property
    def worker(self) -> str:
        """The name by which the daemon knows this process, for as long as it lives."""
        return self._presence.worker

    def attend(self) -> None:
        """Let the daemon know of this process, where there is one or it has instances to hold. Does not block."""
        self._presence.attend()

    def close(self) -> None:
        """Make no more calls: for the daemon this process has ended."""
        self._presence.close()
        self._hang_up()

    def _call(self, call: Call, *arguments: Any, **named: Any) -> Any:
        """Raises `Unavailable` where the daemon cannot be reached, or was lost on the way."""
        message = msgspec.msgpack.encode(call.request(request_id.get(), *arguments, **named))
        return call.result(self._exchange(message, self._idle_or_new(), once=call.name in _ONCE))

    def _exchange(self, message: bytes, channel: Channel, *, once: bool, again: bool = True) -> bytes:
        """Send a message and receive its answer; with `again`, try twice where that is safe."""
        sent = False
        try:
            channel.send(message)
            sent = True
            answer = channel.receive()
        except (OSError, EOFError) as error:
            channel.close()
            # A message that broke off is not obeyed.
            if again and not (once and sent) and not isinstance(error, TimeoutError):
                return self._exchange(message, self._new(), once=once, again=False)
            raise Unavailable("The server's daemon was lost, try again.") from None
        except BaseException:
            channel.close()
            raise
        self._idle.append(channel)
        return answer

    def _idle_or_new(self) -> Channel:
        try:
            return self._idle.pop()
        except IndexError:
            return self._new()

    def _new(self) -> Channel:
        for _ in range(2):
            channel = self._presence.connect()
            if channel is not None:
                channel.settimeout(_ANSWER_SECONDS)
                return channel
        raise Unavailable("The server's daemon closes down, try again.")

    def _hang_up(self) -> None:
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return


class _Calls:
    """The methods of all Protocols, each of which goes over the socket."""

    def __init__(self, exchange: Callable[..., Any]) -> None:
        for name, call in CALLS.items():
            setattr(self, name, partial(exchange, call))


class _Presence:
    """This process's sign of life: one connection to the daemon, and a thread that sees when it ends."""

    def __init__(self, launcher: Launcher, lost: Callable[[], None]) -> None:
        self._launcher = launcher
        self._lost = lost
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._worker = ""
        self._process = 0
        self._closed = threading.Event()

    @property
    def worker(self) -> str:
        with self._lock:
            return self._own_name()

    def attend(self) -> None:
        self._in_background(self._attend)

    def connect(self) -> Channel | None:
        """A connection for calls; None where the daemon has just gone, which the next attempt will find."""
        channel, worker = self._ensure()
        try:
            return self._launcher.connect(worker, presence=False)
        except NoDaemon:
            self._forget(channel)
            return None

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.shut()

    def _ensure(self, *, if_needed: bool = False) -> tuple[Channel | None, str]:
        with self._lock:
            if self._closed.is_set():
                raise Unavailable("This server is closing down.")
            worker = self._own_name()
            if self._channel is None:
                self._channel = self._launcher.reach(worker, if_needed=if_needed)
                if self._channel is not None:
                    self._channel.settimeout(None)
                    self._in_background(partial(self._watch, self._channel))
            return self._channel, worker

    def _own_name(self) -> str:
        if self._process != os.getpid():  # forked: the connection is the parent's
            self._channel, self._process = None, os.getpid()
            self._worker = uuid4().hex
        return self._worker

    def _watch(self, channel: Channel) -> None:
        """Wait for the connection's end; without a goodbye the daemon has died, and its instances need another."""
        said_goodbye = False
        try:
            said_goodbye = isinstance(greetings.decode(channel.receive()), Goodbye)
        except (OSError, EOFError):
            pass
        finally:
            self._forget(channel)
            channel.close()
        if not said_goodbye and not self._closed.is_set():
            log.warning("The daemon has ended unexpectedly")
            self._attend()

    def _attend(self) -> None:
        rest = 1.0
        while not self._closed.is_set():
            try:
                self._ensure(if_needed=True)
            except Unavailable as error:
                log.warning("No daemon for the consumer instances: %s", error.message)
                self._closed.wait(rest)
                rest = min(2 * rest, 30.0)
            else:
                return

    def _forget(self, channel: Channel | None) -> None:
        with self._lock:
            if self._channel is not channel:
                return
            self._channel = None
        self._lost()
        if channel is not None:
            channel.shut()

    def _in_background(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="daemon-presence", daemon=True).start()
