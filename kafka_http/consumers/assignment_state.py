"""The partitions that a consumer instance has now: those that its group assigned, or a manual assignment."""

import time
from collections.abc import Callable, Collection, Sequence
from threading import Condition
from typing import Any

from kafka_http.broker_protocols import Membership
from kafka_http.consumers.offset_tracker import OffsetTracker
from kafka_http.consumers.read_lease import ActiveLease
from kafka_http.errors import KafkaHttpError, NotAuthorized, Unavailable
from kafka_http.records import Assignment, MembershipListener, ReleaseCallback, TopicPartition

Partitions = frozenset[TopicPartition]


class AssignmentState:
    """The group membership of an instance and its partitions.

    The instance creates it. The condition `changed` is locked in all calls; the callbacks of the membership lock it
    themselves.
    """

    def __init__(
        self,
        changed: Condition,
        offsets: OffsetTracker,
        on_fenced: Callable[[], None],
    ) -> None:
        """`on_fenced` is called when another process has joined with the same member id."""
        self._changed = changed
        self._offsets = offsets
        self.commit_and_release: Callable[[ReleaseCallback], None] = lambda release: release({})
        """Calls a `ReleaseCallback` with the offsets to commit. It does not block."""
        self._on_fenced = on_fenced
        self._listening: object = None
        self._release: ReleaseCallback | None = None
        self._partitions: Partitions | None = None
        self._topics: frozenset[str] | None = None
        self._is_changing = False
        self.membership: Membership | None = None
        self.expects_assignment = False
        """Whether the group will assign partitions."""
        self.failure: KafkaHttpError | None = None
        self.lease: ActiveLease | None = None

    @property
    def partitions(self) -> Partitions | None:
        """The partitions, or None while there is no assignment for the current subscription."""
        if self._partitions is None or self._topics is None:
            return self._partitions
        wanted = frozenset(each for each in self._partitions if each.topic in self._topics)
        return None if self._is_changing and not wanted else wanted

    def subscribe(self, topics: Sequence[str], join: Callable[[Sequence[str], MembershipListener], Membership]) -> None:
        """Subscribe to topics, at least one. `join` creates a new membership."""
        self._topics = frozenset(topics)
        self._is_changing = self.expects_assignment = True
        if self.membership is not None:
            self.membership.subscribe(topics)
            return
        self._partitions = None
        self.membership = join(topics, self._new_listener())

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        """Assign partitions manually."""
        self._set(frozenset(partitions))

    def clear(self) -> Membership | None:
        """Drop the subscription or assignment.

        Returns the membership. The caller leaves or closes it, without the lock on `changed`.
        """
        membership, self.membership, self._listening = self.membership, None, None
        if self._release is not None:
            self._release({})
        self._topics = self._release = self.failure = None
        self.expects_assignment = False
        self._set(None)
        return membership

    def wait(self, until: float, *, non_empty: bool = False) -> Partitions | None:
        """Wait for an assignment (`non_empty`: of at least one partition) and return it, or None after `until`.

        Raises the error if the group refuses the member.
        """
        while (partitions := self.partitions) is None or (non_empty and not partitions):
            if isinstance(self.failure, NotAuthorized):  # no retry will help, so do not wait
                raise self.failure
            left = until - time.monotonic()
            if left <= 0 or (partitions is None and self.membership is None):
                break
            self._changed.wait(left)
        if partitions is None and self.failure is not None:
            raise self.failure
        return partitions

    def require(self, until: float) -> Partitions | None:
        """Like `wait`, but raise `Unavailable` if the group has not assigned partitions until then."""
        partitions = self.wait(until)
        if partitions is None and self.expects_assignment:
            raise Unavailable("The group has not assigned partitions to this consumer instance yet, try again.")
        return partitions

    def release_revoked(self) -> None:
        """Release partitions that the group has revoked, unless a reader may still deliver records of them."""
        if self._release is not None and (self.lease is None or not self.lease.held):
            release, self._release = self._release, None
            self.commit_and_release(release)

    def _set(self, partitions: Partitions | None) -> None:
        self._partitions = partitions
        self._changed.notify_all()

    # Callbacks of the membership

    def _new_listener(self) -> MembershipListener:
        """Return the listener of a new membership. Callbacks of an earlier membership are ignored."""
        self._listening = current = object()

        def locked(callback: Callable[..., None], otherwise: Callable[..., None]) -> Callable[..., None]:
            def call(*args: Any) -> None:
                with self._changed:
                    (callback if self._listening is current else otherwise)(*args)

            return call

        def ignore(*_: Any) -> None: ...

        return MembershipListener(
            assigned=locked(self._assigned, ignore),
            revoking=locked(self._revoking, lambda release: release({})),
            lost=locked(self._lost, ignore),
            failed=locked(self._failed, ignore),
            fenced=locked(self._fenced, ignore),
        )

    def _assigned(self, assignment: Assignment) -> None:
        self._release = None
        self._offsets.assigned(assignment)
        if self.lease is not None:
            self.lease.held &= set(self._offsets.positions)
        self.failure = None
        self._is_changing = False
        self._set(assignment.partitions)

    def _revoking(self, release: ReleaseCallback) -> None:
        self._release = release
        self._set(None)
        self.release_revoked()

    def _lost(self) -> None:
        self._release = None
        self._set(None)

    def _failed(self, error: KafkaHttpError) -> None:
        self.failure = error
        self._changed.notify_all()

    def _fenced(self) -> None:
        self.membership = None
        self._set(None)
        self._on_fenced()
