"""The calls of a queue: acquire messages, settle their leases, look at the queue, delete it.

A queue is a share group that this server reads for its clients, one for each topic and consumer name. A node has one
member of the group, and the leases of the messages that it has acquired. Times are in seconds, `locked_until` is in
milliseconds since 1970 (UTC).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from msgspec import Struct

from kafka_http.consumers.instance_service import RemoteNode
from kafka_http.records import Record

MIN_LOCK, DEFAULT_LOCK, MAX_LOCK = 1.0, 30.0, 12 * 3600.0
"""Seconds that a client may lock a message for."""
MAX_MESSAGES = 500
"""The most messages of one page."""
MAX_PAGE_BYTES = 16 << 20
"""The most bytes of keys and values of one page, which crosses the daemon's socket. One message may be larger."""


class QueueName(NamedTuple):
    """A queue: its topic and its consumer, which is the name of the share group."""

    topic: str
    consumer: str


class QueueMessage(Struct, frozen=True, gc=False):
    """An acquired message. `attempt` counts its deliveries from 1."""

    record: Record
    lease: str
    attempt: int
    locked_until: int


class BlockedPartition(Struct, frozen=True):
    """A partition without further messages until the one at `offset` is settled: Kafka's window of locks is full."""

    partition: int
    offset: int
    lease: str


class QueuePage(Struct, frozen=True):
    """Messages of a queue. `id` names the page in `confirm_pages`.

    `warnings` are sentences for the client: for example that the queue starts at the end of the topic.
    """

    id: str
    messages: Sequence[QueueMessage] = ()
    blocked: Sequence[BlockedPartition] = ()
    warnings: Sequence[str] = ()


class ErrorEntry(Struct, frozen=True):
    """The error of one lease: its code and message as in an error response."""

    code: int
    message: str


class LeaseResult(Struct, frozen=True, omit_defaults=True):
    """The result for one lease: what was done, or the error. One of the three is set."""

    lease: str
    acknowledged: bool | None = None
    """True for an acknowledged, rejected or released message."""
    locked_until: int | None = None
    error: ErrorEntry | None = None


class QueuePartition(Struct, frozen=True):
    """A partition of a queue. The first message that is not settled is at `start`, which Kafka keeps; -1: unknown."""

    partition: int
    start: int
    end: int
    lag: int


class HeldLease(Struct, frozen=True):
    """A lease that a client of this node holds."""

    lease: str
    attempt: int
    locked_until: int


class LockLimits(Struct, frozen=True):
    """The limits of the parameter `lock` in seconds."""

    default: int = int(DEFAULT_LOCK)
    min: int = int(MIN_LOCK)
    max: int = int(MAX_LOCK)


class QueueState(Struct, frozen=True):
    """What is known of a queue. `held` are the leases of this node."""

    topic: str
    consumer: str
    attempts: int
    lock: LockLimits
    partitions: Sequence[QueuePartition]
    held: Sequence[HeldLease]


Settlement = Literal["acknowledge", "reject", "release", "extend"]


class QueueService(Protocol):
    """The queues of a node: in its daemon, or in the server itself. Any thread may call; all methods may block.

    Raises `QueuesUnsupported`, `WrongGroupType`, `TopicNotFound`, `NotAuthorized`, `BrokerUnavailable`, `Unavailable`.
    """

    def acquire_messages(self, queue: QueueName, limit: int, wait: float, lock: float, dead: str = "") -> QueuePage:
        """Acquire up to `limit` messages for `lock` seconds. Wait up to `wait` if there are none.

        A page has at most `MAX_PAGE_BYTES`, but one message of any size.
        The first call makes the queue. With `dead`, a message is published to that topic before it is dropped or
        rejected. Confirm the page when it was sent.
        """

    def confirm_pages(self, pages: Sequence[str]) -> None:
        """Note that pages were sent to their clients. The pages of a worker that ends without this are released."""

    def release_page(self, page: str) -> None:
        """Release the messages of a page that was not sent. No effect if it was confirmed."""

    def settle_messages(
        self, queue: QueueName, leases: Sequence[str], settlement: Settlement, lock: float = 0
    ) -> list[LeaseResult]:
        """Settle messages by the leases of this node, in order, or extend their locks to `lock` seconds from now.

        Kafka has noted what was done. A lease that is not held here has the error `LeaseLost`.
        """

    def queue_state(self, queue: QueueName) -> QueueState:
        """Return the state of a queue. Raises `GroupNotFound` if it never was."""

    def leave_queue(self, queue: QueueName) -> None:
        """Leave the group on this node, before the queue is deleted. Raises `QueueInUse` if messages are held here."""

    def delete_queue(self, queue: QueueName) -> None:
        """Delete the offsets of a queue that all nodes have left, and the group with its last topic.

        Raises `GroupNotFound`, and `QueueInUse` if messages are held here.
        """


class PendingCall(Protocol):
    """The result of a call that a `LoopQueues` has started. Only the loop's thread calls."""

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the result is there, in the loop's thread."""

    def result(self, timeout: float | None = None) -> Any:
        """Return the result, or raise the error of the call. `Unavailable` if it is not there yet. Does not block."""

    def abandon(self) -> None:
        """Forget the call: it was not done in time. The messages of a page that arrives later are released.

        Callbacks are not called any more. No effect on a call that is done.
        """


class LoopQueues(Protocol):
    """The calls of `QueueService` that a main loop makes without a thread. Only the loop's thread calls.

    Nothing blocks. The methods raise `Unavailable` at once if the daemon is known not to respond, and `WouldBlock` if
    too many calls are under way: then a thread can make the call.
    """

    def start_acquire(self, queue: QueueName, limit: int, wait: float, lock: float, dead: str = "") -> PendingCall:
        """Start `QueueService.acquire_messages`. The result is its page."""

    def start_settle(
        self, queue: QueueName, leases: Sequence[str], settlement: Settlement, lock: float = 0
    ) -> PendingCall:
        """Start `QueueService.settle_messages`. The result is its list."""


class QueueLocator(Protocol):
    """Finds the nodes of leases, if nodes share a store. Any thread may call."""

    def queue_node(self) -> str:
        """Return the name of this node in its leases. It does not change."""

    def live_nodes(self) -> Mapping[str, RemoteNode]:
        """Return the other nodes that run, by their names in leases. Raises `Unavailable`."""
