"""The node's daemon, as its workers have it."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast
from uuid import uuid4

import msgspec

from kafka_http.config import Config
from kafka_http.consumers.instance_service import InstanceLocator, InstanceService
from kafka_http.errors import Unavailable
from kafka_http.logs import request_id
from kafka_http.node.daemon_launcher import DaemonLauncher, DaemonMissing, NotResponding
from kafka_http.node.daemon_protocol import CALLS, PING, Call
from kafka_http.node.message_channel import Channel
from kafka_http.publish.idempotency_keys import IdempotencyKeys
from kafka_http.tasks import Tasks

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
"""How long a call may take beyond the wait that it asks for."""

_WAITS = {"acquire_lease": "timeout", "renew_lease": "timeout", "find_task": "wait"}
"""The argument of a call that says how long it may wait."""

_KAFKA_SECONDS = 90.0
_ASKS_KAFKA = {
    *("create", "delete", "subscribe", "unsubscribe", "assign", "acquire_lease", "renew_lease"),
    *("seek", "seek_times", "seek_ends", "commit", "committed"),
}
"""Calls for which the daemon asks Kafka. It has bounds of its own for that and answers with what went wrong there, so
these calls get more time. Where the daemon itself hangs, pings tell, and these calls fail too."""

_PING_EVERY = 1.0
_PONG_SECONDS = 4.0
_OVERDUE_SECONDS = 2.5
"""A call that fails for its time means that the daemon hangs where no ping was answered for so long."""

_START_SECONDS = 20.0
_RETRY_SECONDS = (1.0, 30.0)
"""Between attempts to reach a daemon: at first, and at most."""

_ONCE = {"create", "delete", "cancel_task"}
"""What a second try would answer differently, where the first was done and its answer lost."""

_LOAN_ENDINGS = {"release_lease"}
_MOST_ENDINGS = 1000


class DaemonClient:
    """Calls the node's daemon, which is started where a call needs it.

    Connects on first use, so it can be made before a fork. `instances`, `nodes`, `tasks` and `keys` may be used by any
    thread. While the daemon's process hangs, calls fail at once: no thread waits for it.
    """

    def __init__(self, config: Config) -> None:
        self._idle: deque[Channel] = deque()
        self._busy: set[Channel] = set()
        self._endings: deque[bytes] = deque(maxlen=_MOST_ENDINGS)
        self._presence = _Presence(DaemonLauncher(config), self._hang_up, self._send_endings)
        calls = _Calls(self._call)
        self.instances = cast("InstanceService", calls)
        self.nodes = cast("InstanceLocator", calls)
        self.tasks = cast("Tasks", calls)
        self.keys = cast("IdempotencyKeys", calls)

    @property
    def worker(self) -> str:
        """The name by which the daemon knows this process, for as long as it lives."""
        return self._presence.worker

    @property
    def is_silent(self) -> bool:
        """Whether its process is there and does not answer, as far as is known. Does not block."""
        return self._presence.is_silent

    def attend(self) -> None:
        """Let the daemon know of this process, where there is one or it has instances to hold. Does not block."""
        self._presence.attend()

    def close(self) -> None:
        """Make no more calls: for the daemon this process has ended."""
        self._presence.close()
        self._hang_up()

    def _call(self, call: Call, *arguments: Any, **named: Any) -> Any:
        """Raises `Unavailable` where the daemon cannot be reached, was lost on the way or does not answer in time."""
        request = call.request(request_id.get(), *arguments, **named)
        wait = float(getattr(request, _WAITS[call.name])) if call.name in _WAITS else 0.0
        seconds = wait + (_KAFKA_SECONDS if call.name in _ASKS_KAFKA else _ANSWER_SECONDS)
        message = msgspec.msgpack.encode(request)
        was_silent = self._presence.is_silent
        try:
            return call.result(self._exchange(message, seconds, self._idle_or_new(), once=call.name in _ONCE))
        except NotResponding:
            if call.name in _LOAN_ENDINGS:
                self._endings.append(message)
            elif call.name == "claim_key" and not was_silent:  # perhaps it has been claimed
                self._endings.append(_freeing(request))
            raise

    def _exchange(
        self, message: bytes, seconds: float, channel: Channel, *, once: bool = False, again: bool = True
    ) -> bytes:
        """Send a message and receive its answer; with `again`, try twice where that is safe."""
        sent = False
        self._busy.add(channel)
        try:
            channel.settimeout(seconds)
            channel.send(message)
            sent = True
            answer = channel.receive()
        except (OSError, EOFError) as error:
            channel.close()
            if isinstance(error, TimeoutError):
                self._presence.suspect()
                raise NotResponding from None
            # A message that broke off is not obeyed.
            if again and not (once and sent):
                return self._exchange(message, seconds, self._new(), once=once, again=False)
            raise Unavailable("The server's daemon was lost, try again.") from None
        except BaseException:
            channel.close()
            raise
        finally:
            self._busy.discard(channel)
        self._idle.append(channel)
        return answer

    def _idle_or_new(self) -> Channel:
        self._presence.check()
        try:
            return self._idle.pop()
        except IndexError:
            return self._new()

    def _new(self) -> Channel:
        for _ in range(2):
            channel = self._presence.connect()
            if channel is not None:
                return channel
        raise Unavailable("The server's daemon closes down, try again.")

    def _hang_up(self) -> None:
        """Let all calls that wait for the daemon fail now."""
        for channel in self._busy.copy():
            channel.shut()
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def _send_endings(self) -> None:
        """Say what could not be said while the daemon hung: which instances are read no longer, and which keys were
        claimed for requests that were answered with a 503."""
        while self._endings:
            message = self._endings.popleft()
            with suppress(Unavailable):
                self._exchange(message, _ANSWER_SECONDS, self._idle_or_new())


def _freeing(claim: Any) -> bytes:
    """The message that frees the key of a claim."""
    request = CALLS["release_key"].request(claim.request_id, claim.caller, claim.name, claim.holder)
    return msgspec.msgpack.encode(request)


class _Calls:
    """The methods of all Protocols, each of which goes over the socket."""

    def __init__(self, exchange: Callable[..., Any]) -> None:
        for name, call in CALLS.items():
            setattr(self, name, partial(exchange, call))


class _Presence:
    """This process's sign of life: one connection to the daemon, and a thread that pings over it.

    The thread sees when the daemon dies, and when it hangs. No lock is held while anybody waits for the daemon.
    """

    def __init__(self, launcher: DaemonLauncher, lost: Callable[[], None], is_there: Callable[[], None]) -> None:
        """`lost` is called when the daemon has died or hangs, `is_there` with each sign of life of it."""
        self._launcher = launcher
        self._lost = lost
        self._is_there = is_there
        self._changed = threading.Condition()
        self._channel: Channel | None = None
        self._is_connecting = False
        self._is_silent = False
        self._answered = float("-inf")
        self._worker = ""
        self._process = 0
        self._closed = threading.Event()

    @property
    def worker(self) -> str:
        with self._changed:
            return self._own_name()

    @property
    def is_silent(self) -> bool:
        return self._is_silent and self._process == os.getpid()

    def check(self) -> None:
        """Raise `NotResponding` where the daemon hangs."""
        if self.is_silent:
            raise NotResponding

    def attend(self) -> None:
        """Reach the daemon in the background, if there is any need of it."""
        self._in_background(self._attend)

    def connect(self) -> Channel | None:
        """A connection for calls; None where the daemon has just gone, which the next attempt will find."""
        channel, worker = self._ensure()
        try:
            return self._launcher.connect(worker, presence=False)
        except DaemonMissing:
            self._forget(channel)
            return None
        except NotResponding:
            self.suspect()
            raise

    def suspect(self) -> None:
        """A call was not answered in time: does the daemon hang?"""
        if time.monotonic() - self._answered > _OVERDUE_SECONDS:
            self._fall_silent()

    def close(self) -> None:
        self._closed.set()
        with self._changed:
            channel, self._channel = self._channel, None
            self._changed.notify_all()
        if channel is not None:
            channel.shut()

    def _ensure(self, *, if_needed: bool = False, probing: bool = False) -> tuple[Channel | None, str]:
        """One thread at a time connects, or starts the daemon; the others wait for that. `probing`: try it though the
        daemon hangs."""
        with self._changed:
            worker = self._own_name()
            self._changed.wait_for(lambda: not self._is_connecting or self._may_not_wait(probing), _START_SECONDS)
            if self._closed.is_set():
                raise Unavailable("This server is closing down.")
            if not probing:
                self.check()
            if self._channel is not None:
                return self._channel, worker
            if self._is_connecting:
                raise Unavailable("The server's daemon does not start in time. Try again.")
            self._is_connecting = True
        channel = None
        try:
            channel = self._launcher.reach(worker, if_needed=if_needed)
        except NotResponding:
            self._fall_silent(is_attended=probing)
            raise
        finally:
            with self._changed:
                self._channel = channel
                self._is_connecting = False
                self._changed.notify_all()
        self._use(channel)
        return channel, worker

    def _may_not_wait(self, probing: bool) -> bool:
        return self._closed.is_set() or (self._is_silent and not probing)

    def _use(self, channel: Channel | None) -> None:
        """Begin with a new sign of life; None where no daemon is needed."""
        if channel is None:
            self._is_silent = False
            return
        self._in_background(partial(self._watch, channel))
        if self._closed.is_set():
            channel.shut()
            raise Unavailable("This server is closing down.")
        self._note_answer()

    def _own_name(self) -> str:
        if self._process != os.getpid():  # forked: the connection is the parent's
            self._channel, self._process = None, os.getpid()
            self._is_connecting = self._is_silent = False
            self._worker = uuid4().hex
        return self._worker

    # In threads of its own

    def _watch(self, channel: Channel) -> None:
        """Ping for as long as the connection lasts. At its end the daemon has died: its instances need another."""
        try:
            while True:
                channel.settimeout(_PING_EVERY)
                with suppress(TimeoutError):
                    channel.receive()  # nothing comes, but the end of the connection
                self._ping(channel)
        except (OSError, EOFError):
            pass
        finally:
            self._forget(channel)
            channel.close()
        if not self._closed.is_set():
            log.warning("The daemon has ended unexpectedly")
            self.attend()

    def _ping(self, channel: Channel) -> None:
        channel.settimeout(_PONG_SECONDS)
        channel.send(PING)
        while True:
            try:
                channel.receive()
            except TimeoutError:
                self._fall_silent()
            else:
                self._note_answer()
                return

    def _fall_silent(self, *, is_attended: bool = False) -> None:
        """Let calls fail from now on, until the thread that pings has an answer, or the one that attends."""
        with self._changed:
            if self._is_silent or self._closed.is_set():
                return
            self._is_silent = True
            is_attended = is_attended or self._channel is not None
            self._changed.notify_all()
        log.warning("The daemon does not respond; its calls are answered with 503 until it does")
        self._lost()
        if not is_attended:
            self.attend()

    def _note_answer(self) -> None:
        self._answered = time.monotonic()
        with self._changed:
            was_silent, self._is_silent = self._is_silent, False
        if was_silent:
            log.info("The daemon responds again")
        self._is_there()

    def _attend(self) -> None:
        first, most = _RETRY_SECONDS
        rest = first
        while not self._closed.is_set():
            try:
                self._ensure(if_needed=True, probing=True)
                return
            except NotResponding:
                rest = first
            except Unavailable as error:
                log.warning("No daemon for the consumer instances: %s", error.message)
                rest = min(2 * rest, most)
            self._closed.wait(rest)

    def _forget(self, channel: Channel | None) -> None:
        with self._changed:
            if self._channel is not channel:
                return
            self._channel = None
        self._lost()
        if channel is not None:
            channel.shut()

    def _in_background(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="daemon-presence", daemon=True).start()
