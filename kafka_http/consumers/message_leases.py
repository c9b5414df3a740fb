"""The results of calls that settle messages by their leases."""

from collections.abc import Callable, Iterable, Sequence

from kafka_http.consumers.queue_service import ErrorEntry, LeaseResult
from kafka_http.errors import KafkaHttpError, OutcomeUnknown
from kafka_http.pending import DoneCallbacks

_UNANSWERED = OutcomeUnknown("Kafka did not acknowledge this in time. It may have been done. Retry.")


class LeaseCall(DoneCallbacks):
    """A call for several leases, and its results: a `PendingCall`.

    The queue's lock guards the methods that note results. Any thread may call the others.
    """

    __slots__ = ("_leases", "_missing", "_on_all", "_results", "_wall_time")

    def __init__(
        self, leases: Sequence[str], wall_time: Callable[[float], int], on_all: Callable[["LeaseCall"], None]
    ) -> None:
        """`wall_time` converts a time of the queue's clock to milliseconds since 1970.

        `on_all` is called when all results are there, under the queue's lock. `complete` must follow without it.
        """
        super().__init__()
        self._leases = leases
        self._wall_time = wall_time
        self._on_all = on_all
        self._missing = set(leases)
        self.is_done = not leases
        self._results: dict[str, LeaseResult] = {}

    @property
    def leases(self) -> Iterable[str]:
        """The leases, each once."""
        return dict.fromkeys(self._leases)

    def end(self, lease: str) -> None:
        """Note that the message of a lease is settled."""
        self._set(LeaseResult(lease, acknowledged=True))

    def extend(self, lease: str, until: float) -> None:
        """Note that a lease lasts until this time."""
        self._set(LeaseResult(lease, locked_until=self._wall_time(until)))

    def fail(self, lease: str, error: KafkaHttpError) -> None:
        """Set the error of a lease."""
        self._set(failed_result(lease, error))

    def result(self, timeout: float | None = None) -> list[LeaseResult]:
        """Wait, and return the results in the order of the leases. One that is missing is an error."""
        self.wait(timeout)
        results = self._results
        return [results.get(each) or failed_result(each, _UNANSWERED) for each in self._leases]

    def abandon(self) -> None:
        """Do nothing: what was sent to Kafka cannot be taken back."""

    def _set(self, result: LeaseResult) -> None:
        self._results[result.lease] = result
        if self._missing:
            self._missing.discard(result.lease)
            if not self._missing:
                self._on_all(self)


def failed_result(lease: str, error: KafkaHttpError) -> LeaseResult:
    """Return the result of a lease with an error."""
    return LeaseResult(lease, error=ErrorEntry(error.code, error.message))
