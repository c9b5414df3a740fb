"""The results of calls that settle messages by their leases."""

from collections.abc import Callable, Iterable, Sequence
from threading import Event

from kafka_http.consumers.queue_service import ErrorEntry, LeaseResult
from kafka_http.errors import KafkaHttpError, OutcomeUnknown

_UNANSWERED = OutcomeUnknown("Kafka did not acknowledge this in time. It may have been done. Retry.")


class LeaseCall:
    """A call for several leases, and its results. The queue's lock guards all methods but `wait`."""

    def __init__(self, leases: Sequence[str], wall_time: Callable[[float], int]) -> None:
        """`wall_time` converts a time of the queue's clock to milliseconds since 1970."""
        self._leases = leases
        self._wall_time = wall_time
        self._missing = set(leases)
        self._results: dict[str, LeaseResult] = {}
        self._done = Event()

    @property
    def leases(self) -> Iterable[str]:
        """The leases, each once."""
        return dict.fromkeys(self._leases)

    @property
    def is_done(self) -> bool:
        """Whether all results are there."""
        return not self._missing

    def end(self, lease: str) -> None:
        """Note that the message of a lease is settled."""
        self._set(LeaseResult(lease, acknowledged=True))

    def extend(self, lease: str, until: float) -> None:
        """Note that a lease lasts until this time."""
        self._set(LeaseResult(lease, locked_until=self._wall_time(until)))

    def fail(self, lease: str, error: KafkaHttpError) -> None:
        """Set the error of a lease."""
        self._set(failed_result(lease, error))

    def wait(self, timeout: float) -> list[LeaseResult]:
        """Return the results in the order of the leases. One that is missing after `timeout` seconds is an error."""
        if not self.is_done:
            self._done.wait(timeout)
        results = self._results
        return [results.get(each) or failed_result(each, _UNANSWERED) for each in self._leases]

    def _set(self, result: LeaseResult) -> None:
        self._results[result.lease] = result
        self._missing.discard(result.lease)
        if not self._missing:
            self._done.set()


def failed_result(lease: str, error: KafkaHttpError) -> LeaseResult:
    """Return the result of a lease with an error."""
    return LeaseResult(lease, error=ErrorEntry(error.code, error.message))
