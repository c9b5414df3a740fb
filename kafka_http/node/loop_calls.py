"""Calls to the node's daemon that a main loop makes itself: no thread waits for a response."""

import logging
import resource
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from selectors import EVENT_READ
from typing import Any

import msgspec

from kafka_http.consumers.queue_service import QueueName, QueuePage, Settlement
from kafka_http.errors import KafkaHttpError, Unavailable, WouldBlock
from kafka_http.event_loop import EventLoop
from kafka_http.logs import request_id
from kafka_http.node.daemon_launcher import NotResponding
from kafka_http.node.daemon_protocol import CALLS, CONNECTION_LOST, NOT_REPEATABLE, Call, Channel
from kafka_http.pending import DoneCallbacks

log = logging.getLogger(__name__)

MAX_CALLS = 500
"""Calls under way. Each has a connection of its own."""
_DESCRIPTOR_SHARE = 4
"""They use at most one of so many file descriptors: clients need most of them."""
_MAX_IDLE = 100
"""Connections that are kept for later calls."""
_UNREACHABLE = "The server's daemon cannot be reached; see the server's log. Retry."

_ACQUIRE, _SETTLE, _RELEASE = (CALLS[name] for name in ("acquire_messages", "settle_messages", "release_page"))


class LoopCalls:
    """The `LoopQueues` of a worker. Its connections are not those of the worker's threads.

    `DaemonClient` creates it before the fork. The main loop's thread calls all methods but `abort_if_hung` and `close`.
    Only one thread at a time opens connections, which may start the daemon, and only while calls wait for one.
    """

    def __init__(
        self,
        connect: Callable[[], Channel],
        check_responding: Callable[[], None],
        report_timeout: Callable[[], None],
        keep_release: Callable[[bytes], None],
    ) -> None:
        """`connect` may block for seconds and raises `Unavailable`. `check_responding` raises `NotResponding`.

        `keep_release` takes a message that is sent when the daemon responds again.
        """
        self._connect = connect
        self._check_responding = check_responding
        self._report_timeout = report_timeout
        self._keep_release = keep_release
        self._loop: EventLoop | None = None
        self._calls: dict[Channel, _LoopCall | None] = {}
        """For each open connection the call under way. All are registered for good: an idle one may break, too."""
        self._idle: list[Channel] = []
        self._waiting: deque[_LoopCall] = deque()
        """Calls that wait for a connection."""
        self._is_connecting = False
        self._max_calls = MAX_CALLS

    def attach(self, loop: EventLoop) -> None:
        """Use this loop. Its thread calls this, after the fork and before the first call."""
        self._loop = loop
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit != resource.RLIM_INFINITY:
            self._max_calls = min(MAX_CALLS, limit // _DESCRIPTOR_SHARE)

    def start_acquire(self, queue: QueueName, limit: int, wait: float, lock: float, dead: str = "") -> "_LoopCall":
        return self._start(_ACQUIRE, queue, limit, wait, lock, dead)

    def start_settle(
        self, queue: QueueName, leases: Sequence[str], settlement: Settlement, lock: float = 0
    ) -> "_LoopCall":
        return self._start(_SETTLE, queue, leases, settlement, lock)

    def release_page(self, page: str) -> None:
        """Let `QueueService.release_page` be done soon: nobody waits for the page. Raises nothing."""
        try:
            self._check_responding()
        except NotResponding:
            self._keep_release(_encode(_RELEASE, page))
        else:
            self._submit(_RELEASE, page)

    def abandon(self, call: "_LoopCall") -> None:
        """Forget a call that is not done. Its connection is not used for others until the response is there."""
        call.is_abandoned = True
        with suppress(ValueError):
            self._waiting.remove(call)
        self._report_timeout()

    def abort_if_hung(self) -> None:
        """Let all calls fail now if the daemon hangs. Any thread may call. Does not block."""
        if self._loop is not None:
            self._loop.call_soon(self._abort_if_hung)

    def close(self) -> None:
        """Close the connections: the process ends. Any thread may call. Does not block."""
        if self._loop is not None:
            self._loop.call_soon(self._abort, Unavailable("This server is stopping."))

    def _start(self, call: Call, *arguments: Any) -> "_LoopCall":
        self._check_responding()
        if not self._idle and len(self._calls) + len(self._waiting) >= self._max_calls:
            raise WouldBlock
        return self._submit(call, *arguments)

    def _submit(self, call: Call, *arguments: Any) -> "_LoopCall":
        started = _LoopCall(self, call, _encode(call, *arguments))
        if self._idle:
            self._send(self._idle.pop(), started)
        else:
            self._enqueue(started)
        return started

    def _send(self, channel: Channel, call: "_LoopCall") -> None:
        self._calls[channel] = call
        try:
            channel.send(call.message)  # the kernel takes it whole: these messages are small, and its buffer is empty
        except OSError:
            self._lose(channel, is_sent=False)

    def _on_event(self, channel: Channel) -> None:
        if channel not in self._calls:
            return  # closed in this round of the loop
        call = self._calls[channel]
        try:
            response = channel.receive()
            if call is None:
                raise EOFError("a response without a call")
            call.decode(response)
        except BlockingIOError:
            return  # the rest of the response follows
        except (OSError, EOFError, msgspec.DecodeError):
            self._lose(channel)
            return
        self._reuse(channel)
        self._complete(call)

    def _complete(self, call: "_LoopCall") -> None:
        if not call.is_abandoned:
            call.complete()
        elif isinstance(call.value, QueuePage) and call.value.messages:
            self.release_page(call.value.id)

    def _reuse(self, channel: Channel) -> None:
        self._calls[channel] = None
        if self._waiting:
            self._send(channel, self._waiting.popleft())
            return
        self._idle.append(channel)
        if len(self._idle) > _MAX_IDLE:
            self._close(self._idle[0])

    def _lose(self, channel: Channel, *, is_sent: bool = True) -> None:
        """Close a broken connection. Try its call a second time if that is safe, on a connection to be opened."""
        call = self._calls[channel]
        self._close(channel)
        if call is None or call.is_abandoned:
            return
        # The daemon ignores a message that is incomplete.
        if call.is_repeated or (is_sent and call.name in NOT_REPEATABLE):
            call.fail(Unavailable(CONNECTION_LOST))
            return
        call.is_repeated = True
        self._enqueue(call)

    def _close(self, channel: Channel) -> None:
        if self._calls.pop(channel) is None:
            self._idle.remove(channel)
        if self._loop is not None:
            self._loop.unregister(channel)
        channel.close()

    def _abort_if_hung(self) -> None:
        try:
            self._check_responding()
        except NotResponding as error:
            self._abort(error)

    def _abort(self, error: KafkaHttpError) -> None:
        """Close all connections. All calls fail."""
        calls = [each for each in self._calls.values() if each is not None]
        for channel in tuple(self._calls):
            self._close(channel)
        for call in calls:
            if not call.is_abandoned:
                call.fail(error)
        self._fail_waiting(error)

    def _fail_waiting(self, error: KafkaHttpError) -> None:
        while self._waiting:
            self._waiting.popleft().fail(error)

    def _enqueue(self, call: "_LoopCall") -> None:
        self._waiting.append(call)
        self._open_connections()

    def _open_connections(self) -> None:
        if not self._waiting or self._is_connecting or self._loop is None:
            return
        arguments = self._loop, len(self._waiting)
        self._is_connecting = True
        try:
            threading.Thread(target=self._connect_each, args=arguments, name="daemon-connect", daemon=True).start()
        except RuntimeError as error:  # too many threads
            log.error("Cannot connect to the daemon: %s", error)
            self._connecting_ended(Unavailable(_UNREACHABLE))

    def _connect_each(self, loop: EventLoop, count: int) -> None:
        """Open connections in a thread of its own."""
        error: KafkaHttpError | None = None
        try:
            for _ in range(count):
                if self._waiting:  # otherwise other calls have ended meanwhile, and left their connections
                    loop.call_soon(self._use, self._connect())
        except KafkaHttpError as raised:
            error = raised
        except Exception:
            log.exception("Unexpected error while connecting to the daemon")
            error = Unavailable(_UNREACHABLE)
        loop.call_soon(self._connecting_ended, error)

    def _use(self, channel: Channel) -> None:
        """Add a connection that was opened."""
        channel.settimeout(0)
        self._calls[channel] = None
        if self._loop is not None:
            self._loop.register(channel, EVENT_READ, self._on_event)
        self._reuse(channel)

    def _connecting_ended(self, error: KafkaHttpError | None) -> None:
        self._is_connecting = False
        if error is not None:
            self._fail_waiting(error)
        self._open_connections()


def _encode(call: Call, *arguments: Any) -> bytes:
    return msgspec.msgpack.encode(call.request(request_id.get(), *arguments))


class _LoopCall(DoneCallbacks):
    """The `PendingCall` of a `LoopCalls`."""

    __slots__ = ("_call", "_calls", "_error", "is_abandoned", "is_repeated", "message", "value")

    def __init__(self, calls: LoopCalls, call: Call, message: bytes) -> None:
        super().__init__()
        self._calls = calls
        self._call = call
        self._error: KafkaHttpError | None = None
        self.message = message
        self.value: Any = None
        self.is_abandoned = False
        self.is_repeated = False

    @property
    def name(self) -> str:
        return self._call.name

    def result(self, timeout: float | None = None) -> Any:
        """Return the result, or raise the error. Does not block: raises `NotResponding` if there is none yet."""
        if not self.is_done:
            raise NotResponding
        if self._error is not None:
            raise self._error
        return self.value

    def abandon(self) -> None:
        """Forget the call. No effect if it is done: who has its result releases the page."""
        if not self.is_done and not self.is_abandoned:
            self._calls.abandon(self)

    def decode(self, response: bytes) -> None:
        """Take the result from a response. Raises `msgspec.DecodeError`."""
        try:
            self.value = self._call.decode_result(response)
        except KafkaHttpError as error:
            self._error = error

    def fail(self, error: KafkaHttpError) -> None:
        """Complete the call with an error."""
        self._error = error
        self.complete()
