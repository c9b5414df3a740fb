"""What a consumer instance commits: what it is told to, and what auto commit owes."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Condition, Lock
from typing import NamedTuple

from kafka_http.core.bookmarks import Bookmarks
from kafka_http.core.broker import Groups
from kafka_http.core.lending import Lending
from kafka_http.core.standing import Standing
from kafka_http.errors import KafkaHttpError, RetriableBrokerError
from kafka_http.records import Commits, CommittedOffset, Definition, Place, TopicPartition

_log = logging.getLogger(__name__)

AUTO_COMMIT_SECONDS = 4.5
"""From the delivery on: with a call each half second, what was delivered is committed within five seconds."""
_TIMEOUT = 5.0
_AUTO_COMMIT_TIMEOUT = 1.0
_PAUSE = 0.1


class Parts(NamedTuple):
    """What an instance consists of, and the condition that is held to look at it."""

    changed: Condition
    standing: Standing
    lending: Lending
    bookmarks: Bookmarks


class Committer:
    """Commits for one instance, one commit after the other. Any thread may call, none while it holds `changed`, but
    for `owed` and `note_debt`."""

    def __init__(
        self,
        definition: Definition,
        groups: Groups,
        parts: Parts,
        save: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`save` is called after each commit; `clock` says when auto commit is due."""
        self._group = definition.group
        self._is_automatic = definition.settings.auto_commit
        self._groups = groups
        self._changed, self._standing, self._lending, self._bookmarks = parts
        self._save = save
        self._clock = clock
        self._turn = Lock()
        self._owing_since: float | None = None

    def commit(self, places: Sequence[Place] | None, until: float) -> None:
        """Commit behind these records, or (None) what was delivered; again and again while the group is sharing out its
        partitions, `until` then of the monotonic clock."""
        while True:
            try:
                self._commit(self._wanted(places, until), _TIMEOUT)
                return
            except RetriableBrokerError:
                if time.monotonic() + _PAUSE > until:
                    raise
                with self._changed:
                    self._changed.wait(_PAUSE)

    def owed(self) -> Commits:
        """What auto commit owes."""
        return _commits(self._bookmarks.owed()) if self._is_automatic else {}

    def note_debt(self) -> None:
        """Something was delivered."""
        if self._owing_since is None and self._bookmarks.owed():
            self._owing_since = self._clock()

    def auto_commit(self) -> None:
        """Commit what is owed where that is due."""
        if self._owing_since is None or self._clock() - self._owing_since < AUTO_COMMIT_SECONDS:
            return
        with self._changed:
            offsets = self.owed() if self._standing.partitions is not None else {}
            self._owing_since = self._clock() - AUTO_COMMIT_SECONDS + _AUTO_COMMIT_TIMEOUT  # should this one fail
        with self._warning():
            self._commit(offsets, _AUTO_COMMIT_TIMEOUT)

    def pay(self) -> None:
        """Commit what is owed before the partitions go for good."""
        if not self._is_automatic:
            return
        with self._changed:
            self._lending.settle()
            offsets = self.owed()
        if offsets:
            with self._warning():
                self.commit(None, time.monotonic() + _TIMEOUT)

    def _wanted(self, places: Sequence[Place] | None, until: float) -> Commits:
        with self._changed:
            if places is None:
                self._lending.settle()
            self._standing.settle(until)
            if places is None:
                return _commits(self._bookmarks.delivered)
        return {TopicPartition(p.topic, p.partition): CommittedOffset(p.offset + 1, p.metadata) for p in places}

    def _commit(self, offsets: Commits, timeout: float) -> None:
        if not offsets:
            return
        with self._turn:
            if (membership := self._standing.membership) is not None:
                membership.commit(offsets, timeout)
            else:
                self._groups.commit_offsets(self._group, offsets)
            with self._changed:
                self._bookmarks.paid({place: at.offset for place, at in offsets.items()})
                self._owing_since = self._clock() if self._bookmarks.owed() else None
        self._save()

    @contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except KafkaHttpError as error:
            _log.warning("Auto commit for the group %s: %s", self._group, error.message)


def _commits(offsets: Mapping[TopicPartition, int]) -> Commits:
    return {place: CommittedOffset(at) for place, at in offsets.items()}
