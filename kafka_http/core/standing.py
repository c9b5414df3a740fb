"""Which partitions a consumer instance has just now: by its group, or by hand."""

import time
from collections.abc import Callable, Collection, Sequence
from threading import Condition

from kafka_http.core.bookmarks import Bookmarks
from kafka_http.core.lending import Lent
from kafka_http.core.membership import Assignment, Commits, Membership, MembershipListener, Release
from kafka_http.errors import KafkaHttpError, NotAuthorized
from kafka_http.records import TopicPartition

Partitions = frozenset[TopicPartition]


class Standing:
    """An instance's membership, and what it has brought it. Called with `changed` held, but for what it says."""

    def __init__(
        self, changed: Condition, bookmarks: Bookmarks, owed: Callable[[], Commits], fenced: Callable[[], None]
    ) -> None:
        """`owed` is what to commit before partitions go; `fenced` is called where another process took the id over."""
        self._changed = changed
        self._bookmarks = bookmarks
        self._owed = owed
        self._fenced = fenced
        self._listener: _Listener | None = None
        self._release: Release | None = None
        self._partitions: Partitions | None = None
        self._topics: frozenset[str] | None = None
        self._changing = False
        self.membership: Membership | None = None
        self.failure: KafkaHttpError | None = None
        self.lent: Lent | None = None

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
        self._changing = True
        if self.membership is not None:
            self.membership.subscribe(topics)
            return
        self._partitions = None
        self._listener = _Listener(self)
        self.membership = join(topics, self._listener)

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        """Have these partitions, by hand."""
        self._set(frozenset(partitions))

    def end(self) -> Membership | None:
        """Have nothing any more. What is returned is to be left or closed, without holding `changed`."""
        membership, self.membership, self._listener = self.membership, None, None
        if self._release is not None:
            self._release({})
        self._topics = self._release = self.failure = None
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

    def give_up(self) -> None:
        """Let go of partitions that the group wants back, unless a reader may still hand out records of them."""
        if self._release is not None and (self.lent is None or not self.lent.held):
            release, self._release = self._release, None
            release(self._owed())

    def _set(self, partitions: Partitions | None) -> None:
        self._partitions = partitions
        self._changed.notify_all()

    # What the membership says, through its listener

    def assigned(self, assignment: Assignment) -> None:
        self._release = None
        self._bookmarks.keep_for(assignment)
        if self.lent is not None:
            self.lent.held &= set(self._bookmarks.positions)
        self.failure = None
        self._changing = False
        self._set(assignment.partitions)

    def revoking(self, release: Release) -> None:
        self._release = release
        self._set(None)
        self.give_up()

    def lost(self) -> None:
        self._release = None
        self._set(None)

    def failed(self, error: KafkaHttpError) -> None:
        self.failure = error
        self._changed.notify_all()

    def fenced(self) -> None:
        self.membership = None
        self._set(None)
        self._fenced()

    def hear(self, listener: "_Listener", say: Callable[[], None]) -> None:
        """Take what a listener says, unless its membership has ended."""
        with self._changed:
            if listener is self._listener:
                say()


class _Listener:
    """Of one membership: what it says after its end goes nowhere."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing

    def assigned(self, assignment: Assignment) -> None:
        self._standing.hear(self, lambda: self._standing.assigned(assignment))

    def revoking(self, release: Release) -> None:
        def say() -> None:
            heard.append(True)
            self._standing.revoking(release)

        heard: list[bool] = []
        self._standing.hear(self, say)
        if not heard:
            release({})

    def lost(self) -> None:
        self._standing.hear(self, self._standing.lost)

    def failed(self, error: KafkaHttpError) -> None:
        self._standing.hear(self, lambda: self._standing.failed(error))

    def fenced(self) -> None:
        self._standing.hear(self, self._standing.fenced)
