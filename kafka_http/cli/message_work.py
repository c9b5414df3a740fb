"""The work on one message of a queue: run the command, and settle the message by its exit status."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from kafka_http.backoff import Backoff
from kafka_http.cli.client_output import note
from kafka_http.cli.client_queue import LEASE_LOST, AcquiredMessage, WorkQueue
from kafka_http.cli.client_requests import RequestError
from kafka_http.cli.lease_renewal import LeaseRenewal
from kafka_http.cli.message_command import MessageCommand, cannot_run, status_text

_MIN_ATTEMPTS = 2
"""The least number of attempts that a queue can have."""
T = TypeVar("T")


class WorkReport:
    """Counts messages. Any thread may call."""

    def __init__(self, advance: Callable[[int], object] = lambda _: None) -> None:
        """`advance` is called with 1 for each message that is acknowledged or rejected."""
        self.acknowledged = self.given_back = self.rejected = self.unsettled = 0
        self._advance = advance
        self._lock = threading.Lock()

    def add(self, *, acknowledged: int = 0, given_back: int = 0, rejected: int = 0, unsettled: int = 0) -> None:
        """Add to the counts."""
        with self._lock:
            self.acknowledged += acknowledged
            self.given_back += given_back
            self.rejected += rejected
            self.unsettled += unsettled
            self._advance(acknowledged + rejected)

    @property
    def has_messages(self) -> bool:
        return bool(self.acknowledged or self.given_back or self.rejected or self.unsettled)

    def __str__(self) -> str:
        counts = {"given back": self.given_back, "rejected": self.rejected, "not noted": self.unsettled}
        others = "".join(f", {name}: {count}" for name, count in counts.items() if count)
        return f"Messages acknowledged: {self.acknowledged}{others}."


class MessageWork:
    """Works on messages. Any thread may call.

    A command that fails gives its message back, so that it is delivered again `retry_delay` seconds later. After the
    last attempt the message is rejected.
    """

    def __init__(self, queue: WorkQueue, command: MessageCommand, retry_delay: float, report: WorkReport) -> None:
        self.renewal = LeaseRenewal(queue)
        self._queue = queue
        self._command = command
        self._retry_delay = retry_delay
        self._report = report
        self._killed = threading.Event()

    def kill(self) -> None:
        """Kill the commands, give back their messages, and try nothing twice."""
        self._killed.set()
        self._command.kill_all()

    def process(self, message: AcquiredMessage) -> None:
        """Run the command for a message whose lease is in `renewal`, and settle it.

        Raises `RequestError` if the shell cannot run the command, because it could not for any other message.
        """
        status, said = self._run(message)
        try:
            if not self.renewal.remove(message.lease):
                raise RequestError("Its lock has ended, so that it is delivered again.", code=LEASE_LOST)
            self._settle(message, status, said)
        except RequestError as error:
            self._report.add(unsettled=1)
            again = "" if error.code == LEASE_LOST else " It is delivered again when its lock ends."
            _note(message, f"{said}, but the server did not note it: {error}{again}")
        if cannot_run(status):
            raise RequestError(f"The shell cannot run the command (exit status {status}). Check --exec.", 400)

    def _run(self, message: AcquiredMessage) -> tuple[int, str]:
        """Run the command. Return its exit status, and what it did as a predicate."""
        try:
            status = self._command.run(message)
        except OSError as error:  # such as variables that are too long
            return 1, f"could not be started ({error.strerror})"
        return status, status_text(status)

    def _settle(self, message: AcquiredMessage, status: int, said: str) -> None:
        lease = message.lease
        if status == 0:
            self._retried(lambda: self._queue.acknowledge(lease))
            self._report.add(acknowledged=1)
        elif self._killed.is_set():
            self._queue.extend(lease, 0)
            self._report.add(given_back=1)
        elif not cannot_run(status) and self._is_last(message):
            self._retried(lambda: self._queue.reject(lease))
            self._report.add(rejected=1)
            _note(message, f"{said}. This was the last attempt, so the message {self._queue.fate}.")
        else:
            self._retried(lambda: self._queue.extend(lease, self._retry_delay))
            self._report.add(given_back=1)
            _note(message, f"{said}. The message is delivered again in {self._retry_delay:g} s.")

    def _is_last(self, message: AcquiredMessage) -> bool:
        if message.attempt < _MIN_ATTEMPTS:
            return False
        return message.attempt >= self._retried(self._queue.attempts)

    def _retried(self, call: Callable[[], T]) -> T:
        """Make a call, again for as long as the lock may last. Raises the last `RequestError`."""
        end = time.monotonic() + self._queue.lock
        backoff = Backoff(0.2, 5.0)
        while True:
            try:
                return call()
            except RequestError as error:
                delay = max(backoff.next(), error.retry_after or 0.0)
                if not error.may_pass or time.monotonic() + delay > end or self._killed.wait(delay):
                    raise


def _note(message: AcquiredMessage, text: str) -> None:
    note(f"Message {message.partition}:{message.offset}, attempt {message.attempt}: the command {text}")
