"""Which partitions a consumer instance has just now: by its group, or by hand."""

import time
from collections.abc import Callable, Collection, Sequence
from threading import Condition
from typing import Any

from kafka_http.broker_protocols import Membership
from kafka_http.consumers.offset_tracker import OffsetTracker
from kafka_http.consumers.read_lease import LeasedRead
from kafka_http.errors import KafkaHttpError, NotAuthorized, Unavailable
from kafka_http.records import Assignment, MembershipListener, ReleaseCallback, TopicPartition

Partitions = frozenset[TopicPartition]


class AssignmentState:
    """An instance's membership, and what it has brought it. Called with `changed` held, but for what it says."""

    def __init__(
        self,
        changed: Condition,
        bookmarks: OffsetTracker,
        pay_before: Callable[[ReleaseCallback], None],
        fenced: Callable[[], None],
    ) -> None:
        """`pay_before` calls a `ReleaseCallback` with the offsets to commit before partitions are revoked; it does not
        block. `fenced` is called when another process has joined under the same member id.
        """
        self._changed = changed
        self._bookmarks = bookmarks
        self._pay_before = pay_before
        self._fenced = fenced
        self._heard: object = None
        self._release: ReleaseCallback | None = None
        self._partitions: Partitions | None = None
        self._topics: frozenset[str] | None = None
        self._changing = False
        self.membership: Membership | None = None
        self.is_expecting = False
        """Whether it is subscribed, so that its group is to give it partitions."""
        self.failure: KafkaHttpError | None = None
        self.lent: LeasedRead | None = None

    @property
    def partitions(self) -> Partitions | None:
        """None while it has none, or none yet of the topics that it wants now."""
        if self._partitions is None or self._topics is None:
            return self._partitions
        wanted = frozenset(each for each in self._partitions if each.topic in self._topics)
        return None if self._changing and not wanted else wanted

    def want(self, topics: Sequence[str], join: Callable[[Sequence[str], MembershipListener], Membership]) -> None:
        """Be a member for these topics, at least one. `join` makes a new membership."""
        self._topics = frozenset(topics)
        self._changing = self.is_expecting = True
        if self.membership is not None:
            self.membership.subscribe(topics)
            return
        self._partitions = None
        self.membership = join(topics, self._listen())

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        """Have these partitions, by hand."""
        self._set(frozenset(partitions))

    def end(self) -> Membership | None:
        """Have nothing any more. What is returned is to be left or closed, without holding `changed`."""
        membership, self.membership, self._heard = self.membership, None, None
        if self._release is not None:
            self._release({})
        self._topics = self._release = self.failure = None
        self.is_expecting = False
        self._set(None)
        return membership

    def wait(self, until: float, *, some: bool = False) -> Partitions | None:
        """What the instance has, once its group has given it anything (with `some`: any partition), or after `until`.

        Raises what the group refuses it for.
        """
        while (there := self.partitions) is None or (some and not there):
            if isinstance(self.failure, NotAuthorized):
                raise self.failure
            left = until - time.monotonic()
            if left <= 0 or (there is None and self.membership is None):
                break
            self._changed.wait(left)
        if there is None and self.failure is not None:
            raise self.failure
        return there

    def settle(self, until: float) -> Partitions | None:
        """As `wait`, but raises `Unavailable` where an assignment is still to come."""
        there = self.wait(until)
        if there is None and self.is_expecting:
            raise Unavailable("The group has not given this consumer instance its partitions yet: try again.")
        return there

    def give_up(self) -> None:
        """Let go of partitions that the group wants back, unless a reader may still hand out records of them."""
        if self._release is not None and (self.lent is None or not self.lent.held):
            release, self._release = self._release, None
            self._pay_before(release)

    def _set(self, partitions: Partitions | None) -> None:
        self._partitions = partitions
        self._changed.notify_all()

    # What the membership says

    def _listen(self) -> MembershipListener:
        """For one membership: what it says after its end goes nowhere."""
        self._heard = mark = object()

        def heard(say: Callable[..., None], otherwise: Callable[..., None]) -> Callable[..., None]:
            def hear(*given: Any) -> None:
                with self._changed:
                    (say if self._heard is mark else otherwise)(*given)

            return hear

        def ignore(*_: Any) -> None: ...

        return MembershipListener(
            assigned=heard(self._assigned, ignore),
            revoking=heard(self._revoking, lambda release: release({})),
            lost=heard(self._lost, ignore),
            failed=heard(self._failed, ignore),
            fenced=heard(self._be_fenced, ignore),
        )

    def _assigned(self, assignment: Assignment) -> None:
        self._release = None
        self._bookmarks.keep_for(assignment)
        if self.lent is not None:
            self.lent.held &= set(self._bookmarks.positions)
        self.failure = None
        self._changing = False
        self._set(assignment.partitions)

    def _revoking(self, release: ReleaseCallback) -> None:
        self._release = release
        self._set(None)
        self.give_up()

    def _lost(self) -> None:
        self._release = None
        self._set(None)

    def _failed(self, error: KafkaHttpError) -> None:
        self.failure = error
        self._changed.notify_all()

    def _be_fenced(self) -> None:
        self.membership = None
        self._set(None)
        self._fenced()
