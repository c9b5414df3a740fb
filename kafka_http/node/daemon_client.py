"""The workers' client of the node's daemon."""

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

from kafka_http.backoff import Backoff
from kafka_http.config import Config
from kafka_http.consumers.instance_service import InstanceLocator, InstanceService
from kafka_http.consumers.queue_service import LoopQueues, QueueLocator, QueueService
from kafka_http.errors import Unavailable
from kafka_http.event_loop import EventLoop
from kafka_http.logs import LogOnce, request_id
from kafka_http.node.daemon_launcher import DaemonLauncher, DaemonMissing, NotResponding
from kafka_http.node.daemon_protocol import CALLS, CONNECTION_LOST, NOT_REPEATABLE, PING, Call, Channel
from kafka_http.node.loop_calls import LoopCalls
from kafka_http.publish.idempotency_keys import IdempotencyKeys
from kafka_http.records import ClaimEnd
from kafka_http.tasks import Tasks

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
"""Timeout of a call, in addition to the wait that it asks for."""

_WAITS = {"acquire_lease": "timeout", "renew_lease": "timeout", "acquire_messages": "wait", "find_task": "wait"}
"""For each call that may wait at the daemon, the argument with the seconds."""

_KAFKA_SECONDS = 90.0
_KAFKA_CALLS = {
    *("create", "delete", "subscribe", "unsubscribe", "assign", "acquire_lease", "renew_lease"),
    *("seek", "seek_times", "seek_ends", "commit", "committed"),
    *("acquire_messages", "settle_messages", "queue_state", "leave_queue", "delete_queue"),
}
"""Calls for which the daemon sends requests to Kafka. They get more time, because the daemon has its own timeouts for
these requests and reports their errors. If the daemon itself hangs, pings detect it, and these calls fail, too."""

_PING_INTERVAL = 1.0
_PONG_SECONDS = 4.0
_OVERDUE_SECONDS = 2.5
"""If no ping was answered for this time, a call that times out means that the daemon hangs."""

_START_SECONDS = 20.0
_MIN_RETRY_SECONDS, _MAX_RETRY_SECONDS = 1.0, 30.0

_LEASE_RELEASES = {"release_lease", "release_page", "confirm_pages"}
"""Calls that are sent later if the daemon hangs."""
_MAX_RELEASES = 1000


class DaemonClient:
    """Calls the node's daemon, and starts it if a call needs it.

    Created before the fork; connects on first use in each process. Any thread may use `instances`, `nodes`, `queues`,
    `queue_nodes`, `tasks` and `keys`. While the daemon hangs, calls fail at once, so that no thread waits for it.
    """

    def __init__(self, config: Config) -> None:
        self._idle: deque[Channel] = deque()
        self._busy: set[Channel] = set()
        self._unsent_releases: deque[bytes] = deque(maxlen=_MAX_RELEASES)
        self._heartbeat = _Heartbeat(DaemonLauncher(config), self._abort_calls, self._send_releases)
        self._loop_calls = LoopCalls(
            self._open_channel,
            self._heartbeat.check_responding,
            self._heartbeat.report_timeout,
            self._unsent_releases.append,
        )
        self.loop_queues: LoopQueues = self._loop_calls
        """The queues for a main loop, after `attach`."""
        calls = _RemoteCalls(self._call)
        self.instances = cast("InstanceService", calls)
        self.nodes = cast("InstanceLocator", calls)
        self.queues = cast("QueueService", calls)
        self.queue_nodes = cast("QueueLocator", calls)
        self.tasks = cast("Tasks", calls)
        self.keys = cast("IdempotencyKeys", calls)

    @property
    def worker(self) -> str:
        """The name of this process at the daemon, until the process ends."""
        return self._heartbeat.worker

    @property
    def is_hung(self) -> bool:
        """Whether the daemon is known to run without answering. Does not block."""
        return self._heartbeat.is_hung

    def start(self) -> None:
        """Connect in the background if a daemon runs or is needed to hold instances. Does not block."""
        self._heartbeat.start()

    def attach(self, loop: EventLoop) -> None:
        """Let a main loop make calls with `loop_queues`. Its thread calls this, after the fork."""
        self._loop_calls.attach(loop)

    def close(self) -> None:
        """Make no more calls. For the daemon, this process has ended."""
        self._heartbeat.close()
        self._abort_calls()
        self._loop_calls.close()

    def _call(self, call: Call, *arguments: Any, **named: Any) -> Any:
        """Raises `Unavailable` if the daemon cannot be reached, is lost during the call, or does not answer in time."""
        request: Any = call.request(request_id.get(), *arguments, **named)
        wait = float(getattr(request, _WAITS[call.name])) if call.name in _WAITS else 0.0
        seconds = wait + (_KAFKA_SECONDS if call.name in _KAFKA_CALLS else _ANSWER_SECONDS)
        message = msgspec.msgpack.encode(request)
        was_hung = self._heartbeat.is_hung
        try:
            channel = self._acquire_channel()
            return call.decode_result(
                self._exchange(message, seconds, channel, is_repeatable=call.name not in NOT_REPEATABLE)
            )
        except NotResponding:
            if call.name in _LEASE_RELEASES:
                self._unsent_releases.append(message)
            elif call.name == "update_keys" and request.claims and not was_hung:  # the daemon may have claimed them
                self._unsent_releases.append(_key_releases(request))
            raise

    def _exchange(
        self, message: bytes, seconds: float, channel: Channel, *, is_repeatable: bool = True, is_retry: bool = False
    ) -> bytes:
        """Send a message and return its response. Tries a second time if the connection breaks and that is safe."""
        is_sent = False
        self._busy.add(channel)
        try:
            channel.settimeout(seconds)
            channel.send(message)
            is_sent = True
            response = channel.receive()
        except (OSError, EOFError) as error:
            channel.close()
            if isinstance(error, TimeoutError):
                self._heartbeat.report_timeout()
                raise NotResponding from None
            # The daemon ignores a message that is incomplete.
            if not is_retry and (is_repeatable or not is_sent):
                return self._exchange(message, seconds, self._open_channel(), is_retry=True)
            raise Unavailable(CONNECTION_LOST) from None
        except BaseException:
            channel.close()  # or the next call would receive the response of this one
            raise
        finally:
            self._busy.discard(channel)
        self._idle.append(channel)
        return response

    def _acquire_channel(self) -> Channel:
        self._heartbeat.check_responding()
        try:
            return self._idle.pop()
        except IndexError:
            return self._open_channel()

    def _open_channel(self) -> Channel:
        for _ in range(2):  # the first attempt may find a daemon that is just stopping
            channel = self._heartbeat.connect()
            if channel is not None:
                return channel
        raise Unavailable("The server's daemon is stopping. Retry.")

    def _abort_calls(self) -> None:
        """Let all calls in progress fail now: the daemon has ended or hangs."""
        self._loop_calls.abort_if_hung()  # if it has ended, the loop notices it by itself
        for channel in self._busy.copy():
            channel.shutdown()
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def _send_releases(self) -> None:
        """Send the releases that failed while the daemon hung: of read leases, and of keys whose requests got a 503."""
        while self._unsent_releases:
            message = self._unsent_releases.popleft()
            with suppress(Unavailable):
                self._exchange(message, _ANSWER_SECONDS, self._acquire_channel())


def _key_releases(request: Any) -> bytes:
    """The message that releases the keys that an `update_keys` request claims."""
    ends = [ClaimEnd(each.caller, each.name, each.holder, None) for each in request.claims]
    return msgspec.msgpack.encode(CALLS["update_keys"].request(request.request_id, [], ends))


class _RemoteCalls:
    """The methods of all `PROTOCOLS`, each of which is a call over the socket."""

    def __init__(self, call: Callable[..., Any]) -> None:
        for name, each in CALLS.items():
            setattr(self, name, partial(call, each))


class _Heartbeat:
    """One connection that tells the daemon that this process runs, and a thread that pings over it.

    The thread notices when the daemon ends and when it hangs. No lock is held while a thread waits for the daemon.
    """

    def __init__(self, launcher: DaemonLauncher, on_lost: Callable[[], None], on_answer: Callable[[], None]) -> None:
        """`on_lost` is called when the daemon has ended or hangs, `on_answer` after each answered ping."""
        self._launcher = launcher
        self._on_lost = on_lost
        self._on_answer = on_answer
        self._changed = threading.Condition()
        self._channel: Channel | None = None
        self._is_connecting = False
        self._is_hung = False
        self._answered_at = float("-inf")
        self._worker = ""
        self._process = 0
        self._closed = threading.Event()

    @property
    def worker(self) -> str:
        with self._changed:
            return self._worker_name()

    @property
    def is_hung(self) -> bool:
        return self._is_hung and self._process == os.getpid()

    def check_responding(self) -> None:
        """Raise `NotResponding` if the daemon hangs."""
        if self.is_hung:
            raise NotResponding

    def start(self) -> None:
        """Connect in the background, if a daemon runs or is needed."""
        self._in_background(self._connect_until_done)

    def connect(self) -> Channel | None:
        """Open a connection for calls. Returns None if the daemon has just ended, which the next attempt notices."""
        channel, worker = self._ensure_connected()
        try:
            return self._launcher.connect(worker, is_heartbeat=False)
        except DaemonMissing:
            self._disconnected(channel)
            return None
        except NotResponding:
            self.report_timeout()
            raise

    def report_timeout(self) -> None:
        """Decide whether the daemon hangs, after a call that got no answer in time."""
        if time.monotonic() - self._answered_at > _OVERDUE_SECONDS:
            self._set_hung()

    def close(self) -> None:
        self._closed.set()
        with self._changed:
            channel, self._channel = self._channel, None
            self._changed.notify_all()
        if channel is not None:
            channel.shutdown()

    def _ensure_connected(self, *, if_needed: bool = False, probing: bool = False) -> tuple[Channel | None, str]:
        """Return the connection and the worker's name. One thread at a time connects or starts the daemon.

        With `probing`, try it even though the daemon hangs. With `if_needed`, see `DaemonLauncher.connect_or_start`.
        """
        with self._changed:
            worker = self._worker_name()
            self._changed.wait_for(lambda: self._can_continue(probing), _START_SECONDS)
            self._check_open()
            if not probing:
                self.check_responding()
            if self._channel is not None:
                return self._channel, worker
            if self._is_connecting:
                raise Unavailable("The server's daemon did not start in time. Retry.")
            self._is_connecting = True
        return self._connect_heartbeat(worker, if_needed, probing), worker

    def _connect_heartbeat(self, worker: str, if_needed: bool, probing: bool) -> Channel | None:
        channel = None
        try:
            channel = self._launcher.connect_or_start(worker, if_needed=if_needed)
        except NotResponding:
            self._set_hung(is_retried=probing)
            raise
        finally:
            with self._changed:
                self._channel = channel
                self._is_connecting = False
                self._changed.notify_all()
        if channel is None:  # no daemon is needed
            self._is_hung = False
            return None
        self._in_background(partial(self._watch, channel))
        if self._closed.is_set():
            channel.shutdown()
        self._check_open()
        self._set_responding()
        return channel

    def _can_continue(self, probing: bool) -> bool:
        return not self._is_connecting or self._closed.is_set() or (self._is_hung and not probing)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise Unavailable("This server is stopping.")

    def _worker_name(self) -> str:
        if self._process != os.getpid():  # after a fork the connection is the parent's
            self._channel, self._process = None, os.getpid()
            self._is_connecting = self._is_hung = False
            self._worker = uuid4().hex
        return self._worker

    def _disconnected(self, channel: Channel | None) -> None:
        with self._changed:
            if self._channel is not channel:
                return
            self._channel = None
        self._on_lost()
        if channel is not None:
            channel.shutdown()

    def _set_hung(self, *, is_retried: bool = False) -> None:
        """Let calls fail until a ping is answered, or until the thread that connects succeeds."""
        with self._changed:
            if self._is_hung or self._closed.is_set():
                return
            self._is_hung = True
            is_retried = is_retried or self._channel is not None
            self._changed.notify_all()
        log.warning("Daemon does not respond. Requests that need it get a 503 until it responds.")
        self._on_lost()
        if not is_retried:
            self.start()

    def _set_responding(self) -> None:
        self._answered_at = time.monotonic()
        with self._changed:
            was_hung, self._is_hung = self._is_hung, False
        if was_hung:
            log.info("Daemon responds again.")
        self._on_answer()

    # The rest runs in background threads.

    def _in_background(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="daemon-heartbeat", daemon=True).start()

    def _connect_until_done(self) -> None:
        backoff = Backoff(_MIN_RETRY_SECONDS, _MAX_RETRY_SECONDS)
        problem = LogOnce(log)
        while not self._closed.is_set():
            try:
                self._ensure_connected(if_needed=True, probing=True)
                return
            except NotResponding:
                backoff.reset()
            except Unavailable as error:
                problem.warning("Daemon unavailable: %s", error.message)
            self._closed.wait(backoff.next())

    def _watch(self, channel: Channel) -> None:
        """Ping for as long as the connection lasts. After its end, connect again: the instances need a daemon."""
        try:
            while True:
                channel.settimeout(_PING_INTERVAL)
                with suppress(TimeoutError):
                    channel.receive()  # the daemon sends nothing here; this returns when the connection ends
                self._ping(channel)
        except (OSError, EOFError):
            pass
        finally:
            self._disconnected(channel)
            channel.close()
        if not self._closed.is_set():
            log.warning("Daemon exited unexpectedly; restarting it if needed.")
            self.start()

    def _ping(self, channel: Channel) -> None:
        channel.settimeout(_PONG_SECONDS)
        channel.send(PING)
        while True:
            try:
                channel.receive()
            except TimeoutError:
                self._set_hung()
            else:
                self._set_responding()
                return
